"""How far a right result may lie from the reference.

The guarantee: a program whose sums are as good as those of a good order of summation in the kernel's own precision is
never refused, and the allowance never exceeds a share of the output's largest value that is fixed for each precision.
What a good order achieves is measured on the very inputs (`programs.in_good_order`), not estimated from lengths; a
factor leaves room for other orders, a floor for what is not measurable by one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.records import Record
from reasoning_compiler.workload.primfunc import blocks
from reasoning_compiler.workload.workload import numpy_dtype

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

# What orders of summation differ by: each thread's and lane's share of a sum, added up one after the other, is the
# worst that schedules do, and it is this many times as far off as partial sums in levels are.
_ROOM = 16.0
_MOST_OFF_BY_ONE = 0.1
_LONG_SUM = 16
# The smallest normal number of bfloat16, float32 and float64 lies below; those of float16 and 8-bit floats do not.
_NEGLIGIBLE = 1e-30


@dataclass(frozen=True)
class _Limits:
    """Bounds of the allowance, as shares of the largest value of an output.

    Args:
        floor: the least where nothing is summed up.
        floor_of_sums: the least where sums are long: what one order or another may be off by.
        cap: the most.
    """

    floor: float
    floor_of_sums: float
    cap: float


_LIMITS = {
    "float64": _Limits(2**-48, 2**-44, 2**-36),
    "float32": _Limits(2**-19, 2**-14, 2**-10),
    "float16": _Limits(2**-8, 2**-6, 2**-5),
    "bfloat16": _Limits(2**-6, 2**-4, 2**-3),
}
_LIMITS_OF_8_BITS = _Limits(2**-2, 2**-2, 2**-2)


@dataclass(frozen=True)
class Precision:
    """What a kernel computes in.

    Args:
        dtype: the least precise float in which it adds, multiplies or keeps what is not yet its output; "" where it
            computes in integers alone, which must be exact.
        longest_sum: terms of its longest sum.
        least: an absolute difference that no right result need stay below: near zero precision is absolute, and some
            processors flush the terms of a sum to zero there.
    """

    dtype: str
    longest_sum: int
    least: float

    @classmethod
    def of(cls, func: PrimFunc, arguments: Sequence[Argument]) -> Precision:
        """Returns what a PrimFunc computes in."""
        found = blocks(func)
        used = {dtype for block in found for dtype in block.arithmetic}
        used |= {dtype for block in found if not block.writes for dtype in block.casts}
        floats = {dtype for dtype in used if _is_float(dtype)}
        longest = max((block.reduction_length for block in found), default=1)
        of_terms = max((_least(dtype) for dtype in floats), default=0.0) * longest
        of_outputs = max((_least(a.dtype) for a in arguments if a.role == "output"), default=0.0)
        return cls(max(floats, key=_eps, default=""), longest, of_terms + of_outputs)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the most that a result may be off by, as shares of the output's largest value."""
        if not self.dtype:
            return 0.0, 0.0
        limits = _LIMITS.get(self.dtype, _LIMITS_OF_8_BITS)
        return limits.floor_of_sums if self.longest_sum >= _LONG_SUM else limits.floor, limits.cap


@dataclass(frozen=True)
class Tolerance(Record):
    """A value y agrees with what is expected, e, if |y - e| <= rtol * |e| + atol * max |e| + least.

    The maximum is that of the output's finite values.

    Args:
        rtol: twice the distance from 1 to the next number in the output's dtype: the result itself is rounded.
        atol: see the module.
        least: see `Precision`.
        off_by_one: the share of an integer output's elements that may be one off, since they were rounded.
    """

    rtol: float
    atol: float
    least: float = 0.0
    off_by_one: float = 0.0

    @classmethod
    def measured(
        cls, precision: Precision, exact: Sequence[np.ndarray], good: Sequence[np.ndarray], dtypes: Sequence[str]
    ) -> Tolerance:
        """Returns what is allowed, from what a good order achieves.

        Args:
            precision: of the kernel.
            exact: its outputs in float64.
            good: its outputs in a good order of summation in its own precision.
            dtypes: those of the outputs, as the kernel has them.
        """
        rtol = 2 * max((_eps(dtype) for dtype in dtypes if _is_float(dtype)), default=0.0)
        if not precision.dtype:
            return cls(rtol, 0.0)
        floor, cap = precision.limits
        off, rounded = 0.0, 0.0
        for e, y, dtype in zip(exact, good, dtypes, strict=True):
            if _is_float(dtype):
                off = max(off, share_off(e, y, rtol=rtol, least=precision.least))
            elif e.size:
                rounded = max(rounded, _ROOM * off_by(e, y, 1), 1 / e.size)
        return cls(rtol, min(cap, max(floor, _ROOM * off)), precision.least, min(_MOST_OFF_BY_ONE, rounded))


EXACT = Tolerance(0.0, 0.0)
"""For outputs that are the same in every order of summation."""


def share_off(exact: np.ndarray, good: np.ndarray, *, rtol: float, least: float) -> float:
    """Returns by how much `good` is off beyond `rtol` and `least`, as a share of the largest value.

    It is infinite where NaN or Inf came out of numbers that are finite.
    """
    exact, good = exact.astype(np.float64), good.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.isfinite(good[finite]).all():
        return math.inf
    scale = np.abs(exact[finite]).max(initial=0.0)
    beyond = np.abs(exact[finite] - good[finite]) - rtol * np.abs(exact[finite]) - least
    return float(beyond.max(initial=0.0) / scale) if scale else 0.0


def off_by(exact: np.ndarray, good: np.ndarray, difference: int) -> float:
    """Returns the share of elements of an integer output that differ by just so much."""
    return float((np.abs(exact.astype(np.float64) - good.astype(np.float64)) == difference).mean())


def _is_float(dtype: str) -> bool:
    return numpy_dtype(dtype).kind not in "biu"


def _least(dtype: str) -> float:
    """The smallest normal number of a float's wide types, the smallest denormal one of its narrow types."""
    if not _is_float(dtype):
        return 0.0
    info = ml_dtypes.finfo(numpy_dtype(dtype))
    return float(info.tiny if float(info.tiny) < _NEGLIGIBLE else info.smallest_subnormal)


def _eps(dtype: str) -> float:
    """The distance from 1 to the next number."""
    return float(ml_dtypes.finfo(numpy_dtype(dtype)).eps)

"""The workload: one tensor program to tune, its arguments, its work, and what it should compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.rng import stream
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.workload.primfunc import blocks

if TYPE_CHECKING:
    from tvm import IRModule

# The smallest normal number of bfloat16, float32 and float64 lies below; those of float16 and 8-bit floats do not.
_NEGLIGIBLE = 1e-30

Reference = Callable[[list[np.ndarray]], list[np.ndarray]]
Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Workload:
    """One tensor program to tune.

    Args:
        name: what people call it, as "llama3-attention".
        mod: a module with one PrimFunc, `main`; its attribute `layout_free_buffers` lists the constant weights.
        arguments: the PrimFunc's arguments in order.
        flops: floating-point operations of one run, 0 where they are not known.
        reference: computes the outputs from the other arguments, without TVM; None where there is none, and the
            untuned program is what results are compared with.
        spec: text that `parse` makes the same workload from, as "llama3-attention[seq_len=512]" or
            "/home/me/kernels.py:my_matmul"; empty for a program that was given as an object.
        doc: one line for people.
        draws: by name of an argument, what draws its values, where not all random ones have a meaning, as for indices.
    """

    name: str
    mod: IRModule
    arguments: tuple[Argument, ...]
    flops: int
    reference: Reference | None
    spec: str
    doc: str = ""
    draws: Mapping[str, Draw] = field(default_factory=dict, hash=False)

    @property
    def bytes(self) -> int:
        """The bytes of all arguments: what any program must at least move between memory and cores."""
        return sum(math.prod(a.shape) * numpy_dtype(a.dtype).itemsize for a in self.arguments)

    @cached_property
    def key(self) -> str:
        """The structural hash of the module: 16 hexadecimal digits, the same in every process."""
        import_tvm()
        import tvm_ffi

        return f"{tvm_ffi.structural_hash(self.mod) & (2**64 - 1):016x}"

    def make_inputs(self, seed: int) -> list[np.ndarray]:
        """Returns random values for every argument that is not an output, in order.

        Floats are uniform around 0 with variance 1, weights divided by the square root of their last-but-one extent,
        so that results stay near 1. 8-bit integers use their whole range, but for -128. Wider ones may be indices: they
        are at least 0, and below 8 and below the smallest extent (above 1) of any argument. What `draws` names is
        drawn as it says.
        """
        inputs = [a for a in self.arguments if a.role != "output"]
        extents = [extent for a in self.arguments for extent in a.shape if extent > 1]
        return [
            self.draws[a.name](rng) if a.name in self.draws else _random_array(a, rng, min([8, *extents]))
            for a, rng in ((a, stream(seed, "inputs", index)) for index, a in enumerate(inputs))
        ]

    def expected(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for `inputs` by the reference, at least as exact as float32 matrix products.

        Raises:
            UsageError: the workload has no reference.
        """
        if self.reference is None:
            raise UsageError(f"`{self.name}` has no reference; compare with the untuned program instead")
        return self.reference(list(inputs))


def tolerance(workload: Workload) -> tuple[float, float]:
    """Returns how far a right result may lie from the reference: (rtol, atol), both without units.

    A value y agrees with the expected e if |y - e| <= rtol * |e| + atol * max |e|, the maximum over the output.
    With eps the distance from 1 to the next number:

    - A block that sums up n terms rounds n times, and such errors add up like a random walk: 4 * eps * sqrt(n) in atol,
      eps that of its arithmetic.
    - An elementwise block adds 4 * eps of its arithmetic to atol, and, on the way to the output, eps of its casts.
    - Rounding the result itself is relative: rtol is 2 * eps of the output.

    A program in integers alone must be exact.
    """
    atol = 0.0
    for block in blocks(workload.mod["main"]):
        atol += 4 * _eps(block.arithmetic) * math.sqrt(block.reduction_length)
        if not block.writes:
            atol += _eps(block.casts)
    return 2 * _eps({a.dtype for a in workload.arguments if a.role == "output"}), atol


def smallest_difference(workload: Workload) -> float:
    """Returns an absolute difference that no right result need stay below: what numbers lose near zero.

    Below the smallest normal number precision is absolute, and some processors flush there to zero, in every term of a
    sum: sums of n terms may be off by n times that number, in the block that sums up most. In types whose smallest
    normal number is not negligible, as float16, none does, and the distance between two denormal numbers counts.
    """
    longest = max((block.reduction_length for block in blocks(workload.mod["main"])), default=1)
    arithmetic = {dtype for block in blocks(workload.mod["main"]) for dtype in block.arithmetic}
    computed = max((_least(dtype) for dtype in arithmetic), default=0.0) * longest
    return computed + max((_least(a.dtype) for a in workload.arguments if a.role == "output"), default=0.0)


def disagreement(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    *,
    rtol: float,
    atol: float,
    least: float = 0.0,
) -> Failure | None:
    """Returns how `outputs` differ from `expected`, or None if they agree as `tolerance` defines it.

    Differences up to `least` never count. An integer output of a program that computes in floats (atol > 0) may be off
    by one: it was rounded.
    """
    for index, (actual, right) in enumerate(zip(outputs, expected, strict=True)):
        if actual.shape != right.shape:
            return Failure("wrong_result", f"output {index} has shape {actual.shape}, expected {right.shape}")
        y, e = _comparable(actual), _comparable(right)
        finite = np.isfinite(e)
        strange = finite & ~np.isfinite(y)
        if strange.any():
            return Failure("nonfinite", f"output {index}: {int(strange.sum())} of {y.size} values are NaN or Inf")
        scale = float(np.abs(e, where=finite, out=np.zeros_like(e)).max(initial=0.0))
        rounding = 1.0 if atol and actual.dtype.kind in "iu" else 0.0
        with np.errstate(invalid="ignore"):
            error = np.where(finite, np.abs(y - e), 0.0)
            wrong = error > rtol * np.where(finite, np.abs(e), 0.0) + atol * scale + rounding + least
            wrong |= ~finite & ~((y == e) | (np.isnan(y) & np.isnan(e)))
        if wrong.any():
            return Failure(
                "wrong_result",
                f"output {index}: {int(wrong.sum())} of {y.size} values differ from the reference, "
                f"by up to {error.max():.3g} where the largest value is {scale:.3g} (rtol {rtol:.1e}, atol {atol:.1e})",
            )
    return None


def numpy_dtype(dtype: str) -> np.dtype:
    """Returns NumPy's dtype for TVM's name of one, bfloat16 and the 8-bit floats included."""
    if dtype == "bool":
        return np.dtype(np.bool_)
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def _random_array(argument: Argument, rng: np.random.Generator, bound: int) -> np.ndarray:
    dtype = numpy_dtype(argument.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, argument.shape, dtype=np.int8).astype(dtype)
    if dtype.kind in "iu":
        if dtype.itemsize > 1:
            return rng.integers(0, bound, argument.shape, dtype=dtype)
        return rng.integers(0 if dtype.kind == "u" else -127, np.iinfo(dtype).max + 1, argument.shape, dtype=dtype)
    scale = math.sqrt(12.0)
    if argument.role == "weight" and argument.shape:
        scale /= math.sqrt(argument.shape[-2 if len(argument.shape) > 1 else -1])
    # Weights fill hundreds of megabytes: uniform numbers take a third of the time of normal ones, and no copy is made.
    array = rng.random(argument.shape, dtype=np.float64 if dtype == np.float64 else np.float32)
    array -= 0.5
    array *= scale
    return array.astype(dtype, copy=False)


def _least(dtype: str) -> float:
    """The smallest normal number of a float's wide types, the smallest denormal one of its narrow types."""
    if numpy_dtype(dtype).kind in "biu":
        return 0.0
    info = ml_dtypes.finfo(numpy_dtype(dtype))
    return float(info.tiny if float(info.tiny) < _NEGLIGIBLE else info.smallest_subnormal)


def _eps(dtypes: Iterable[str]) -> float:
    """The distance from 1 to the next number, of the least precise of the dtypes; integers have none."""
    floats = [dtype for dtype in map(numpy_dtype, dtypes) if dtype.kind not in "biu"]
    return max((float(ml_dtypes.finfo(dtype).eps) for dtype in floats), default=0.0)


def _comparable(array: np.ndarray) -> np.ndarray:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)

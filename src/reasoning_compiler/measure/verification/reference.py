"""What a kernel must compute: the kernel itself in float64, run on given inputs.

The guarantee: what comes out depends on the kernel as it was written, not on a schedule, and on float64 wherever that
means the same kernel. It does not where a kernel looks at the bits of its floats, or means what its own precision
makes of them, as one that quantises by overflowing or rounding does: then float64 and a good order of summation in
the kernel's precision disagree by more than any order of summation explains, and the kernel as written, in its own
precision, is the reference instead. `Reference.origin` says which it is.

TVM compiles and runs the kernel, so all of this happens in a process that may die (`reference_worker`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import tvm

from reasoning_compiler import codegen
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.measure.verification.compare import poison
from reasoning_compiler.measure.verification.programs import in_float64, in_good_order, made_fast
from reasoning_compiler.measure.verification.tolerance import EXACT, Precision, Tolerance, off_by, share_off
from reasoning_compiler.workload.workload import numpy_dtype

_MOST_UNDETERMINED = 0.1

Origin = Literal["float64", "own precision"]


@dataclass(frozen=True)
class Reference:
    """The right outputs on some inputs.

    Args:
        values: one array per output: of its own dtype if that is integer or float64, else float32.
        unwritten: per output, the elements that the kernel does not write, or that its inputs do not determine; None
            where there are none.
        tolerance: how far off right outputs may be.
        origin: in what they were computed.
    """

    values: tuple[np.ndarray, ...]
    unwritten: tuple[np.ndarray | None, ...]
    tolerance: Tolerance
    origin: Origin


class Kernel:
    """A kernel as it was written, ready to say what it must compute.

    Args:
        mod: an IRModule with one PrimFunc, `main`.
        arguments: those of `main`, in order.
        target: the `tvm.target.Target` of this machine.
    """

    def __init__(self, mod: Any, arguments: Sequence[Argument], target: Any) -> None:
        func = mod["main"]
        self._arguments = tuple(arguments)
        self._outputs = [a for a in arguments if a.role == "output"]
        self._precision = Precision.of(func, arguments)
        fast = made_fast(func)
        self._compile = partial(_compiled, target=target)
        good = in_good_order(fast)
        self._good, self._partial_sums = self._compile(good.func), good.partial_sums
        exact = in_float64(fast)
        self._exact = self._compile(fast if exact is None else exact)
        self._fast = fast
        self._origin: Origin | None = None if exact is not None else "own precision"

    def reference(self, inputs: Sequence[np.ndarray], *, any_order: bool = False) -> Reference | None:
        """Returns the right outputs; None where no order of summation comes near them, so that they say nothing.

        The first inputs decide for all what the reference is computed in.

        Args:
            inputs: one array per argument that is no output.
            any_order: whether the inputs are such that plain sums of them, or of their products, are the same in every
                order: where that shows in the outputs, they must be matched to the bit.
        """
        good = self._run(self._good, inputs, fill=1.0, partial_sums=True)
        made = self._judged(self._run(self._exact, inputs, fill=0.5), good, any_order)
        if self._origin is None and made is None:
            self._origin, self._exact = "own precision", self._compile(self._fast)
            made = self._judged(self._run(self._exact, inputs, fill=0.5), good, any_order)
        self._origin = self._origin or "float64"
        return made if made is None else replace(made, origin=self._origin)

    def _judged(self, exact: list[np.ndarray], good: list[np.ndarray], any_order: bool) -> Reference | None:
        dtypes = [a.dtype for a in self._outputs]
        unwritten = [_untouched(e, y) for e, y in zip(exact, good, strict=True)]
        exact = [_in_range(e, numpy_dtype(dtype)) for e, dtype in zip(exact, dtypes, strict=True)]
        for e, y, mask in zip(exact, good, unwritten, strict=True):
            e[mask] = y[mask] = 0
        rounded = [e.astype(numpy_dtype(dtype)) for e, dtype in zip(exact, dtypes, strict=True)]
        if any_order and all(np.array_equal(e, y) for e, y in zip(rounded, good, strict=True)):
            return self._kept(rounded, unwritten, EXACT)
        tolerance = Tolerance.measured(self._precision, exact, good, dtypes)
        for e, y, mask, dtype in zip(exact, good, unwritten, dtypes, strict=True):
            if numpy_dtype(dtype).kind not in "biu":
                off = share_off(e, y, rtol=tolerance.rtol, least=tolerance.least)
                is_far = off > self._precision.limits[1]
            else:
                # Which of two equals is the greatest, or on which side of a bound a number is, rounding may decide.
                undetermined = np.abs(e.astype(np.float64) - y.astype(np.float64)) > 1
                is_far = undetermined.mean() > _MOST_UNDETERMINED or off_by(e, y, 1) > _MOST_UNDETERMINED
                mask |= undetermined
            if is_far and self._origin != "own precision":
                return None
        return self._kept(exact, unwritten, tolerance)

    def _kept(self, values: list[np.ndarray], unwritten: list[np.ndarray], tolerance: Tolerance) -> Reference:
        narrow = (
            value.astype(np.float32) if numpy_dtype(a.dtype).kind not in "biu" and a.dtype != "float64" else value
            for value, a in zip(values, self._outputs, strict=True)
        )
        masks = (mask if mask.any() else None for mask in unwritten)
        return Reference(tuple(narrow), tuple(masks), tolerance, "float64")

    def _run(
        self, function: Any, inputs: Sequence[np.ndarray], *, fill: float, partial_sums: bool = False
    ) -> list[np.ndarray]:
        """Returns the outputs of a program, which are filled with a share of their poison before."""
        given = iter(inputs)
        wide = function is self._exact and self._origin != "own precision"
        arrays = []
        for argument in self._arguments:
            dtype = numpy_dtype(argument.dtype)
            dtype = np.dtype(np.float64) if wide and dtype.kind not in "biu" else dtype
            if argument.role == "output":
                arrays.append(np.full(argument.shape, _fill(dtype, fill)))
            else:
                arrays.append(next(given).astype(dtype, copy=False))
        if partial_sums:
            arrays += [np.zeros(shape, numpy_dtype(dtype)) for shape, dtype in self._partial_sums]
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        function(*tensors)
        pairs = zip(self._arguments, tensors, strict=False)
        return [np.array(tensor.numpy()) for argument, tensor in pairs if argument.role == "output"]


def _compiled(func: Any, *, target: Any) -> Any:
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return codegen.compile(mod, target).executable["main"]


def _fill(dtype: np.dtype, share: float) -> np.ndarray:
    if dtype.kind == "b":
        return np.array(share == 1.0)
    return np.array(float(poison(dtype)) * share).astype(dtype)


def _untouched(exact: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Returns which elements hold what each of two runs found there."""
    return np.asarray((exact == _fill(exact.dtype, 0.5)) & (good == _fill(good.dtype, 1.0)))


def _in_range(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns what is out of a float's range as an infinity, as the kernel's own dtype has it."""
    if dtype.kind in "biu" or dtype == np.float64:
        return exact
    with np.errstate(over="ignore"):
        is_beyond = np.isinf(exact.astype(dtype))
    return np.where(is_beyond, np.copysign(np.inf, exact), exact)

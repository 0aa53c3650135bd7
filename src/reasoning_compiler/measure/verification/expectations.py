"""What the outputs must be on some inputs: by a reference in Python, or by the kernel itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from threadpoolctl import threadpool_limits

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.worker import Request
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.measure.verification.share import Share
from reasoning_compiler.measure.verification.stored import StoredArray, StoredOutputs
from reasoning_compiler.measure.verification.tolerance import EXACT, Precision, Tolerance
from reasoning_compiler.workload.workload import Workload, numpy_dtype

_TIMEOUT_SECS = 600.0


class ByFunctions:
    """A named kernel's references: the same function in float64 and in the kernel's own precision.

    Args:
        workload: the kernel's.
        share: where inputs are, and outputs go.
    """

    notices = ()
    """What the user should know of the reference, a line each."""

    def __init__(self, workload: Workload, share: Share) -> None:
        self._workload, self._share = workload, share

    def expected(self, inputs: Sequence[StoredArray], *, any_order: bool) -> StoredOutputs | Failure | None:
        """Returns the right outputs on some inputs; None where the inputs say nothing.

        Args:
            inputs: one per argument that is no output.
            any_order: see `reference.Kernel.reference`.
        """
        arrays = [array.get(self._share) for array in inputs]
        with threadpool_limits(self._share.executor.num_threads):  # numpy would take every core
            values, tolerance = by_functions(self._workload, arrays, any_order=any_order)
        outputs = _outputs(self._workload)
        return StoredOutputs(_stored(values, outputs, self._share), (None,) * len(outputs), tolerance)

    def close(self) -> None:
        """Ends what is still running. May be called from another thread, and again."""


class ByKernel:
    """The kernel itself, as it was written, in a process that may die; a user's reference instead of its values.

    Args:
        workload: its module, and the user's reference where there is one.
        share: where inputs are, and outputs go.
    """

    def __init__(self, workload: Workload, share: Share) -> None:
        self._workload, self._share = workload, share
        self._module = ""
        self._pool = share.executor.open_reference()
        self._origin = ""

    @property
    def notices(self) -> tuple[str, ...]:
        """See `ByFunctions`."""
        if self._origin != "own precision" or self._workload.reference is not None:
            return ()
        return (
            "results are compared with those of the kernel as written, in its own precision: in float64 it is another "
            "kernel",
        )

    def expected(self, inputs: Sequence[StoredArray], *, any_order: bool) -> StoredOutputs | Failure | None:
        """See `ByFunctions`."""
        self._module = self._module or self._share.put(import_tvm().ir.save_json(self._workload.mod).encode())
        payload = {
            "module": self._module,
            "arguments": self._workload.arguments,
            "inputs": inputs,
            "any_order": any_order,
        }
        answer = self._pool.ask(Request("expect", payload, _TIMEOUT_SECS))
        if isinstance(answer, Failure):
            return answer
        self._origin = self._origin or answer["origin"]
        if answer["expected"] is None:
            return None
        made = StoredOutputs.from_json(answer["expected"])
        for array in (*made.values, *made.unwritten):
            if array is not None:
                self._share.claim(array.key)
        return made if self._workload.reference is None else self._by_users(made, inputs)

    def close(self) -> None:
        """See `ByFunctions`."""
        for pid in self._pool.pids:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _by_users(self, made: StoredOutputs, inputs: Sequence[StoredArray]) -> StoredOutputs | None:
        """Returns the same with the values of the user's reference; None where it is not made for such inputs.

        Where outputs must be matched to the bit, it is not if it is less exact than the kernel.
        """
        assert self._workload.reference is not None
        try:
            with np.errstate(all="ignore"), threadpool_limits(self._share.executor.num_threads):
                values = self._workload.reference([array.get(self._share) for array in inputs])
        except (ArithmeticError, ValueError):
            return None
        outputs = _outputs(self._workload)
        _require_shapes(values, outputs)
        if made.tolerance == EXACT and any(
            not np.array_equal(value, array.get(self._share)) for value, array in zip(values, made.values, strict=True)
        ):
            return None
        return StoredOutputs(_stored(values, outputs, self._share), made.unwritten, made.tolerance)


def source(workload: Workload, share: Share) -> ByFunctions | ByKernel:
    """Returns where the right outputs of a workload come from."""
    if workload.reference is not None and workload.good_order is not None:
        return ByFunctions(workload, share)
    return ByKernel(workload, share)


def by_functions(
    workload: Workload, inputs: Sequence[np.ndarray], *, any_order: bool = False
) -> tuple[list[np.ndarray], Tolerance]:
    """Returns the right outputs of a workload that has references of both kinds, and how far off a program's may be.

    Args:
        workload: whose.
        inputs: an array per argument that is no output.
        any_order: see `reference.Kernel.reference`.

    Raises:
        UsageError: the reference returns other shapes than the kernel has.
    """
    assert workload.reference is not None and workload.good_order is not None
    outputs = _outputs(workload)
    dtypes = [argument.dtype for argument in outputs]
    with np.errstate(all="ignore"):
        values, good = workload.reference(list(inputs)), workload.good_order(list(inputs))
        _require_shapes(values, outputs)
        rounded, good = (
            [value.astype(numpy_dtype(dtype)) for value, dtype in zip(each, dtypes, strict=True)]
            for each in (values, good)
        )
    if any_order and all(np.array_equal(r, g) for r, g in zip(rounded, good, strict=True)):
        return rounded, EXACT
    precision = Precision.of(workload.mod["main"], workload.arguments)
    return values, Tolerance.measured(precision, values, good, dtypes)


def _outputs(workload: Workload) -> list[Argument]:
    return [argument for argument in workload.arguments if argument.role == "output"]


def _require_shapes(values: Sequence[np.ndarray], outputs: Sequence[Argument]) -> None:
    for value, argument in zip(values, outputs, strict=True):
        if value.shape != argument.shape:
            raise UsageError(
                f"`{argument.name}` has shape {argument.shape} in the kernel, but its reference returns {value.shape}"
            )


def _stored(values: Sequence[np.ndarray], outputs: Sequence[Argument], share: Share) -> tuple[StoredArray, ...]:
    return tuple(
        StoredArray.put(share, _kept(value, argument.dtype)) for value, argument in zip(values, outputs, strict=True)
    )


def _kept(values: np.ndarray, dtype: str) -> np.ndarray:
    """Returns what outputs are compared with: float32 if they are no wider, as far as it says all there is to say."""
    narrow = numpy_dtype(dtype).kind not in "biu" and dtype != "float64"
    return values.astype(np.float32) if narrow else values

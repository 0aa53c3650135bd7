"""Comparing a kernel's outputs with the reference, quickly where they agree.

What agrees is for the workload to say (`workload.disagreement`); here the same rule is computed beforehand, element
by element, so that the usual answer costs little more than reading the output once. Outputs are filled before the run
with a value that no kernel computes, so what a kernel leaves unwritten is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.workload.workload import disagreement

# A block of an output, its reference, its slack and the difference stay together in a second-level cache.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Expected:
    """What the outputs of a kernel must be.

    Args:
        values: the reference's outputs.
        rtol: see `workload.tolerance`.
        atol: see `workload.tolerance`.
        least: see `workload.smallest_difference`.
        slack: per output and element, how far off it may be; NaN where the reference is not finite.
    """

    values: tuple[np.ndarray, ...]
    rtol: float
    atol: float
    least: float
    slack: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, values: Sequence[np.ndarray], *, rtol: float, atol: float, least: float = 0.0) -> Expected:
        """Returns what the outputs must be, from the reference's outputs."""
        slack = tuple(_slack(_comparable(each), rtol=rtol, atol=atol, least=least) for each in values)
        return cls(tuple(values), rtol, atol, least, slack)

    def with_values(self, values: Sequence[np.ndarray], *, looser: float = 1.0) -> Expected:
        """Returns what the outputs must be where the reference has given these; `looser` is a factor of `atol`."""
        return Expected.of(values, rtol=self.rtol, atol=looser * self.atol, least=self.least)

    def why_not(self, outputs: Sequence[np.ndarray]) -> Failure | None:
        """Returns how the outputs differ, None where they agree."""
        every = zip(outputs, self.values, self.slack, strict=True)
        if all(_is_close(output, value, slack) for output, value, slack in every):
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            failure = disagreement(outputs, self.values, rtol=self.rtol, atol=self.atol, least=self.least)
        if failure is None:
            return None
        unwritten = sum(int((output == poison(output.dtype)).sum()) for output in outputs)
        if unwritten and failure.kind == "wrong_result":
            return replace(failure, message=f"{failure.message}; {unwritten} were never written")
        return failure


def poison(dtype: np.dtype) -> np.ndarray:
    """Returns what outputs are filled with before a run: a finite value that no kernel computes.

    It is finite so that "never written" and "computed a NaN" stay two different failures.
    """
    if dtype.kind == "b":
        return np.array(True)
    if dtype.kind in "iu":
        return np.frombuffer(b"\xa5" * dtype.itemsize, dtype=dtype)[0]
    return np.array(-0.77 * float(ml_dtypes.finfo(dtype).max)).astype(dtype)


def _slack(values: np.ndarray, *, rtol: float, atol: float, least: float) -> np.ndarray:
    finite = np.isfinite(values)
    scale = float(np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        slack = rtol * np.abs(values) + (atol * scale + least)
    slack[~finite] = np.nan  # compares as false, which leaves the answer to `disagreement`
    return slack.astype(values.dtype, copy=False)


def _is_close(output: np.ndarray, values: np.ndarray, slack: np.ndarray) -> bool:
    output, values, slack = output.reshape(-1), values.reshape(-1), slack.reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, output.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            difference = np.abs(_comparable(output[block]) - _comparable(values[block]))
            if not (difference <= slack[block]).all():
                return False
    return True


def _comparable(array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float64 if array.dtype.kind in "iu" and array.dtype.itemsize > 2 else np.float32)

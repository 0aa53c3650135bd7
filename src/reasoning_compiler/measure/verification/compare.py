"""Comparing a kernel's outputs with what they must be, quickly where they agree.

The guarantee: every element that a kernel has to write is compared, and one that it has not written is seen, since
outputs are filled before the run with a value that no kernel computes. What each element may be off by is computed
beforehand, so that the usual answer costs little more than reading the output once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.verification.tolerance import Tolerance

# A block of an output, its reference, its slack and the difference stay together in a second-level cache.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Expected:
    """What the outputs of a kernel must be.

    Args:
        values: the reference's outputs.
        tolerance: how far off they may be.
        slack: per output and element, how far off it may be; NaN where the reference is not finite, infinite where the
            kernel leaves the element unwritten.
    """

    values: tuple[np.ndarray, ...]
    tolerance: Tolerance
    slack: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls, values: Sequence[np.ndarray], tolerance: Tolerance, *, unwritten: Sequence[np.ndarray | None] = ()
    ) -> Expected:
        """Returns what the outputs must be.

        Args:
            values: the reference's outputs.
            tolerance: how far off they may be.
            unwritten: per output, which elements no right program needs to write; None where it must write all.
        """
        slack = tuple(_slack(_comparable(each), tolerance) for each in values)
        for each, mask in zip(slack, unwritten, strict=False):
            if mask is not None:
                each[mask] = np.inf
        return cls(tuple(values), tolerance, slack)

    def why_not(self, outputs: Sequence[np.ndarray]) -> Failure | None:
        """Returns how the outputs differ, None where they agree.

        A failure is "nonfinite" where NaN or Inf came out and the reference is finite, "wrong_result" otherwise.
        """
        for index, output in enumerate(outputs):
            values, slack = self.values[index], self.slack[index]
            if output.shape != values.shape:
                return Failure("wrong_result", f"output {index} has shape {output.shape}, expected {values.shape}")
            if not _is_close(output, values, slack):
                failure = self._how_it_differs(index, output)
                if failure is not None:
                    return failure
        return None

    def _how_it_differs(self, index: int, output: np.ndarray) -> Failure | None:
        y, e, slack = _comparable(output), _comparable(self.values[index]), self.slack[index]
        compared = ~np.isposinf(slack)
        finite = np.isfinite(e)
        strange = compared & finite & ~np.isfinite(y)
        if strange.any():
            return Failure("nonfinite", f"output {index}: {int(strange.sum())} of {y.size} values are NaN or Inf")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(finite & compared, np.abs(y - e), 0.0)
            wrong = error > np.where(finite, slack, 0.0)
            wrong |= compared & ~finite & ~((y == e) | (np.isnan(y) & np.isnan(e)))
        if output.dtype.kind in "biu":
            rounded = wrong & (error == 1)
            if rounded.sum() <= self.tolerance.off_by_one * rounded.size:
                wrong &= ~rounded
        if not wrong.any():
            return None
        scale = np.abs(e, where=finite, out=np.zeros_like(e)).max(initial=0.0)
        message = (
            f"output {index}: {int(wrong.sum())} of {y.size} values differ from the reference, "
            f"by up to {error.max():.3g} where the largest value is {scale:.3g} "
            f"(rtol {self.tolerance.rtol:.1e}, atol {self.tolerance.atol:.1e})"
        )
        failure = Failure("wrong_result", message)
        never = int((compared & (output == poison(output.dtype))).sum())
        return replace(failure, message=f"{message}; {never} were never written") if never else failure


def poison(dtype: np.dtype) -> np.ndarray:
    """Returns what outputs are filled with before a run: a finite value that no kernel computes.

    It is finite so that "never written" and "computed a NaN" stay two different failures.
    """
    if dtype.kind == "b":
        return np.array(True)
    if dtype.kind in "iu":
        return np.frombuffer(b"\xa5" * dtype.itemsize, dtype=dtype)[0]
    return np.array(-0.77 * float(ml_dtypes.finfo(dtype).max)).astype(dtype)


def _slack(values: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    finite = np.isfinite(values)
    scale = float(np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        slack = np.asarray(tolerance.rtol * np.abs(values) + (tolerance.atol * scale + tolerance.least))
    slack[~finite] = np.nan  # compares as false, which leaves the answer to `_how_it_differs`
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

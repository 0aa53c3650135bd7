"""Comparing a kernel's outputs with the reference.

The policy: an integer must be equal; a float must lie within atol + rtol · |expected|; an infinity or a NaN
must be where the reference has one, and nowhere else. Outputs are filled with a value that no kernel computes
before the run, so what a kernel leaves unwritten is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reasoning_compiler.records import Failure

# A block of floats, its reference, its tolerance and the difference stay together in a second-level cache.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Expected:
    """What one output must be.

    Args:
        name: the output's name, for messages.
        values: the reference; float64 and integers as they are, shorter floats in float32.
        tolerance: per element, of the reference's dtype; None where the values must be equal.
    """

    name: str
    values: np.ndarray
    tolerance: np.ndarray | None

    @classmethod
    def of(cls, name: str, values: np.ndarray, *, rtol: float, atol: float) -> Expected:
        """Returns what an output must be, from the reference's values in the output's own dtype."""
        if not is_float(values.dtype):
            return cls(name, values, None)
        values = _comparable(values)
        with np.errstate(invalid="ignore", over="ignore"):
            tolerance = (atol + rtol * np.abs(values)).astype(values.dtype)
        # NaN is no tolerance at all: what must be infinite or NaN is looked at more closely.
        tolerance[~np.isfinite(values)] = np.nan
        return cls(name, values, tolerance)

    def why_not(self, actual: np.ndarray) -> Failure | None:
        """Returns how `actual` differs, None where it agrees.

        Args:
            actual: the output, of the reference's shape, in the kernel's dtype.
        """
        if self.tolerance is None:
            wrong = actual != self.values
        elif self._all_close(actual):
            return None
        else:
            wrong = self._wrong(actual)
        return self._describe(actual, wrong) if wrong.any() else None

    def _all_close(self, actual: np.ndarray) -> bool:
        flat, values, tolerance = actual.reshape(-1), self.values.reshape(-1), self.tolerance.reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, flat.size, _BLOCK):
                block = slice(start, start + _BLOCK)
                difference = np.abs(_comparable(flat[block]) - values[block])
                if not (difference <= tolerance[block]).all():
                    return False
        return True

    def _wrong(self, actual: np.ndarray) -> np.ndarray:
        actual = _comparable(actual)
        with np.errstate(invalid="ignore", over="ignore"):
            close = np.abs(actual - self.values) <= self.tolerance
        finite = np.isfinite(self.values)
        same = (actual == self.values) | (np.isnan(actual) & np.isnan(self.values))
        return ~np.where(finite, close & np.isfinite(actual), same)

    def _describe(self, actual: np.ndarray, wrong: np.ndarray) -> Failure:
        where = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()
        got, expected = actual[where], self.values[where]
        how_many = f"{int(wrong.sum())} of {wrong.size} elements of `{self.name}`"
        first = f"the first at {list(where)}: {got} instead of {expected}"
        if is_float(actual.dtype):
            odd = wrong & ~np.isfinite(_comparable(actual)) & np.isfinite(self.values)
            if odd.any():
                return Failure(
                    "nonfinite", f"{int(odd.sum())} of {wrong.size} elements of `{self.name}` are NaN or Inf"
                )
        if (got == poison(actual.dtype)).all():
            first = f"the first at {list(where)}, which was never written"
        return Failure("wrong_result", f"{how_many} differ, {first}")


def is_float(dtype: np.dtype) -> bool:
    """Tells whether a dtype is a floating-point one, those of `ml_dtypes` included."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def poison(dtype: np.dtype) -> np.ndarray:
    """Returns what outputs are filled with before a run: a finite value that no kernel computes.

    It is finite so that "never written" and "computed a NaN" stay two different failures.
    """
    if is_float(dtype):
        return np.array(-0.77 * float(_finfo_max(dtype))).astype(dtype)
    return np.frombuffer(b"\xa5" * dtype.itemsize, dtype=dtype)[0] if dtype.kind != "b" else np.array(True)


def _finfo_max(dtype: np.dtype) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)


def _comparable(values: np.ndarray) -> np.ndarray:
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)

"""Arrays in files: how a workload's inputs and expected outputs get to the process that runs it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np


def numpy_dtype(name: str) -> np.dtype:
    """Returns numpy's dtype for one of TVM's names; `bfloat16` and 8-bit floats are those of `ml_dtypes`."""
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array's elements alone; `.npy` could not name bfloat16, so the reader knows the dtype."""
    np.ascontiguousarray(array).tofile(path)


def read_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns the array in a file."""
    return np.fromfile(path, dtype=numpy_dtype(dtype)).reshape(shape)

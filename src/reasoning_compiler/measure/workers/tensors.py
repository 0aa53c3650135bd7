"""Arrays in files: how a workload's inputs and expected outputs get to the process that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reasoning_compiler.workload.workload import numpy_dtype


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array's elements alone; `.npy` could not name bfloat16, so the reader knows the dtype."""
    np.ascontiguousarray(array).tofile(path)


def read_array(path: str, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Returns the array in a file."""
    return np.fromfile(path, dtype=numpy_dtype(dtype)).reshape(tuple(shape))

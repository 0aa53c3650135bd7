"""Arrays in files: how inputs and right outputs get to the processes that run programs on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_compiler.measure.verification.tolerance import Tolerance
from reasoning_compiler.workload.workload import numpy_dtype


@dataclass(frozen=True)
class File:
    """An array in a file: its elements alone, since `.npy` could not name bfloat16.

    Args:
        path: where it is.
        shape: the array's.
        dtype: the array's, as TVM calls it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def write(cls, path: Path, array: np.ndarray) -> File:
        """Writes an array, and returns where. Raises OSError."""
        np.ascontiguousarray(array).tofile(path)
        return cls(str(path), array.shape, array.dtype.name)

    def read(self) -> np.ndarray:
        """Returns the array."""
        return np.fromfile(self.path, dtype=numpy_dtype(self.dtype)).reshape(tuple(self.shape))


@dataclass(frozen=True)
class ExpectedFiles:
    """What the outputs must be.

    Args:
        values: a file per output; they may be more exact than the output's dtype.
        unwritten: a file per output with the elements that need not be compared; None where all must.
        tolerance: how far off right outputs may be.
    """

    values: tuple[File, ...]
    unwritten: tuple[File | None, ...]
    tolerance: Tolerance

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        return {
            "values": [asdict(file) for file in self.values],
            "unwritten": [None if file is None else asdict(file) for file in self.unwritten],
            "tolerance": asdict(self.tolerance),
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> ExpectedFiles:
        """Returns what `to_json` has written."""
        return cls(
            tuple(File(**file) for file in obj["values"]),
            tuple(None if file is None else File(**file) for file in obj["unwritten"]),
            Tolerance(**obj["tolerance"]),
        )

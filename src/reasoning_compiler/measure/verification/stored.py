"""Inputs and right outputs in a store: how they get to the processes that run programs on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reasoning_compiler.core.records import Record
from reasoning_compiler.measure.verification.compare import Expected
from reasoning_compiler.measure.verification.share import Share
from reasoning_compiler.measure.verification.tolerance import Tolerance
from reasoning_compiler.measure.workers.store import Store
from reasoning_compiler.workload.workload import numpy_dtype


@dataclass(frozen=True)
class StoredArray(Record):
    """An array in a store: its elements alone, since `.npy` could not name bfloat16.

    Args:
        key: of its elements.
        shape: the array's.
        dtype: the array's, as TVM calls it.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def put(cls, store: Store | Share, array: np.ndarray) -> StoredArray:
        """Returns an array that a store now holds. Raises as its `put`."""
        elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return cls(store.put(elements.data), array.shape, array.dtype.name)

    def get(self, store: Store | Share) -> np.ndarray:
        """Returns a copy of the array."""
        return np.frombuffer(store.get(self.key), dtype=numpy_dtype(self.dtype)).reshape(tuple(self.shape))


@dataclass(frozen=True)
class StoredOutputs(Record):
    """What the outputs must be.

    Args:
        values: an array per output; they may be more exact than the output's dtype.
        unwritten: a mask per output of the elements that need not be compared; None where all must.
        tolerance: how far off right outputs may be.
    """

    values: tuple[StoredArray, ...]
    unwritten: tuple[StoredArray | None, ...]
    tolerance: Tolerance

    def get(self, store: Store | Share) -> Expected:
        """Returns what outputs are compared with."""
        values = [array.get(store) for array in self.values]
        unwritten = [None if mask is None else mask.get(store) for mask in self.unwritten]
        return Expected.of(values, self.tolerance, unwritten=unwritten)


@dataclass(frozen=True)
class InputSet(Record):
    """Other inputs than those that programs are timed on.

    Args:
        name: of the set.
        inputs: per argument that is no output, its values; None where it keeps its values.
        expected: what the outputs must be; None where nothing is compared.
    """

    name: str
    inputs: tuple[StoredArray | None, ...]
    expected: StoredOutputs | None

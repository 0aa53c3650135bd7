"""Memory for a kernel's arguments in which it cannot do harm unseen: fenced at both ends, inputs read-only.

    page of no access | … NaN … | the tensor's elements | < 64 bytes of NaN | page of no access

A kernel that writes into an input, or reaches farther beyond an argument, dies of it; one that reads a few elements too
many computes with NaN; one that writes a few too many has changed what lies there, which is looked at afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

from reasoning_compiler.workload.workload import numpy_dtype

_PAGE = mmap.PAGESIZE
_FENCE_BYTES = max(_PAGE, 1 << 16)
_ALIGNMENT = 64  # TVM's kernels expect it of their arguments
_FILL = 0xFF  # NaN in every float, -1 in integers
_NO_ACCESS, _READ_ONLY, _WRITABLE = 0, 1, 3  # PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, on every POSIX system

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Fenced:
    """A tensor in memory of its own, and what surrounds it.

    Args:
        tensor: the TVM tensor, on the CPU.
        values: the same memory as an array.
        margins: the bytes before and behind it that can be reached without a fault.
    """

    tensor: Any
    values: np.ndarray
    margins: tuple[np.ndarray, np.ndarray]
    _map: mmap.mmap
    _start: int

    @classmethod
    def allocate(cls, shape: Sequence[int], dtype: str) -> Fenced:
        """Returns a tensor with undefined values, writable. Raises OSError where there is no memory."""
        np_dtype = numpy_dtype(dtype)
        num_bytes = math.prod(shape) * np_dtype.itemsize
        inside = -(-max(num_bytes, 1) // _PAGE) * _PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mapped = mmap.mmap(-1, inside + 2 * _FENCE_BYTES, flags=flags)
        _prefer_huge_pages(mapped)
        whole = np.frombuffer(mapped, dtype=np.uint8)
        start = _FENCE_BYTES + (inside - num_bytes) // _ALIGNMENT * _ALIGNMENT
        end = start + num_bytes
        margins = whole[_FENCE_BYTES:start], whole[end : _FENCE_BYTES + inside]
        for margin in margins:
            margin[...] = _FILL
        _protect(whole.ctypes.data, _FENCE_BYTES, _NO_ACCESS)
        _protect(whole.ctypes.data + _FENCE_BYTES + inside, _FENCE_BYTES, _NO_ACCESS)
        data = whole[start:end]
        # NumPy cannot hand bfloat16 and its like over, but bytes, of which TVM then makes what they are.
        tensor = tvm.runtime.from_dlpack(data)._create_view(tuple(shape), dtype)
        values = data.view(np_dtype).reshape(tuple(shape))
        return cls(tensor, values, margins, mapped, whole.ctypes.data + _FENCE_BYTES)

    def read(self) -> np.ndarray:
        """Returns the values, which is no copy."""
        return self.values

    def fill(self, value: np.ndarray) -> None:
        """Gives every element the same value."""
        self.values[...] = value

    def viewed_as(self, shape: Sequence[int], dtype: str) -> Fenced | None:
        """Returns the same memory as another tensor; None where that one has another number of bytes."""
        if math.prod(shape) * numpy_dtype(dtype).itemsize != self.values.nbytes:
            return None
        values = self.values.reshape(-1).view(numpy_dtype(dtype)).reshape(tuple(shape))
        return replace(self, tensor=self.tensor._create_view(tuple(shape), dtype), values=values)

    def allow_writing(self, allow: bool) -> None:
        """Makes the tensor writable, or read-only: who writes into it then is ended by SIGSEGV."""
        inside = len(self._map) - 2 * _FENCE_BYTES
        _protect(self._start, inside, _WRITABLE if allow else _READ_ONLY)

    @property
    def is_intact(self) -> bool:
        """Whether nothing has been written beside the tensor."""
        return all(bool((margin == _FILL).all()) for margin in self.margins)


@dataclass(frozen=True)
class OnDevice:
    """A tensor in memory that only its device can reach; see `Fenced`, of which it has the methods and no fence."""

    tensor: Any
    is_intact: bool = True

    def read(self) -> np.ndarray:
        """Returns a copy of the values."""
        return self.tensor.numpy()

    def fill(self, value: np.ndarray) -> None:
        """Gives every element the same value."""
        self.tensor.copyfrom(np.full(tuple(map(int, self.tensor.shape)), value))

    def viewed_as(self, shape: Sequence[int], dtype: str) -> OnDevice | None:
        """Returns None: the memory stays what it is."""
        return None

    def allow_writing(self, allow: bool) -> None:
        """Changes nothing."""


Memory = Fenced | OnDevice


def allocate(shape: Sequence[int], dtype: str, device: Any) -> Memory:
    """Returns a tensor with undefined values, fenced where that can be done: on this machine's CPU."""
    if is_cpu(device):
        return Fenced.allocate(shape, dtype)
    return OnDevice(tvm.runtime.empty(tuple(shape), dtype, device))


def is_cpu(device: Any) -> bool:
    """Tells whether a TVM device is this machine's CPU, or another machine's."""
    return device.dlpack_device_type() == tvm.runtime.cpu().dlpack_device_type()


def _prefer_huge_pages(mapped: mmap.mmap) -> None:
    """Asks for large pages, as NumPy does for its arrays, where the system has them.

    Clearing 170 MB page by page takes 50 to 150 ms, and 10 ms by large ones; and where the pages of a matrix happen to
    lie then has no say in its latency.
    """
    with contextlib.suppress(AttributeError, OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)


def _protect(address: int, num_bytes: int, protection: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(num_bytes), ctypes.c_int(protection)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

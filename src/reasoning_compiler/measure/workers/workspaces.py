"""Fenced memory for what kernels allocate for themselves while they run, as memory.py's is for their arguments.

A kernel takes such a buffer from TVM's runtime, by a pointer in its library that TVM sets when it loads it. While the
kernel is verified the pointer leads to `workspaces.c` instead, and back to TVM before it is timed. It is written in C
because the threads of a kernel take thousands of buffers in a run, all at once.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reasoning_compiler.core.refused import Refused
from reasoning_compiler.machine.toolchain import c_compiler

_SOURCE = Path(__file__).with_suffix(".c")

NAN = 0xFF
"""Filled with it, floats are NaN. It shows in whatever is computed from it, but for most maxima and minima."""

FILLS = (0x7B, 0xFB, NAN)
"""Floats of all widths are large, large and negative, and NaN, if each of their bytes is this."""


def compile_workspaces(folder: Path) -> Path | None:
    """Returns the library that `Workspaces` takes, made in a folder; None where no compiler here can make it."""
    compiler = c_compiler()
    if compiler is None:
        return None
    library = folder / "workspaces.so"
    command = [*compiler, "-O2", "-fPIC", "-shared", "-o", str(library), str(_SOURCE), "-lpthread", "-ldl"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return None
    return library if done.returncode == 0 else None


class Workspaces:
    """The buffers that kernels in this process allocate, one library at a time.

    Args:
        library: as `compile_workspaces` has made it; None where buffers are TVM's at all times.
    """

    def __init__(self, library: Path | None = None) -> None:
        self._library: ctypes.CDLL | None = None
        self._are_fenced = False
        if library is not None:
            with suppress(OSError):  # where no library can be loaded, that of a kernel says so
                self._library = ctypes.CDLL(str(library))
        if self._library is not None:
            self._library.touched.restype = ctypes.c_uint64

    @contextmanager
    def fenced(self, kernel: Path) -> Iterator[bool]:
        """Fences the buffers of a kernel inside the `with`; yields whether it takes any.

        They are filled after `fill_with` alone: that takes longer than most kernels.

        Args:
            kernel: its shared library, which this process has loaded.
        """
        self._are_fenced = self._library is not None and bool(self._library.enter(bytes(kernel)))
        try:
            yield self._are_fenced
        finally:
            if self._are_fenced:
                self._library.leave()
            self._are_fenced = False

    def fill_with(self, byte: int) -> None:
        """Fills the buffers that are taken from now on with one of `FILLS`."""
        if self._are_fenced:
            self._library.fill_with(byte)

    def look(self, *, on: str = "") -> None:
        """Returns if nothing has been written beside a buffer.

        Args:
            on: what a failure's message begins with.

        Raises:
            Refused: something has.
        """
        num_bytes = self._library.touched() if self._are_fenced else 0
        if num_bytes:
            raise Refused("wrong_result", f"{on}it wrote beside memory of its own, {num_bytes:,} bytes", retire=True)

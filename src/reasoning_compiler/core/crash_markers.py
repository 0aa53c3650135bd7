"""What TVM is being asked to do, noted where another process can read it when TVM has ended this one.

Applying a schedule runs native code, which now and then ends the process (as in apache/tvm issue 18424) or never comes
back. Whoever watches over this process (cli/watched.py) then finds in the note what it was, and it is not tried again.
Without a watcher a note costs nothing, with one some microseconds.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import Program, Value
from reasoning_compiler.core.records import Record

_SLOT_BYTES = 1 << 19
_LENGTH_BYTES = 4
_NUM_FRAMES = 3
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (\S+)$', re.MULTILINE)

Slot = Literal["folder", "marker", "ended"]
_SLOTS: tuple[Slot, ...] = ("folder", "marker", "ended")


@dataclass(frozen=True)
class CrashMarker(Record):
    """Records what TVM is asked to do, in case it crashes.

    Args:
        program: the program that is applied or changed; None for one yet to be drawn.
        edits: the changes of decisions; empty if the program is only applied.
        seed: of the program to be drawn.
        primitives: the primitives that are added.
    """

    program: Program | None
    edits: tuple[tuple[str, Value], ...] = ()
    seed: int | None = None
    primitives: tuple[Primitive, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether the program is being changed, and not just applied."""
        return bool(self.edits or self.primitives)

    @property
    def text(self) -> str:
        """The marker as JSON text, equal for equal markers."""
        # A model may propose values of any kind, of which not all can be hashed, or be JSON.
        return json.dumps(self.to_json(), separators=(",", ":"), default=str)


@dataclass(frozen=True)
class Crash(Record):
    """The end of a process that worked on a run, which it did not choose.

    Args:
        how: by what it ended, as "SIGSEGV", or why it was ended.
        risk: what TVM was being asked to do; None where it was nothing about a program.
        where: the innermost Python functions at that moment, innermost first; may be empty.
    """

    how: str
    risk: CrashMarker | None = None
    where: str = ""


class Note:
    """Memory that two processes share: one writes what it is at, the other reads it when the first has ended.

    Args:
        fd: a file of the note's size, as `Note.create` makes it and the other process inherits it.
        trace_fd: a file that takes the stack of a process that crashes.
    """

    def __init__(self, fd: int, trace_fd: int) -> None:
        self.fds = (fd, trace_fd)
        self._memory = mmap.mmap(fd, len(_SLOTS) * _SLOT_BYTES)

    @classmethod
    def create(cls) -> Note:
        """Returns an empty note, in files that no folder lists."""
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as trace:
            file.truncate(len(_SLOTS) * _SLOT_BYTES)
            return cls(os.dup(file.fileno()), os.dup(trace.fileno()))

    def write(self, slot: Slot, text: str) -> None:
        """Puts a text into a slot; empty to clear it. One that is too long is left out."""
        data = text.encode()
        start = _SLOTS.index(slot) * _SLOT_BYTES
        self._memory[start : start + _LENGTH_BYTES] = bytes(_LENGTH_BYTES)  # nothing, while it is half written
        if data and len(data) <= _SLOT_BYTES - _LENGTH_BYTES:
            at = start + _LENGTH_BYTES
            self._memory[at : at + len(data)] = data
            self._memory[start:at] = len(data).to_bytes(_LENGTH_BYTES, "big")

    def read(self, slot: Slot) -> str:
        """Returns the text of a slot; empty where there is none."""
        start = _SLOTS.index(slot) * _SLOT_BYTES
        at = start + _LENGTH_BYTES
        length = int.from_bytes(self._memory[start:at], "big")
        return self._memory[at : at + length].decode(errors="replace")

    @property
    def marker(self) -> tuple[CrashMarker, float] | None:
        """What TVM is being asked to do, and for how many seconds it has been at it; None for nothing."""
        text = self.read("marker")
        if not text:
            return None
        since, _, marker = text.partition(" ")
        return CrashMarker.from_json(json.loads(marker)), time.monotonic() - float(since)

    @property
    def where(self) -> str:
        """Where in this package, or else where at all, the process crashed; empty where nobody noted it."""
        frames = _FRAME.findall(os.pread(self.fds[1], 1 << 16, 0).decode(errors="replace"))
        return ", from ".join(f"{name} ({Path(path).name}:{line})" for path, line, name in frames[:_NUM_FRAMES])

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()
        for fd in self.fds:
            os.close(fd)


_note: Note | None = None  # of this process, where another watches over it


def keep(note: Note) -> None:
    """Makes this process write what it is at into a note."""
    global _note
    _note = note


def works_on(folder: Path | None) -> None:
    """Notes the run folder, from which another process can go on, and from now on also where this process crashes.

    None stands for work that only this process can do, as TVM's own search.

    To be called in the main thread, after TVM has been imported: its own words at a crash go to the terminal, and are
    left out.
    """
    if _note is not None:
        _note.write("folder", str(folder.resolve()) if folder else "")
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        faulthandler.enable(file=_note.fds[1], all_threads=False)


def has_ended(code: int) -> None:
    """Notes the exit code of this process, whose work is done: a crash after that is of no interest."""
    if _note is not None:
        _note.write("ended", str(code))


@contextmanager
def marked(marker: CrashMarker) -> Iterator[None]:
    """Notes, until the block's end, what TVM is being asked to do. Blocks may be nested: the innermost counts."""
    if _note is None:
        yield
        return
    before = _note.read("marker")
    _note.write("marker", f"{time.monotonic()} {marker.text}")
    try:
        yield
    finally:
        _note.write("marker", before)

"""Temporary folders that are gone afterwards. What a `kill -9` leaves behind, the next process removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from reasoning_compiler.core.errors import ReasoningCompilerError

_PREFIX = "reasonc-"
_LOCK = "in-use"


class Scratch:
    """A folder that its owner holds a lock on as long as it lives.

    Args:
        parent: where to make it; None for the system's temporary folder.

    Raises:
        ReasoningCompilerError: it cannot be made there.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(parent if parent is not None else tempfile.gettempdir()).resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            # Others look for the lock by its name, and it is locked before it has that name.
            unnamed = self.path / f".{_LOCK}"
            lock_fd = _lock(unnamed)
            unnamed.rename(self.path / _LOCK)
        except OSError as error:
            raise no_space(error) from None
        self._num_made = 0
        self._remove = weakref.finalize(self, _remove, self.path, lock_fd)

    def new_folder(self) -> Path:
        """Returns a new folder in it. Raises ReasoningCompilerError where it cannot be made."""
        self._num_made += 1
        folder = self.path / f"{self._num_made:06}"
        try:
            folder.mkdir()
        except OSError as error:
            raise no_space(error) from None
        return folder

    def close(self) -> None:
        """Removes it, as the end of the interpreter does. May be called again."""
        self._remove()


def no_space(error: OSError) -> ReasoningCompilerError:
    """Returns the error that says, to a person, that temporary files cannot be written."""
    return ReasoningCompilerError(
        f"temporary files cannot be written ({error}): free some space, or set TMPDIR to another folder"
    )


def _sweep(root: Path) -> None:
    """Removes the folders that nobody holds a lock on."""
    for folder in root.glob(_PREFIX + "*"):
        lock = folder / _LOCK
        if not lock.exists():
            continue  # none of ours, or its owner is about to lock it
        with suppress(OSError):
            fd = _lock(lock)
            if fd is not None:
                _remove(folder, fd)


def _remove(folder: Path, lock_fd: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock_fd)


def _lock(path: Path) -> int | None:
    """Returns the descriptor that holds the lock, None where another process does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd

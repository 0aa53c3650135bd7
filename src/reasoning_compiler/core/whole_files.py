"""Files that appear whole or not at all, and files that belong together."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reasoning_compiler.core.errors import JournalError


def checksum(data: bytes) -> str:
    """Returns the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that, whenever we are stopped, the old or the new one is there. Raises OSError."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes several files, each whole or not at all, and none before there is room for all. Raises OSError.

    A kill between two of them leaves some old and some new: whoever reads them needs checksums.
    """
    with ExitStack() as parts:
        renames = []
        for path, data in files.items():
            part = path.with_name(f".{path.name}.new")
            parts.callback(part.unlink, missing_ok=True)
            part.write_bytes(data)
            shutil.copymode(path, part) if path.exists() else part.chmod(0o644)
            renames.append((part, path))
        for part, path in renames:
            part.replace(path)


@contextmanager
def writing(path: Path, more: str = "") -> Iterator[None]:
    """Raises JournalError, with `more` behind it, where what is written inside fails."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"`{path}` could not be written ({error.strerror or error}){more}") from error

"""A run's folder: what lies in it, when a new run may have it, and how a run that came to nothing leaves it.

What a run deletes is what it has made. That is why it takes only a folder that is new or empty.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from reasoning_compiler.core.errors import UsageError

JOURNAL_FILE = "journal.jsonl"
ENVIRONMENT_FILE = "environment.json"
TRANSCRIPT_FILE = "transcript.jsonl"
WORKLOAD_FILE = "workload.json"
_BEST = "best"

_HEADER_START = b'{"event":"run",'
_AT_START = {JOURNAL_FILE, ENVIRONMENT_FILE, WORKLOAD_FILE}


def check_new(folder: Path) -> None:
    """Returns if a new run may have a folder: there is none, it is empty, or a start without a whole header is in it.

    Raises:
        UsageError: the folder holds another run, or anything else.
        OSError: it cannot be read.
    """
    path = folder / JOURNAL_FILE
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if JOURNAL_FILE in names:
        with open(path, "rb") as file:
            start = file.read(1 << 20)
        if b"\n" in start or not _HEADER_START.startswith(start[: len(_HEADER_START)]):
            raise UsageError(
                f"`{folder}` holds another run; continue it (`reasonc resume {folder}`) or choose another folder"
            )
        names -= _AT_START
    if names:
        raise UsageError(
            f"`{folder}` is not empty (it holds `{min(names)}`); a run needs a folder of its own: name a new one"
        )


def remove_run(folder: Path) -> None:
    """Deletes what a run has made in its folder, and nothing else. Raises OSError."""
    for name in (JOURNAL_FILE, ENVIRONMENT_FILE, TRANSCRIPT_FILE, WORKLOAD_FILE):
        (folder / name).unlink(missing_ok=True)
    if (folder / _BEST).exists():
        shutil.rmtree(folder / _BEST)


def remove_empty(folder: Path) -> None:
    """Deletes a folder, unless there is anything in it. Raises OSError."""
    if not any(folder.iterdir()):
        folder.rmdir()

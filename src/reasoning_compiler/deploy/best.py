"""The folder `best/` of a run: the best program so far, whole and usable at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import JournalError
from reasoning_compiler.core.steps import Step
from reasoning_compiler.deploy.library import write_library

LIBRARY_FILE = "kernel.so"
_PROGRAM_FILE = "program.json"


def save_best(
    folder: Path, artifact: Path, *, step: Step, schedule: Any, about: Mapping[str, str | int | float]
) -> None:
    """Writes the library, the program, its trace and its TVMScript; what was there before is replaced.

    The files in the folder always belong together: whoever is killed here leaves the old ones, the new ones, or for
    a moment between the two, no folder.

    Args:
        folder: the run's `best/`.
        artifact: the built library.
        step: the node that the library belongs to, with its measurement.
        schedule: its TVM schedule.
        about: what to keep with the library.

    Raises:
        JournalError: the disk is full or fails.
    """
    measurement = step.measurement.to_json() if step.measurement else None
    record = {"node": step.node, "program": step.program.to_json(), "measurement": measurement}
    new, old = (folder.with_name(f".{folder.name}-{which}") for which in ("new", "old"))
    try:
        for left_over in (new, old):
            shutil.rmtree(left_over, ignore_errors=True)
        new.mkdir()
        write_library(artifact, new / LIBRARY_FILE, about=about)
        (new / _PROGRAM_FILE).write_text(json.dumps(record, indent=1) + "\n")
        trace = schedule.trace.as_json() if schedule.trace is not None else []
        (new / "trace.json").write_text(json.dumps(trace, default=_plain) + "\n")
        (new / "schedule.py").write_text(schedule.mod.script() + "\n")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise JournalError(f"`{folder}` could not be written ({error.strerror}); the journal is intact") from error


def saved_node(folder: Path) -> int | None:
    """Returns the node whose library is in a run's folder `best/`; None where there is none."""
    try:
        return int(json.loads((folder / _PROGRAM_FILE).read_text())["node"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """Returns what JSON can hold of a number or an array of TVM's."""
    return value.value if hasattr(value, "value") else list(value)

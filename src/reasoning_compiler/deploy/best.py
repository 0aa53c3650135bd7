"""The folder `best/` of a run: the best program so far, whole and usable at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoning_compiler.deploy.library import write_library
from reasoning_compiler.errors import JournalError
from reasoning_compiler.records import Step

LIBRARY_FILE = "kernel.so"


def save_best(
    folder: Path, artifact: Path, *, step: Step, schedule: Any, about: Mapping[str, str | int | float]
) -> None:
    """Writes the library, the program, its trace and its TVMScript; what was there before is replaced.

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_library(artifact, folder / LIBRARY_FILE, about=about)
        (folder / "program.json").write_text(json.dumps(record, indent=1) + "\n")
        trace = schedule.trace.as_json() if schedule.trace is not None else []
        (folder / "trace.json").write_text(json.dumps(trace, default=str) + "\n")
        (folder / "schedule.py").write_text(schedule.mod.script() + "\n")
    except OSError as error:
        raise JournalError(f"`{folder}` could not be written ({error.strerror}); the journal is intact") from error

"""The folder `best/` of a run: the best program so far, whole and usable at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoning_compiler.codegen.signature import read_signature
from reasoning_compiler.core.errors import JournalError
from reasoning_compiler.core.steps import Step
from reasoning_compiler.core.whole_files import checksum, write_together
from reasoning_compiler.deploy.library import library_files

LIBRARY_FILE = "kernel.so"
_PROGRAM_FILE = "program.json"


def save_best(
    folder: Path, artifact: Path, *, step: Step, schedule: Any, about: Mapping[str, str | int | float]
) -> None:
    """Writes the library, the program, its trace and its TVMScript in place of those that were there before.

    The program's file holds the checksums of the others: after a kill between two of them, `saved_node` says that there
    is none, and a resumed run writes them again. It also names the pipeline's version: `schedule.py`, compiled by that
    version for the target in the library's signature, is the library's code.

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
    trace = schedule.trace.as_json() if schedule.trace is not None else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = library_files(artifact, folder / LIBRARY_FILE, about=about)
        files[folder / "trace.json"] = (json.dumps(trace, default=_plain) + "\n").encode()
        files[folder / "schedule.py"] = (schedule.mod.script() + "\n").encode()
        record = {
            "node": step.node,
            "program": step.program.to_json(),
            "pipeline": read_signature(artifact).pipeline,
            "measurement": measurement,
            "sha256": {path.name: checksum(data) for path, data in files.items()},
        }
        write_together(files | {folder / _PROGRAM_FILE: (json.dumps(record, indent=1) + "\n").encode()})
    except OSError as error:
        raise JournalError(f"`{folder}` could not be written ({error.strerror}); the journal is intact") from error


def saved_node(folder: Path) -> int | None:
    """Returns the node whose files are in a run's folder `best/`; None where they are not there, or not all of one."""
    try:
        record = json.loads((folder / _PROGRAM_FILE).read_text())
        whole = all(checksum((folder / name).read_bytes()) == value for name, value in record["sha256"].items())
        return int(record["node"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(value: Any) -> Any:
    """Returns what JSON can hold of a number or an array of TVM's."""
    return value.value if hasattr(value, "value") else list(value)

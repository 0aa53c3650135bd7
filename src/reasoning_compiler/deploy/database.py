"""A run's measurements as MetaSchedule's JSON database, so that TVM's own passes can apply them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.journal import Run, unknown_here
from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from reasoning_compiler.space.space import Space


def export_database(runs: Sequence[tuple[Run, Space]], folder: str | os.PathLike[str]) -> int:
    """Returns how many tuning records were written to a new database in `folder`.

    The database holds each run's workload and every verified full measurement, none of what was only looked at.

    Args:
        runs: to export, each with the space of its programs.
        folder: where `database_workload.json` and `database_tuning_record.json` go; must not hold a database yet.

    Raises:
        UsageError: the folder holds a database already, or cannot be written; a space does not know a program.
    """
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    folder = Path(folder)
    paths = (folder / "database_workload.json", folder / "database_tuning_record.json")
    if any(path.exists() for path in paths):
        raise UsageError(f"`{folder}` holds a database already; choose another folder")
    records = [(space, _records(run, space)) for run, space in runs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        database = ms.database.JSONDatabase(*map(str, paths))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"`{folder}` cannot be written: {error}") from None
    for space, found in records:
        entry = database.commit_workload(space.mod)
        arguments = ms.arg_info.ArgInfo.from_entry_func(space.mod)
        for trace, secs in found:
            database.commit_tuning_record(ms.database.TuningRecord(trace, entry, secs, space.target, arguments))
    return sum(len(found) for _, found in records)


def _records(run: Run, space: Space) -> list[tuple[Any, list[float]]]:
    """Returns the trace and the latencies in seconds of each program that counts."""
    measured = [(s.program, m) for s in run.steps if s.node and (m := s.measurement) is not None and m.counts]
    try:
        return [(space.schedule(program).trace, [float(s) for s in m.latencies_secs]) for program, m in measured]
    except IllegalProgramError as error:
        raise unknown_here(run, error) from error

"""A run's measurements as MetaSchedule's JSON database, so that TVM's own passes can apply them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.journal import Run, unknown_here
from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from reasoning_compiler.space.space import Space


def export_database(run: Run, folder: str | os.PathLike[str], *, space: Space) -> int:
    """Returns how many tuning records were written to a new database in `folder`.

    The database holds one workload and every verified full measurement, none of what was only looked at.

    Args:
        run: the run to export.
        folder: where `database_workload.json` and `database_tuning_record.json` go; must not hold a database yet.
        space: the space of the run's programs.

    Raises:
        UsageError: the folder holds a database already, or cannot be written; the space does not know a program.
    """
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    folder = Path(folder)
    paths = (folder / "database_workload.json", folder / "database_tuning_record.json")
    if any(path.exists() for path in paths):
        raise UsageError(f"`{folder}` holds a database already; choose another folder")
    measured = [(s.program, m) for s in run.steps if s.node and (m := s.measurement) is not None and m.counts]
    try:
        traces = [space.schedule(program).trace for program, _ in measured]
    except IllegalProgramError as error:
        raise unknown_here(run, error) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        database = ms.database.JSONDatabase(*map(str, paths))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"`{folder}` cannot be written: {error}") from None
    entry = database.commit_workload(space.mod)
    arguments = ms.arg_info.ArgInfo.from_entry_func(space.mod)
    for trace, (_, measurement) in zip(traces, measured, strict=True):
        secs = [float(s) for s in measurement.latencies_secs]
        database.commit_tuning_record(ms.database.TuningRecord(trace, entry, secs, space.target, arguments))
    return len(measured)

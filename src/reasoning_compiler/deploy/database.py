"""A run's measurements as MetaSchedule's JSON database, so that TVM's own passes can apply them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasoning_compiler.errors import IllegalProgramError, UsageError
from reasoning_compiler.journal import Run
from reasoning_compiler.machine import import_tvm


def export_database(run: Run, folder: Path, *, mod: Any, target: Any) -> int:
    """Returns how many tuning records were written to a new database in `folder`.

    The database holds one workload and every verified full measurement, none of what was only looked at.

    Args:
        run: the run to export.
        mod: the run's workload as an IRModule.
        target: the TVM target of its programs.
        folder: where `database_workload.json` and `database_tuning_record.json` go; must not hold a database yet.

    Raises:
        UsageError: the folder holds a database already, or cannot be written.
    """
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    from reasoning_compiler.space.space import Space

    paths = (folder / "database_workload.json", folder / "database_tuning_record.json")
    if any(path.exists() for path in paths):
        raise UsageError(f"`{folder}` holds a database already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        database = ms.database.JSONDatabase(*map(str, paths))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"`{folder}` cannot be written: {error}") from None
    space = Space(mod, target)
    entry = database.commit_workload(space.mod)
    arguments = ms.arg_info.ArgInfo.from_entry_func(space.mod)
    count = 0
    for step in run.steps:
        measurement = step.measurement
        if not step.node or measurement is None or not measurement.ok or measurement.cut or not measurement.verified:
            continue
        try:
            trace = space.schedule(step.program).trace
        except IllegalProgramError:
            continue
        secs = [float(s) for s in measurement.latencies_secs]
        database.commit_tuning_record(ms.database.TuningRecord(trace, entry, secs, target, arguments))
        count += 1
    return count

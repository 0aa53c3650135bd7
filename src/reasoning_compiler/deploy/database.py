"""A run's measurements as MetaSchedule's JSON database, so that TVM's own passes can apply them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reasoning_compiler.codegen import PIPELINE_VERSION, needed_passes
from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.journal import Run, unknown_here
from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from reasoning_compiler.space.space import Space


def export_database(runs: Sequence[tuple[Run, Space]], folder: str | os.PathLike[str]) -> int:
    """Returns how many tuning records were written to a new database in `folder`.

    The database holds each run's workload and every verified full measurement, none of what was only looked at. Its
    traces are TVM's own, but what was measured is code of `codegen`'s pipeline. `database_pipeline.json` says for each
    record, in their order, which of its passes the program needs: where it needs any, plain TVM builds other code.

    Args:
        runs: to export, each with the space of its programs.
        folder: for these three files, `database_workload.json`, `database_tuning_record.json` and
            `database_pipeline.json`; must not hold a database yet.

    Raises:
        UsageError: the folder holds a database already, or cannot be written; a space does not know a program.
    """
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    folder = Path(folder)
    paths = [folder / f"database_{what}.json" for what in ("workload", "tuning_record", "pipeline")]
    if any(path.exists() for path in paths):
        raise UsageError(f"`{folder}` holds a database already; choose another folder")
    measured = [(run, space, _measured(run, space)) for run, space in runs]
    needed = [_needed(run, space, each) for run, space, found in measured for each in found]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        database = ms.database.JSONDatabase(*map(str, paths[:2]))
        paths[2].write_text(json.dumps({"pipeline": PIPELINE_VERSION, "records": needed}, indent=1) + "\n")
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"`{folder}` cannot be written: {error}") from None
    for _, space, found in measured:
        entry = database.commit_workload(space.mod)
        arguments = ms.arg_info.ArgInfo.from_entry_func(space.mod)
        for each in found:
            secs = [float(latency) for latency in each.latencies_secs]
            record = ms.database.TuningRecord(each.schedule.trace, entry, secs, space.target, arguments)
            database.commit_tuning_record(record)
    return len(needed)


class _Measured(NamedTuple):
    """A program that counts: its node, TVM schedule, and latencies in seconds."""

    node: int
    schedule: Any
    latencies_secs: tuple[float, ...]


def _measured(run: Run, space: Space) -> list[_Measured]:
    found = [(s, m) for s in run.steps if s.node and (m := s.measurement) is not None and m.counts]
    try:
        return [_Measured(step.node, space.schedule(step.program), m.latencies_secs) for step, m in found]
    except IllegalProgramError as error:
        raise unknown_here(run, error) from error


def _needed(run: Run, space: Space, measured: _Measured) -> dict[str, Any]:
    """Returns what the pipeline's file says of a record."""
    passes = needed_passes(measured.schedule.mod, space.target)
    return {"workload": run.header.spec, "node": measured.node, "needs": list(passes)}

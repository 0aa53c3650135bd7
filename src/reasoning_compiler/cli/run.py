"""`reasonc run`: time what a run saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.cli.options import Json, TaskName, saved_library
from reasoning_compiler.cli.output import one_or_by_task, print_json

if TYPE_CHECKING:
    from reasoning_compiler.core.measurements import Measurement
    from reasoning_compiler.journal import Run


def run(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    rounds: Annotated[int, typer.Option(help="Timings of each program, interleaved.", min=1)] = 10,
    task: TaskName = None,
    json: Json = False,
) -> None:
    """Time the saved library against the untuned program in a fresh process, and verify its results.

    What was measured on devices is timed there.
    """
    from reasoning_compiler.journal import read_session

    runs = read_session(run).chosen(task)
    records = []
    for each in runs:
        if not json and len(runs) > 1:
            typer.echo(f"{each.header.task}:")
        tuned, untuned = _timed(each, rounds)
        speedup = untuned.latency_secs / tuned.latency_secs if tuned.ok and untuned.ok else None
        records.append({"tuned": tuned.to_json(), "untuned": untuned.to_json(), "speedup": speedup})
        if not json:
            _tell(tuned, untuned, speedup)
    if json:
        print_json(one_or_by_task(runs, records))


def _timed(run: Run, rounds: int) -> tuple[Measurement, Measurement]:
    """Returns what the saved library and the untuned program of a task take."""
    from reasoning_compiler.deploy import time_against_untuned
    from reasoning_compiler.session import NOT_KEPT, devices_of, load_workload

    library = saved_library(run)
    if run.header.own_reference:
        typer.echo(f"note: {NOT_KEPT}", err=True)
    return time_against_untuned(
        library,
        load_workload(run),
        num_threads=int(run.header.fingerprint["threads"]),
        rounds=rounds,
        flush_cache=bool(run.config.get("flush_cache")),
        devices=devices_of(run),
    )


def _tell(tuned: Measurement, untuned: Measurement, speedup: float | None) -> None:
    from reasoning_compiler.report.units import time_text

    for name, measurement in (("tuned", tuned), ("untuned", untuned)):
        if measurement.ok:
            spread = f"{time_text(min(measurement.latencies_secs))} to {time_text(max(measurement.latencies_secs))}"
            count = len(measurement.latencies_secs)
            checked = "verified" if measurement.verified else "not verified"
            typer.echo(f"{name:8} {time_text(measurement.latency_secs):>9}   ({count} runs, {spread}, {checked})")
        elif measurement.failure is not None:
            typer.echo(f"{name:8} failed: {measurement.failure.kind}: {measurement.failure.message}")
    if speedup is not None:
        typer.echo(f"speed-up over untuned: {speedup:.3g}×")

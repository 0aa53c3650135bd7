"""`reasonc run`: time what a run saved."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.core.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    rounds: Annotated[int, typer.Option(help="Timings of each, in turns.", min=1)] = 10,
    json: Json = False,
) -> None:
    """Time the saved library against the untuned program, in a fresh process, results verified.

    What was measured on devices is timed there.
    """
    from reasoning_compiler.deploy import time_against_untuned
    from reasoning_compiler.deploy.best import LIBRARY_FILE
    from reasoning_compiler.journal import read_run
    from reasoning_compiler.report.units import time_text
    from reasoning_compiler.session import NOT_KEPT, devices_of, load_workload

    found = read_run(run)
    library = run / "best" / LIBRARY_FILE
    if not library.exists():
        raise UsageError(f"`{run}` has no library yet; go on with `reasonc resume {run}`")
    if found.header.own_reference:
        typer.echo(f"note: {NOT_KEPT}", err=True)
    threads = int(found.header.fingerprint["threads"])
    tuned, untuned = time_against_untuned(
        library,
        load_workload(found),
        num_threads=threads,
        rounds=rounds,
        flush_cache=bool(found.config.get("flush_cache")),
        devices=devices_of(found),
    )
    speedup = untuned.latency_secs / tuned.latency_secs if tuned.ok and untuned.ok else None
    if json:
        record = {"tuned": tuned.to_json(), "untuned": untuned.to_json(), "speedup": speedup}
        typer.echo(json_module.dumps(record, indent=2))
        return
    for name, measurement in (("tuned", tuned), ("untuned", untuned)):
        if measurement.ok:
            spread = f"{time_text(min(measurement.latencies_secs))} to {time_text(max(measurement.latencies_secs))}"
            count = len(measurement.latencies_secs)
            checked = "verified" if measurement.verified else "not verified"
            typer.echo(f"{name:8} {time_text(measurement.latency_secs):>9}   ({count} runs, {spread}, {checked})")
        elif measurement.failure is not None:
            typer.echo(f"{name:8} failed: {measurement.failure.kind}: {measurement.failure.message}")
    if speedup is not None:
        typer.echo(f"{speedup:.3g}× as fast as untuned")

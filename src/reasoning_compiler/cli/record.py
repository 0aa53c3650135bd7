"""`reasonc record`: every program of a small space, measured once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.cli.experimenting import stop
from reasoning_compiler.cli.options import Quiet, Threads, command_line

if TYPE_CHECKING:
    from reasoning_compiler.experiment.record import Recording

_QUIET_SECS = 10.0


def register(app: typer.Typer) -> None:
    app.command("record")(record)


def record(
    workload: Annotated[str, typer.Argument(help="Kernel, as for `reasonc tune`. Prefer small shapes.")],
    samples: Annotated[int, typer.Option(help="Maximum number of programs; the space is restricted to fit.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="Output file, ending in .landscape.gz.")] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Random seed of the inputs and of the order.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Record a tabular benchmark: measure every program of a restricted space. Resumes an interrupted recording."""
    from reasoning_compiler.experiment.record import record as record_benchmark
    from reasoning_compiler.report.units import time_text

    said_at = 0.0

    def show(recording: Recording) -> None:
        nonlocal said_at
        if quiet or (time.monotonic() - said_at < _QUIET_SECS and not recording.is_complete):
            return
        said_at = time.monotonic()
        best = f", fastest {time_text(recording.best_secs)}" if recording.best_secs is not None else ""
        sys.stderr.write(f"{recording.num_done}/{recording.num_programs} programs, tiles {recording.tiling}{best}\n")

    try:
        path = record_benchmark(
            workload,
            samples=samples,
            out=out,
            threads=threads,
            seed=seed,
            command=command_line(),
            on_progress=show,
        )
    except KeyboardInterrupt:
        stop("interrupted; the same command goes on with what was recorded")
    typer.echo(f"{path} holds the recording. Search in it: reasonc compare {path} --methods random,mcts,expert")

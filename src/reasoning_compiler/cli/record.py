"""`reasonc record`: every program of a small space, measured once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.cli.options import Quiet, Threads, command_line
from reasoning_compiler.cli.output import LogLines, stop

if TYPE_CHECKING:
    from reasoning_compiler.experiment.record import Recording

_QUIET_SECS = 10.0


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

    lines = LogLines(_QUIET_SECS)

    def show(recording: Recording) -> None:
        best = f", fastest {time_text(recording.best_secs)}" if recording.best_secs is not None else ""
        line = f"{recording.num_done}/{recording.num_programs} programs, tiles {recording.tiling}{best}"
        lines.write(line, matters=recording.is_complete)

    try:
        path = record_benchmark(
            workload,
            samples=samples,
            out=out,
            threads=threads,
            seed=seed,
            command=command_line(),
            on_progress=(lambda recording: None) if quiet else show,
        )
    except KeyboardInterrupt:
        stop("interrupted; the same command goes on with what was recorded")
    typer.echo(f"{path} holds the recording. Search in it: reasonc compare {path} --methods random,mcts,expert")

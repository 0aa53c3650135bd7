"""The options that experiments share, and what people see while they go on, and at their end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasoning_compiler.cli.options import Json, Quiet, Threads, Timeout, command_line
from reasoning_compiler.cli.output import LogLines, print_json, stop

if TYPE_CHECKING:
    from reasoning_compiler.experiment.experiment import ExperimentProgress
    from reasoning_compiler.session import Settings

_QUIET_SECS = 30.0  # after so long without a line, there is one

Workloads = Annotated[
    list[str],
    typer.Argument(help="Kernels, as for `reasonc tune`, or tabular benchmarks (*.landscape.gz)."),
]


@dataclass(frozen=True)
class ExperimentOptions:
    """How the runs of an experiment are made and shown, as the command line says it."""

    samples: Annotated[int, typer.Option(help="Number of programs measured per run.")] = 64
    repeats: Annotated[int, typer.Option(help="Runs of each configuration, with consecutive seeds.")] = 3
    seed: Annotated[int, typer.Option(help="First random seed.")] = 0
    threads: Threads = None
    timeout_secs: Timeout = 30.0
    out: Annotated[
        Path | None,
        typer.Option(help="Results folder, new or to be resumed. Default: a new one in experiments/."),
    ] = None
    json: Json = False
    quiet: Quiet = False

    def settings(self, **more: Any) -> Settings:
        """Returns the settings of the runs; `more` are further fields of them."""
        from reasoning_compiler.session import Settings

        run = {"samples": self.samples, "seed": self.seed, "threads": self.threads, "timeout_secs": self.timeout_secs}
        return Settings(**run, **more)


def run_and_show(kind: str, experiment: Callable[..., dict[str, Any]], options: ExperimentOptions) -> None:
    """Shows an experiment's progress and its results; exits with 130 where it was interrupted.

    Args:
        kind: "compare" or "ablate".
        experiment: what it is, but for the arguments that all experiments have.
        options: of the command line.
    """
    from reasoning_compiler.experiment.compare import PAGE_FILE, new_folder
    from reasoning_compiler.experiment.experiment import PLAN_FILE, RESULTS_FILE
    from reasoning_compiler.experiment.tables import page_of, to_text

    folder = options.out or new_folder(kind)
    watch = (lambda watched: None) if options.quiet or options.json else _lines()
    try:
        results = experiment(repeats=options.repeats, out=folder, command=command_line(), watch=watch)
    except KeyboardInterrupt:
        if not (folder / PLAN_FILE).exists():
            stop("interrupted before there was anything; nothing was written")
        stop(f"interrupted; the same command with `--out {shlex.quote(str(folder))}` goes on")
    if options.json:
        print_json(results)
        return
    typer.echo(to_text(page_of(results)))
    typer.echo(f"The page with the curves is {folder / PAGE_FILE}, the numbers are in {folder / RESULTS_FILE}.")


def _lines() -> Callable[[ExperimentProgress], None]:
    """Returns what takes progress and writes a line for each run, and one now and then in between."""
    from reasoning_compiler.report.units import time_text

    lines = LogLines(_QUIET_SECS)

    def show(watched: ExperimentProgress) -> None:
        line = f"{watched.num_done}/{watched.num_cells} runs: {watched.cell}"
        progress = watched.progress
        if progress is not None:
            line += f", {progress.num_samples}/{progress.max_samples} samples"
            if progress.best_secs is not None:
                line += f", best {time_text(progress.best_secs)}"
        lines.write(line, matters=progress is None)

    return show

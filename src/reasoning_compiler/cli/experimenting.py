"""What people see while experiments go on, and at their end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from reasoning_compiler.cli.output import LogLines, print_json, stop

if TYPE_CHECKING:
    from pathlib import Path

    from reasoning_compiler.experiment.experiment import Watched

_QUIET_SECS = 30.0  # after so long without a line, there is one


def conduct(
    work: Callable[[Callable[[Watched], None]], dict[str, Any]], *, folder: Path, quiet: bool, as_json: bool
) -> None:
    """Shows an experiment's progress and its results; exits with 130 where it was interrupted.

    Args:
        work: does it; it is given what takes its progress.
        folder: of the results.
        quiet: show no progress.
        as_json: print one JSON object at the end, and nothing else.
    """
    from reasoning_compiler.experiment.compare import PAGE_FILE
    from reasoning_compiler.experiment.experiment import PLAN_FILE, RESULTS_FILE
    from reasoning_compiler.experiment.tables import page_of, to_text

    try:
        results = work((lambda watched: None) if quiet or as_json else _lines())
    except KeyboardInterrupt:
        if not (folder / PLAN_FILE).exists():
            stop("interrupted before there was anything; nothing was written")
        stop(f"interrupted; the same command with `--out {shlex.quote(str(folder))}` goes on")
    if as_json:
        print_json(results)
        return
    typer.echo(to_text(page_of(results)))
    typer.echo(f"The page with the curves is {folder / PAGE_FILE}, the numbers are in {folder / RESULTS_FILE}.")


def _lines() -> Callable[[Watched], None]:
    """Returns what takes progress and writes a line for each run, and one now and then in between."""
    from reasoning_compiler.report.units import time_text

    lines = LogLines(_QUIET_SECS)

    def show(watched: Watched) -> None:
        line = f"{watched.num_done}/{watched.num_cells} runs: {watched.cell}"
        progress = watched.progress
        if progress is not None:
            line += f", {progress.num_samples}/{progress.max_samples} samples"
            if progress.best_secs is not None:
                line += f", best {time_text(progress.best_secs)}"
        lines.write(line, matters=progress is None)

    return show

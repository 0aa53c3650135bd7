"""`reasonc resume`: go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.tune import Json, Quiet
from reasoning_compiler.cli.watch import finish, watching


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    samples: Annotated[int | None, typer.Option(help="The new total of programs to measure.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The new limit of the run's total time.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted, or let it take more samples."""
    from reasoning_compiler.tuner import resume as resume_run

    with watching(quiet=quiet or json) as watch:
        result = resume_run(run, samples=samples, minutes=minutes, on_progress=watch)
    finish(result, as_json=json)

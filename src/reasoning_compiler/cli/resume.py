"""`reasonc resume`: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json, Quiet
from reasoning_compiler.cli.tune import Key, Rpc
from reasoning_compiler.cli.watch import run_and_show


def resume(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    samples: Annotated[int | None, typer.Option(help="New total number of programs to measure.")] = None,
    minutes: Annotated[float | None, typer.Option(help="New limit on the total time.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many samples in a row without improvement.")
    ] = None,
    rpc: Rpc = None,
    key: Key = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Resume an interrupted run, or extend a finished one."""
    from reasoning_compiler.session import resume as resume_run

    run_and_show(
        lambda watch: resume_run(
            run, samples=samples, minutes=minutes, patience=patience, rpc=rpc, key=key, on_progress=watch
        ),
        quiet=quiet,
        as_json=json,
    )

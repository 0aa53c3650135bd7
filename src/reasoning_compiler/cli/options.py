"""The options that several commands share, and the command line as it was given."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from reasoning_compiler.journal import Run

Batch = Annotated[int, typer.Option(help="Programs measured per batch.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="Task of a session with several tasks, named as in the report.")
]
Threads = Annotated[int | None, typer.Option(help="Number of threads. Default: all physical cores.")]
Timeout = Annotated[float, typer.Option(help="Timeout of one program, in seconds.")]


def command_line() -> str:
    """Returns the command line of this process, as a shell takes it; results and journals keep it."""
    return shlex.join(["reasonc", *sys.argv[1:]])


def saved_library(run: Run) -> Path:
    """Returns the library that a run has saved. Raises UsageError where there is none yet."""
    from reasoning_compiler.deploy.best import LIBRARY_FILE

    library = run.best_folder / LIBRARY_FILE
    if not library.exists():
        raise UsageError(f"`{run.folder}` has no library yet; go on with `reasonc resume {run.folder}`")
    return library

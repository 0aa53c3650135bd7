"""The options that several commands share, and the command line as it was given."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

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
Timeout = Annotated[float, typer.Option("--timeout", help="Timeout of one program, in seconds.")]


def with_options_of_records(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with an option for each field of its parameters that are dataclasses, in their place."""
    hints = get_type_hints(command, include_extras=True)
    records = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    options: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in records:
            types = get_type_hints(records[name], include_extras=True)
            options += [(each.name, types[each.name], each.default) for each in fields(records[name])]
        else:
            options.append((name, hints[name], parameter.default))

    @wraps(command)
    def spread(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in records.items()}
        command(**given, **made)

    spread.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=t, default=d) for n, t, d in options]
    )
    return spread


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

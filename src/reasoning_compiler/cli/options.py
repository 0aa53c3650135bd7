"""The options that several commands share, and the command line as it was given."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

Batch = Annotated[int, typer.Option(help="Programs measured between two looks at the tree.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Threads = Annotated[int | None, typer.Option(help="Threads to use; all physical cores if not given.")]
Timeout = Annotated[float, typer.Option(help="Seconds that one program may take.")]


def command_line() -> str:
    """Returns the command line of this process, as a shell takes it; results and journals keep it."""
    return shlex.join(["reasonc", *sys.argv[1:]])

"""`reasonc report`: what a run came to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.cli.watch import print_session_json


def report(run: Annotated[Path, typer.Argument(help="Run folder.")], json: Json = False) -> None:
    """Show a run: result, samples, proposers, time by stage, and the path to the best program."""
    from reasoning_compiler.journal import read_session
    from reasoning_compiler.report import session_text, summarize

    found = read_session(run)
    if json:
        print_session_json(found)
    else:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        typer.echo(session_text([summarize(each) for each in found.runs], width=width))

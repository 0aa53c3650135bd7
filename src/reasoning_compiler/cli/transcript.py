"""`reasonc transcript`: what a language model was asked, what it said, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json, TaskName
from reasoning_compiler.cli.output import print_json
from reasoning_compiler.core.errors import UsageError


def transcript(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    number: Annotated[
        int | None, typer.Argument(help="Number of the exchange to show. Default: one line per exchange.")
    ] = None,
    task: TaskName = None,
    json: Json = False,
) -> None:
    """List the exchanges with a language model, or show one in full, with its outcome."""
    from reasoning_compiler.journal import TRANSCRIPT_FILE, read_session
    from reasoning_compiler.proposer.llm.transcript import read_transcript
    from reasoning_compiler.report.exchange import exchange_line, exchange_text

    found = read_session(run)
    path = run / TRANSCRIPT_FILE
    if not path.exists():
        settings = found.config.get("proposer", "")
        why = f"it repeats {settings[7:]}" if settings.startswith("replay:") else "it was not made with `--llm`"
        raise UsageError(f"`{run}` has no transcript; {why}")
    exchanges = [e for e in read_transcript(path) if task is None or e.task == task]
    if number is not None:
        exchanges = [e for e in exchanges if e.id == number]
        if not exchanges:
            raise UsageError(f"`{run}` has no exchange {number}; `reasonc transcript {run}` lists them")
    if json:
        print_json([e.to_json() for e in exchanges])
    elif number is not None:
        typer.echo(exchange_text(exchanges[0], found))
    else:
        for exchange in exchanges:
            typer.echo(exchange_line(exchange, found))

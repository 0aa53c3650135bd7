"""What commands write: JSON for scripts, lines about the progress, and the last words of an interrupted command."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reasoning_compiler.journal import Run


def print_json(value: Any) -> None:
    """Prints JSON values."""
    typer.echo(json.dumps(value, indent=2))


def one_or_by_task(runs: Sequence[Run], records: Sequence[Any]) -> Any:
    """Returns the only record, or those of several runs by the names of their tasks."""
    if len(records) == 1:
        return records[0]
    return {"tasks": {run.header.task: record for run, record in zip(runs, records, strict=True)}}


def stop(words: str) -> NoReturn:
    """Says how to continue an interrupted command, and ends it."""
    sys.stderr.write(f"reasonc: {words}\n")
    raise typer.Exit(130) from None


class LogLines:
    """Writes lines to the standard error stream: those that matter, and others where none came for a while.

    Args:
        quiet_secs: after so long without a line, there is one.
    """

    def __init__(self, quiet_secs: float) -> None:
        self._quiet_secs, self._written_at = quiet_secs, 0.0

    def write(self, line: str, *, matters: bool) -> None:
        """Writes a line that matters, or whose turn it is."""
        now = time.monotonic()
        if matters or now - self._written_at > self._quiet_secs:
            self._written_at = now
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

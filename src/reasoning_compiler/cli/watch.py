"""What people see while a run goes on, and at its end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from reasoning_compiler.records import Step
    from reasoning_compiler.tuner import Progress, Result

_DOING = {
    "starting": "starting",
    "untuned": "timing the untuned program",
    "thinking": "thinking",
    "measuring": "measuring",
    "confirming": "timing the best few against each other",
    "saving": "saving",
    "done": "done",
}


@contextmanager
def watching(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yields what takes a run's progress: a live line on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    thought = ""
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def show(progress: Progress) -> None:
            nonlocal thought
            if progress.notice:
                console.print(Text(f"note: {progress.notice}"))
            if progress.last is not None:
                thought = _thought(progress.last)
                if progress.improved:
                    console.print(Text(_improvement(progress)))
            width = 30
            done = round(width * progress.num_samples / max(1, progress.max_samples))
            bar = "━" * done + "╺" * (done < width) + " " * (width - done - 1)
            lines = [f"{bar} {_status(progress)}", f"  {thought}" if thought else ""]
            live.update(Text("\n".join(line[: console.width - 1] for line in lines if line)))

        yield show


def _plain(progress: Progress) -> None:
    if progress.notice:
        sys.stderr.write(f"note: {progress.notice}\n")
    if progress.last is not None and progress.improved:
        line = _improvement(progress)
    elif progress.doing in ("measuring", "thinking"):
        return
    else:
        line = _status(progress)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _status(progress: Progress) -> str:
    from reasoning_compiler.report.units import time_text

    text = f"{progress.num_samples}/{progress.max_samples} samples"
    if progress.best_secs is not None:
        text += f", best {time_text(progress.best_secs)}"
        if progress.untuned_secs is not None:
            text += f" ({progress.untuned_secs / progress.best_secs:.3g}× untuned)"
    return f"{text}, {time_text(progress.elapsed_secs)}: {_DOING[progress.doing]}"


def _improvement(progress: Progress) -> str:
    from reasoning_compiler.report.units import time_text

    step = progress.last
    assert step is not None
    assert progress.best_secs is not None
    faster = ""
    if progress.untuned_secs is not None:
        faster = f"  {progress.untuned_secs / progress.best_secs:>6.3g}× untuned"
    width = shutil.get_terminal_size((120, 24)).columns
    line = f"{progress.num_samples:>4}  {time_text(progress.best_secs):>9}{faster}  {_thought(step)}"
    return line if len(line) < width else line[: width - 2] + "…"


def _thought(step: Step) -> str:
    from reasoning_compiler.report.text import printable

    return f"{step.proposer}: {printable(step.reasoning)}"


def finish(result: Result, *, as_json: bool) -> None:
    """Prints what a run came to, and how to go on; ends with 130 where it was interrupted."""
    from reasoning_compiler.report import summarize, to_json

    interrupted = result.run.ended is not None and result.run.ended.reason == "interrupted"
    if as_json:
        typer.echo(json.dumps(to_json(summarize(result.run)), indent=2))
    else:
        typer.echo(result.report())
        typer.echo(f"Everything is in {result.folder}: the library in best/, the journal in journal.jsonl.")
        if interrupted:
            typer.echo(f"Interrupted; go on with: reasonc resume {result.folder}")
        else:
            typer.echo(f"Time it again: reasonc run {result.folder}")
            typer.echo(f"Take it along: reasonc export {result.folder} --out kernel.so")
    if interrupted:
        raise typer.Exit(130)

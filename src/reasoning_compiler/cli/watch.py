"""The progress and the results of a run, as people see them."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from reasoning_compiler.cli.output import LogLines, one_or_by_task, print_json, stop

if TYPE_CHECKING:
    from pathlib import Path

    from reasoning_compiler.core.steps import Step
    from reasoning_compiler.journal import SessionRecord
    from reasoning_compiler.session import Progress, Result, SessionResult

_DOING = {
    "starting": "starting",
    "untuned": "timing the untuned program",
    "thinking": "thinking",
    "measuring": "measuring",
    "confirming": "timing the best few against each other",
    "saving": "saving",
    "done": "done",
}
_BAR_WIDTH = 30
_QUIET_SECS = 30.0  # after so long without a line, a log gets one


def run_and_show(
    work: Callable[[Callable[[Progress], None]], Result | SessionResult], *, quiet: bool, as_json: bool
) -> None:
    """Shows a run's progress, its results, and how to continue; exits with 130 where it was interrupted.

    Args:
        work: does the run; it is given what takes its progress.
        quiet: show no progress.
        as_json: print one JSON object at the end, and nothing else.
    """
    from reasoning_compiler.core.errors import Interrupted

    try:
        with _watching(quiet=quiet or as_json) as watch:
            result = work(watch)
    except Interrupted as interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done but to say so; the impatient press it twice
        _interrupted(interrupted.folder, as_json=as_json)
        stop(str(interrupted))
    except KeyboardInterrupt:
        stop("interrupted before there was a run; nothing was written")
    _finish(result, as_json=as_json)


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yields what takes a run's progress: a live line on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain()


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    latest: Progress | None = None
    told_at = 0.0
    thought = ""

    def draw() -> Text:
        if latest is None:
            return Text("starting")
        done = round(_BAR_WIDTH * latest.num_samples / max(1, latest.max_samples))
        bar = ("━" * done + "╺" * (done < _BAR_WIDTH)).ljust(_BAR_WIDTH)
        # The clock goes on while nothing else does: a slow program may be running.
        elapsed_secs = latest.elapsed_secs + time.monotonic() - told_at
        lines = [f"{bar} {_status(latest, elapsed_secs)}", *([f"  {thought}"] if thought else [])]
        return Text("\n".join(line[: console.width - 1] for line in lines))

    def show(progress: Progress) -> None:
        nonlocal latest, told_at, thought
        if progress.notice:
            console.print(Text(f"note: {progress.notice}"))
        if progress.last is not None:
            thought = _thought(progress.last)
            if progress.improved:
                console.print(Text(_improvement(progress)))
        latest, told_at = progress, time.monotonic()
        live.refresh()

    with Live(console=console, get_renderable=draw, refresh_per_second=8, transient=True) as live:
        yield show


def _plain() -> Callable[[Progress], None]:
    lines = LogLines(_QUIET_SECS)

    def show(progress: Progress) -> None:
        if progress.notice:
            sys.stderr.write(f"note: {progress.notice}\n")
        if progress.last is not None and progress.improved:
            lines.write(_improvement(progress), matters=True)
        else:
            is_other = progress.doing not in ("measuring", "thinking")
            lines.write(_status(progress, progress.elapsed_secs), matters=is_other)

    return show


def _status(progress: Progress, elapsed_secs: float) -> str:
    from reasoning_compiler.report.units import time_text

    text = f"{progress.num_samples}/{progress.max_samples} samples"
    if progress.task:
        text += f", {progress.task}"
    if progress.best_secs is not None:
        text += f", best {time_text(progress.best_secs)}"
        if progress.untuned_secs is not None:
            text += f" ({progress.untuned_secs / progress.best_secs:.3g}× untuned)"
    return f"{text}, {time_text(elapsed_secs)}: {_DOING[progress.doing]}"


def _improvement(progress: Progress) -> str:
    from reasoning_compiler.report.units import time_text

    step = progress.last
    assert step is not None
    assert progress.best_secs is not None
    faster = ""
    if progress.untuned_secs is not None:
        faster = f"  {progress.untuned_secs / progress.best_secs:>6.3g}× untuned"
    width = shutil.get_terminal_size((120, 24)).columns
    task = f"{progress.task}  " if progress.task else ""
    line = f"{progress.num_samples:>4}  {task}{time_text(progress.best_secs):>9}{faster}  {_thought(step)}"
    return line if len(line) < width else line[: width - 2] + "…"


def _thought(step: Step) -> str:
    from reasoning_compiler.report.lines import printable

    return f"{step.proposer}: {printable(step.reasoning)}"


def print_session_json(session: SessionRecord) -> None:
    """Prints a session's report as JSON, with where its folder and its libraries are."""
    from reasoning_compiler.deploy.best import LIBRARY_FILE
    from reasoning_compiler.report import summarize, to_json

    records = []
    for run in session.runs:
        library = run.best_folder.resolve() / LIBRARY_FILE
        places = {"folder": str(run.folder.resolve()), "library": str(library) if library.exists() else None}
        records.append(to_json(summarize(run)) | places)
    print_json(one_or_by_task(session.runs, records))


def _finish(result: Result | SessionResult, *, as_json: bool) -> None:
    from reasoning_compiler.journal import read_session

    session = read_session(result.folder)
    if as_json:
        print_session_json(session)
        return
    typer.echo(result.report())
    folder = shlex.quote(str(result.folder))
    is_several = len(session.runs) > 1
    libraries = "the libraries in best/, by task" if is_several else "the library in best/"
    typer.echo(f"Everything is in {folder}: {libraries}, the journal in journal.jsonl.")
    typer.echo(f"Time it again: reasonc run {folder}")
    typer.echo(f"Take it along: reasonc export {folder} --out kernel.so{' --task NAME' if is_several else ''}")
    typer.echo(f"Search longer: reasonc resume {folder} --samples {2 * session.num_samples}")


def _interrupted(folder: Path, *, as_json: bool) -> None:
    from reasoning_compiler.journal import read_session
    from reasoning_compiler.report import session_text, summarize

    session = read_session(folder)
    if as_json:
        print_session_json(session)
    elif session.num_samples:
        typer.echo(session_text([summarize(run) for run in session.runs]))
        typer.echo(f"The best so far is in {folder}/best.")

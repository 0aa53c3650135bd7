"""`tune`, `resume`, `compare` and `ablate` run in a child process, which this one watches.

TVM may end the process that applies a schedule (see core/crash_markers.py). The watcher then puts into the journal what
TVM was asked to do and starts the next process. That one goes on with the run, or with the experiment that it is part
of, as after a kill, and refuses what the last one died of.
The watcher imports next to nothing, passes signals on, and exits as the last process did.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from reasoning_compiler.core.crash_markers import Crash, Note, has_ended, keep
from reasoning_compiler.core.errors import CrashedError, ReasoningCompilerError
from reasoning_compiler.core.processes.child import Child, signal_name

_EXPERIMENTS = ("compare", "ablate")  # whose runs lie in FOLDER/cells/, and which go on with `--out FOLDER`
_QUIET = ("--json", "--quiet", "-q")
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MAX_CRASHES = 10  # in a row, without a measurement between them
_MAX_UNKNOWN = 2  # in a row, of which nobody knows what they were about: the next process may do the same again
_STUCK_SECS = 300.0  # TVM applies a program in milliseconds; what takes so long has no end
_LOOK_SECS = 5.0


def watch(arguments: list[str], command: str) -> int:
    """Returns the exit code of a command line, after as many processes as it took.

    Args:
        arguments: the command line without the program's name.
        command: which of them is the command.
    """
    options = arguments[: arguments.index(command)]
    flags = [each for each in arguments if each in _QUIET]
    experiments = command in _EXPERIMENTS
    given = arguments
    crashes: list[Crash] = []
    num_measured, folder = 0, ""
    signals = _Signals()
    while True:
        note = Note.create()
        try:
            code, stuck = _run(arguments, note, signals)
            ended, marker, where = note.read("ended"), note.marker, note.where
            folder = note.read("folder") or ("" if experiments else folder)
        finally:
            note.close()
        if ended or code >= 0:
            return int(ended or code)
        if -code not in _CRASHES and not stuck:
            return _killed(-code, folder, "the same command and its `--out`" if experiments else "")
        how = f"no end after {_STUCK_SECS:.0f} s" if stuck else signal_name(-code)
        crash = Crash(how, marker[0] if marker else None, where)
        try:
            before, num_measured = num_measured, _keep(crash, folder)
            crashes = [crash] if num_measured > before else [*crashes, crash]
            _check(crashes, folder)
        except ReasoningCompilerError as error:
            return _say(str(error), error.exit_code)
        if not flags:
            left_out = "; what it was applying is left out" if marker else ""
            _say(f"TVM ended the process ({how}){left_out}, and the run goes on", 0)
        if experiments:
            arguments = [*given, "--out", str(Path(folder).parents[1])]
        else:
            arguments = [*options, "resume", folder, *flags]


def work(note_fds: Sequence[int], arguments: list[str]) -> None:
    """Runs the command line in the process that is watched."""
    keep(Note(*note_fds))
    sys.argv = ["reasonc", *arguments]
    from reasoning_compiler.cli.main import main as run

    try:
        run()
    except SystemExit as stop:
        with suppress(OSError):
            sys.stdout.flush()
        has_ended(stop.code if isinstance(stop.code, int) else 0)
        raise


def _run(arguments: list[str], note: Note, signals: _Signals) -> tuple[int, bool]:
    """Returns the exit code of a process that ran the command line, and whether it was ended because it was stuck."""
    stuck = False
    with Child(f"{__name__}:work", note.fds, arguments, fds=note.fds, keep_output=False) as child:
        signals.pass_to(child)
        while (code := child.wait(_LOOK_SECS)) is None:
            if _is_stuck(note, signals):
                child.kill()
                stuck = True
        signals.pass_to(None)
    return code, stuck


def _is_stuck(note: Note, signals: _Signals) -> bool:
    marker = note.marker  # read once: the process that it is about goes on writing
    return marker is not None and min(marker[1], signals.secs_since_pause) > _STUCK_SECS


class _Signals:
    """Passes signals on to a process, as soon as there is one."""

    def __init__(self) -> None:
        self._process: Child | None = None
        self._early: list[int] = []
        self._paused_at = -float("inf")
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTSTP, self._pause)

    @property
    def secs_since_pause(self) -> float:
        """Seconds since the process was last stopped with Ctrl-Z; infinite where it never was."""
        return time.monotonic() - self._paused_at

    def pass_to(self, process: Child | None) -> None:
        """Makes a process the one that signals are passed on to, also those that came while there was none."""
        self._process = process
        while process is not None and self._early:
            process.send_signal(self._early.pop(0))

    def _pass_on(self, number: int, frame: Any) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def _pause(self, number: int, frame: Any) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._paused_at = time.monotonic()


def _keep(crash: Crash, folder: str) -> int:
    """Returns how many measurements a run has, to whose journal the crash has been added."""
    from reasoning_compiler.journal import Journal, read_session

    if not folder:
        where = f", in {crash.where}" if crash.where else ""
        raise CrashedError(
            f"TVM crashed ({crash.how}{where}) before there was a run of ours to go on with. If `reasonc doctor` finds "
            "nothing wrong, TVM cannot schedule this kernel"
        )
    with Journal.resume(folder) as journal:
        journal.crashed(crash)
    return sum(len(run.samples) for run in read_session(folder).runs)


def _check(crashes: Sequence[Crash], folder: str) -> None:
    """Raises CrashedError where the next process would only crash again."""
    last = crashes[-1]
    unknown = [crash for crash in crashes[-_MAX_UNKNOWN:] if crash.risk is None]
    if len(crashes) < _MAX_CRASHES and len(unknown) < _MAX_UNKNOWN:
        return
    where = f", in {last.where}" if last.where else ""
    raise CrashedError(
        f"TVM crashed {len(crashes)} times in a row ({last.how}{where}), and nothing was measured in between; "
        f"what was measured before is kept in {folder}: see `reasonc report {folder}`, or try another --seed"
    )


def _killed(number: int, folder: str, go_on: str) -> int:
    """Returns the exit code of a command that a signal from outside has ended, after a word where it is needed."""
    if number == signal.SIGINT and not folder:
        return _say("interrupted before there was a run; nothing was written", 130)
    if number == signal.SIGKILL:
        go_on = go_on or f"`reasonc resume {Path(folder)}`"
        rest = f"go on with {go_on}" if folder else "there was no run yet"
        return _say(f"the search was killed (SIGKILL), perhaps because memory ran out; {rest}", 128 + number)
    return 128 + number


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"reasonc: {text}\n")
    return code

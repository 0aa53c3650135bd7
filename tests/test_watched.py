"""The process that watches over the search: crashes, signals, exit codes; with a search that does as the test says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import reasoning_compiler
from journal_examples import new_journal, ok, old_journal, step
from reasoning_compiler.cli import watched
from reasoning_compiler.core.crash_markers import Crash, CrashMarker, Note, keep, marked
from reasoning_compiler.core.programs import Program
from reasoning_compiler.journal import read_run

SOURCE = Path(reasoning_compiler.__file__).parents[1]
# Python imports this by itself when it starts; the watcher's own process is left as it is.
PLANTED = """
import sys
if "reasoning_compiler.cli.watched:work" in sys.orig_argv:
    import ctypes, json, os, pathlib, signal, time
    import reasoning_compiler.cli.main as cli
    from reasoning_compiler.journal import Journal
    from reasoning_compiler.core.measurements import Measurement
    from reasoning_compiler.core.programs import Program
    from reasoning_compiler.core.crash_markers import CrashMarker, marked, works_on
    starts = pathlib.Path("starts")
    with starts.open("a") as file:
        file.write(" ".join(json.loads(sys.orig_argv[5])[1]) + chr(10))
    num_starts = starts.read_text().count(chr(10))
    def crash():
        ctypes.string_at(0)
    def main():
{body}
    cli.main = main
else:
    import reasoning_compiler.cli.watched as watched
{watcher}
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Returns a function that starts a command whose search is some lines of Python, in a folder of its own."""

    def do(body: str, *arguments: str, watcher: str = "pass") -> subprocess.Popen[str]:
        lines = ["        " + line for line in body.strip().splitlines()]
        (tmp_path / "sitecustomize.py").write_text(PLANTED.format(body="\n".join(lines), watcher="    " + watcher))
        return subprocess.Popen(
            [sys.executable, "-m", "reasoning_compiler", *(arguments or ("tune", "gemm"))],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(SOURCE)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return do


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


def begin(folder: Path, *, measured: int = 1) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        for node in range(measured):
            journal.node(step(node + 1))
            journal.measured(node + 1, ok(1e-3))


# -- without a crash -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 130])
def test_the_exit_code_and_what_is_printed_are_the_searchs(start: Start, code: int) -> None:
    done = end(start(f"print('out')\nsys.stderr.write('err\\n')\nsys.exit({code})"))
    assert done == (code, "out\n", "err\n")


def test_other_commands_and_help_need_no_watcher(start: Start, tmp_path: Path) -> None:
    for arguments in (["workloads"], ["tune", "--help"], []):
        code, out, _ = end(start("sys.exit(9)", *arguments or ["--help"]))
        assert (code, bool(out)) == (0, True)
    assert not (tmp_path / "starts").exists()


def test_a_signal_arrives_once(start: Start, tmp_path: Path) -> None:
    process = start(
        "got = []\nsignal.signal(signal.SIGINT, lambda *_: got.append(1))\npathlib.Path('ready').touch()\n"
        "time.sleep(1.0)\nprint(len(got))\nsys.exit(130)"
    )
    wait_for((tmp_path / "ready").exists)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "1\n", "")


def test_a_signal_that_ends_the_search_ends_the_command(start: Start, tmp_path: Path) -> None:
    process = start("pathlib.Path('ready').touch()\ntime.sleep(60)")
    wait_for((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (128 + signal.SIGTERM, "", "")


def test_the_search_does_not_outlive_the_watcher(start: Start, tmp_path: Path) -> None:
    process = start("pathlib.Path('pid').write_text(str(os.getpid()))\nwhile True: pass")
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.communicate()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_ctrl_z_stops_the_search_too(start: Start, tmp_path: Path) -> None:
    process = start("pathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(1)")
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    both = [psutil.Process(process.pid), psutil.Process(int((tmp_path / "pid").read_text()))]
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: all(each.status() == psutil.STATUS_STOPPED for each in both))
    process.send_signal(signal.SIGCONT)
    assert end(process)[0] == 0


def test_a_search_that_was_killed_is_not_started_again(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    process = start(RUN + "os.kill(os.getpid(), signal.SIGKILL)")
    code, out, err = end(process)
    assert (code, out) == (137, "")
    assert err == (
        "reasonc: the search was killed (SIGKILL), perhaps because memory ran out; "
        f"go on with `reasonc resume {tmp_path / 'run'}`\n"
    )
    assert not read_run(tmp_path / "run").crashes


# -- with one ------------------------------------------------------------------------------------------------------

RUN = "works_on(pathlib.Path('run'))\n"
CRASH_ONCE = "if num_starts == 2: print('{}'); sys.exit(0)\n" + RUN
DEADLY = Program((("C", "tiled"),), (("C.i tile", (2, 8)), ("unroll", 16)))


def test_after_a_crash_the_next_process_goes_on(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    marker = f"CrashMarker(Program.from_json({DEADLY.to_json()!r}), (('unroll', 64),))"
    body = f"{CRASH_ONCE}with marked({marker}): crash()"
    code, out, err = end(start(body, "--debug", "tune", "gemm", "--samples", "3", "--json"))
    assert (code, out, err) == (0, "{}\n", "")
    assert (tmp_path / "starts").read_text().splitlines()[1].endswith(f"--debug resume {tmp_path / 'run'} --json")
    (crash,) = read_run(tmp_path / "run").crashes
    assert (crash.how, crash.risk) == ("SIGSEGV", CrashMarker(DEADLY, (("unroll", 64),)))
    assert "crash (sitecustomize.py:" in crash.where


def test_people_are_told(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    body = f"{CRASH_ONCE}with marked(CrashMarker(None, seed=3)): os.abort()"
    _, _, err = end(start(body))
    assert err == "reasonc: TVM ended the process (SIGABRT); what it was applying is left out, and the run goes on\n"


def test_crashes_of_which_nothing_is_known_end_the_run(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    code, out, err = end(start(RUN + "crash()", "tune", "gemm", "-q"))
    assert (code, out) == (5, "")
    assert err.startswith("reasonc: TVM crashed 2 times in a row (SIGSEGV, in string_at (__init__.py:")
    assert f"see `reasonc report {tmp_path / 'run'}`" in err and err.count("\n") == 1
    assert len(read_run(tmp_path / "run").crashes) == 2


def test_a_run_cannot_crash_for_ever(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    body = RUN + "with marked(CrashMarker(None, seed=num_starts)): crash()"
    code, _, err = end(start(body, "tune", "gemm", "-q"))
    assert code == 5 and "TVM crashed 10 times in a row" in err
    assert len(read_run(tmp_path / "run").crashes) == 10


def test_a_run_that_measures_between_its_crashes_goes_on(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run", measured=0)
    body = (
        f"if num_starts == 13: sys.exit(0)\n{RUN}"
        "with Journal.resume('run') as journal: journal.task('gemm').measured(0, Measurement((1e-3,)))\n"
        "with marked(CrashMarker(None, seed=num_starts)): crash()"
    )
    assert end(start(body, "tune", "gemm", "-q"))[0] == 0
    assert len(read_run(tmp_path / "run").crashes) == 12


def test_a_crash_before_there_is_a_run(start: Start, tmp_path: Path) -> None:
    code, out, err = end(start("crash()"))
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert err.startswith("reasonc: TVM crashed (SIGSEGV) before there was a run of ours to go on with")
    assert (tmp_path / "starts").read_text().count("\n") == 1


def test_a_crash_after_the_end_is_of_no_interest(start: Start) -> None:
    body = "import atexit\natexit.register(crash)\nprint('{}')\nsys.exit(3)"
    assert end(start(body))[:2] == (3, "{}\n")


def test_who_is_stuck_is_ended(start: Start, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    body = f"{CRASH_ONCE}with marked(CrashMarker(None, seed=1)): time.sleep(60)"
    watcher = "watched._STUCK_SECS, watched._LOOK_SECS = 1.0, 0.1"
    assert end(start(body, "tune", "gemm", "-q", watcher=watcher))[0] == 0
    assert [crash.how for crash in read_run(tmp_path / "run").crashes] == ["no end after 1 s"]


# -- notes ---------------------------------------------------------------------------------------------------------


def test_a_note_says_the_innermost_of_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoning_compiler.core.crash_markers._note", None)
    note = Note.create()
    outer, inner = CrashMarker(DEADLY, (("unroll", 64), ("C.i tile", (4, 4)))), CrashMarker(DEADLY)
    with marked(outer):
        assert note.marker is None  # nobody watches
    keep(note)
    with marked(outer):
        with pytest.raises(ValueError, match="as planned"), marked(inner):
            assert note.marker is not None and note.marker[0] == inner
            raise ValueError("as planned")
        assert note.marker is not None
        assert note.marker[0] == outer and 0 <= note.marker[1] < 5
    assert note.marker is None and note.where == ""
    with marked(CrashMarker(DEADLY, (("unroll", {1, 2}),))):  # nonsense that somebody proposes is noted, too
        assert note.marker is not None
    note.write("folder", "x" * 600_000)
    assert note.read("folder") == ""
    note.write("folder", "Größe")
    assert (note.read("folder"), note.read("ended")) == ("Größe", "")
    note.close()


@pytest.mark.parametrize(
    "marker", [None, CrashMarker(None, seed=7), CrashMarker(DEADLY), CrashMarker(DEADLY, (("unroll", 64),))]
)
def test_a_crash_survives_the_journal(tmp_path: Path, marker: CrashMarker | None) -> None:
    begin(tmp_path / "run")
    crash = Crash("SIGBUS", marker, "postprocess (postprocess.py:36)")
    with old_journal(tmp_path / "run") as journal:
        journal.crashed(crash)
    assert read_run(tmp_path / "run").crashes == (crash,)


def test_what_is_at_risk_may_end_while_the_watcher_looks() -> None:
    class Ending:
        """A note of something that ends as soon as it has been read."""

        read = 0

        @property
        def marker(self) -> tuple[CrashMarker, float] | None:
            self.read += 1
            return (CrashMarker(Program()), 1e9) if self.read == 1 else None

    class Signals:
        secs_since_pause = float("inf")

    assert watched._is_stuck(Ending(), Signals())
    ended = Ending()
    ended.read = 1
    assert not watched._is_stuck(ended, Signals())

"""The command line: what it prints, where it writes, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("tvm")

import reasoning_compiler as rc
from fake_instrument import FakeInstrument, failing, lasting
from reasoning_compiler.cli.main import app, main
from reasoning_compiler.journal import JOURNAL_FILE
from reasoning_compiler.machine import toolchain
from reasoning_compiler.measure import instrument

pytestmark = pytest.mark.tvm

GEMM = "gemm[64,64,64]"
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
KERNELS = """
from tvm import te
import tvm
from tvm.script import tirx as T

@T.prim_func(s_tir=True)
def written(A: T.Buffer((32, 48), "float32"), B: T.Buffer((48, 32), "float32"), C: T.Buffer((32, 32), "float32")):
    for i, j, k in T.grid(32, 32, 48):
        with T.sblock("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

def my_matmul(m=32, n=32, k=48):
    a, b = te.placeholder((m, k), name="A"), te.placeholder((k, n), name="B")
    axis = te.reduce_axis((0, k), name="k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, axis] * b[axis, j], axis=axis), name="C")
    return te.create_prim_func([a, b, c])

module = tvm.IRModule({"main": my_matmul()})
number = 7

def wants(x):
    return my_matmul()

def broken():
    raise ValueError("one line\\nanother")

def dynamic():
    n = te.var("n")
    a = te.placeholder((n, 4), name="A")
    return te.create_prim_func([a, te.compute((n, 4), lambda i, j: a[i, j] + 1, name="B")])
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a file of kernels in it."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "kernels.py").write_text(KERNELS)
    (folder / "torn.py").write_text("def f(:\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def reasonc(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Returns a function that does a command in this process."""
    monkeypatch.setenv("REASONC_DEBUG", "")

    def do(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["reasonc", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Done(stop.value.code or 0, out, err)

    return do


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake in the place of the instrument; the function sets what it says (see `FakeInstrument`)."""

    def use(**judges: Any) -> None:
        monkeypatch.setattr(instrument, "Instrument", partial(FakeInstrument, **judges))

    use()
    return use


def files(folder: Path) -> list[str]:
    """Returns all files in a folder but the caches of Python."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts)


# -- the main job --------------------------------------------------------------------------------------------------


def test_a_kernel_from_a_file_to_a_library_elsewhere(reasonc: Callable[..., Done], place: Path) -> None:
    done = reasonc("tune", "kernels.py:my_matmul", "--samples", 3, "--out", "run")
    assert done.code == 0, done.err
    assert "speed-up over untuned: " in done.out
    assert "reasonc run run" in done.out and "reasonc export run --out" in done.out and "reasonc resume run" in done.out
    assert "0/3 samples" in done.err and "3/3 samples" in done.err
    (place / "kernels.py").unlink()  # the run stands on its own

    timed = reasonc("run", "run", "--rounds", 3)
    assert timed.code == 0, timed.err
    assert timed.out.count(", verified)") == 2 and "speed-up over untuned: " in timed.out
    as_json = json.loads(reasonc("run", "run", "--rounds", 3, "--json").out)
    assert as_json["speedup"] > 1 and as_json["tuned"]["verified"]

    exported = reasonc("export", "run", "--out", "out/lib.so", "--database", "db")
    assert exported.code == 0, exported.err
    assert sorted(p.name for p in (place / "out").iterdir()) == ["lib.json", "lib.so"]
    code, database = exported.out.split("# db holds ")
    timed_in_full = sum(sample.measurement.is_full for sample in rc.read_run(place / "run").samples if sample.node)
    assert database.startswith(f"{timed_in_full} tuning record") and timed_in_full > 0
    check = "np.testing.assert_allclose(C.numpy(), A.numpy() @ B.numpy(), rtol=1e-4, atol=1e-4)\nprint('right')\n"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TVM_NUM_THREADS")}
    ran = subprocess.run(
        [sys.executable, "-c", code + check], cwd="/", env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.rstrip().endswith("right"), ran.stderr

    resumed = reasonc("resume", "run", "--samples", 4, "--json")
    assert resumed.code == 0 and resumed.err == ""
    assert json.loads(resumed.out)["samples"]["total"] == 4


@pytest.mark.parametrize("name", ["written", "module", "my_matmul"])
def test_every_form_of_a_kernel_in_a_file(
    fake: Callable[..., None], reasonc: Callable[..., Done], place: Path, name: str
) -> None:
    done = reasonc("tune", f"kernels.py:{name}", "--samples", 2, "--out", "run", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{place}/kernels.py:{name}")
    assert reasonc("resume", "run", "--samples", 3, "--quiet").code == 0


def test_json_for_scripts(fake: Callable[..., None], reasonc: Callable[..., Done], place: Path) -> None:
    done = reasonc("tune", GEMM, "--samples", 4, "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["samples"]["total"] == 4
    assert told["speedup"] > 1
    assert Path(told["folder"]).parent == place / "runs"
    assert told["library"] == str(Path(told["folder"]) / "best" / "kernel.so")
    assert Path(told["library"]).exists()
    assert json.loads(reasonc("report", told["folder"], "--json").out) == told
    text = reasonc("report", told["folder"])
    assert text.code == 0 and "Proposers" in text.out and "Time by stage" in text.out


def test_programs_are_explained(fake: Callable[..., None], reasonc: Callable[..., Done]) -> None:
    assert reasonc("tune", GEMM, "--samples", 3, "--out", "run", "-q").code == 0
    done = reasonc("explain", "run")
    assert (done.code, done.err) == (0, "")
    assert done.out.index("untuned (node 0)") < done.out.index("best (node ") and "of the roofline" in done.out
    told = json.loads(reasonc("explain", "run", "--json").out)
    assert [program["name"] for program in told["programs"]] == ["untuned", "best"]
    last = len(rc.read_run("run").steps) - 1
    (program,) = json.loads(reasonc("explain", "run", "--node", last, "--json").out)["programs"]
    assert program["node"] == last and program["blocks"]


def test_what_the_journal_keeps_of_the_command(fake: Callable[..., None], reasonc: Callable[..., Done]) -> None:
    done = reasonc("tune", GEMM, "--samples", 2, "--out", "run", "--seed", 7, "--proposer", "random")
    assert done.code == 0, done.err
    run = rc.read_run("run")
    assert run.header.command == "reasonc tune 'gemm[64,64,64]' --samples 2 --out run --seed 7 --proposer random"
    assert run.config["seed"] == 7 and run.config["proposer"] == "random"
    assert {step.proposer for step in run.steps[1:]} == {"random"}


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["llama-attention"], "there is no workload `llama-attention`; the nearest are llama3-attention,"),
        (["zzz"], "there is no workload `zzz`; there are llama3-attention,"),
        (["gemm[p=3]"], "`gemm` has no parameter `p`; it has m=512,"),
        (["gemm[m=three]"], "`m` of `gemm` is 'three'; it must be a whole number"),
        (["gemm[m=0]"], "`m` of `gemm` is 0"),
        (["gemm[64,64"], "is not closed"),
        (["absent.py:f"], "there is no file `absent.py`"),
        (["torn.py:f"], "torn.py` does not parse: line 1"),
        (["kernels.py"], "needs the name of a function, as kernels.py:"),
        (["kernels.py:absent"], "has no function `absent`; it has"),
        (["kernels.py:number"], "`number` is of the type int, not a PrimFunc"),
        (["kernels.py:wants"], "`wants` needs arguments (x)"),
        (["kernels.py:broken"], "kernels.py:broken` does not run: line 28: ValueError: one line"),
        (["kernels.py:dynamic"], "`dynamic` has a dynamic shape: `A` is (n, 4)"),
        ([GEMM, "--samples", "0"], "`samples` is 0"),
        ([GEMM, "--samples", "-4"], "`samples` is -4"),
        ([GEMM, "--samples", "many"], "Invalid value for '--samples'"),
        ([GEMM, "--minutes", "0"], "`minutes` is 0.0"),
        ([GEMM, "--minutes", "inf"], "`minutes` is inf"),
        ([GEMM, "--patience", "0"], "`patience` is 0"),
        ([GEMM, "--threads", "0"], "`threads` is 0"),
        ([GEMM, "--threads", "999"], "`threads` is 999; this process may use"),
        ([GEMM, "--timeout", "-1"], "`timeout_secs` is -1.0"),
        ([GEMM, "--proposer", "oracle"], "`proposer` is 'oracle'"),
        ([GEMM, "--preset", "fast"], "`preset` is 'fast'"),
        ([GEMM, "--target", "abacus"], "abacus"),
        ([GEMM, "--target", '{"kind": "cuda"}'], "cuda"),
        ([GEMM, "--out", "kernels.py"], "`kernels.py` is not writable (Not a directory)"),
        ([GEMM, "--out", "kernels.py/run"], "`kernels.py/run` is not writable (Not a directory)"),
        ([GEMM, "--frobnicate"], "No such option: --frobnicate"),
        ([], "Missing argument 'workload'; see `reasonc tune --help`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(reasonc: Callable[..., Done], place: Path, args: list[str], words: str) -> None:
    before = files(place)
    done = reasonc("tune", *args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("reasonc: ") and done.err.count("\n") == 1
    assert words in done.err
    assert files(place) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see `reasonc --help`"),
        (["report"], "Missing argument 'run'"),
        (["report", "nowhere"], "`nowhere` holds no run: there is no nowhere/journal.jsonl"),
        (["resume", "nowhere"], "`nowhere` holds no run"),
        (["resume", "."], "`.` holds no run"),
        (["run", "kernels.py"], "`kernels.py` holds no run"),
        (["export", "nowhere", "--out", "lib.so"], "`nowhere` holds no run"),
        (["transcript", "nowhere"], "`nowhere` holds no run"),
        (["run", "nowhere", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["machine", "--preset", "abacus"], "abacus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_of_other_commands(reasonc: Callable[..., Done], place: Path, args: list[str], words: str) -> None:
    before = files(place)
    done = reasonc(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("reasonc: ") and done.err.count("\n") == 1
    assert words in done.err
    assert files(place) == before


def test_bad_input_about_a_run(fake: Callable[..., None], reasonc: Callable[..., Done], place: Path) -> None:
    assert reasonc("tune", GEMM, "--samples", 2, "--out", "run", "-q").code == 0
    before = {path: (place / path).read_bytes() for path in files(place) if (place / path).is_file()}
    for args, words in (
        (["tune", GEMM, "--out", "run"], "`run` holds another run; continue it (`reasonc resume run`)"),
        (["tune", GEMM, "--out", "."], "`.` is not empty (it holds"),
        (["resume", "run", "--samples", 0], "`samples` is 0"),
        (["export", "run"], "nothing to write: give `--out lib.so`"),
        (["export", "run", "--out", "kernels.py/lib.so"], "cannot be written"),
        (["export", "run", "--out", "run"], "`path` is run, a folder: name a file in it, as run/kernel.so"),
        (["export", "run", "--out", "lib.json"], "choose a name that ends in .so"),
        (["export", "run", "--database", "kernels.py"], "`kernels.py` cannot be written"),
        (["transcript", "run"], "`run` has no transcript"),
        (["explain", "run", "--node", 99], "`node` is 99, none of the"),
        (["explain", "run/best"], "`run/best` holds no run"),
        (["resume", "run/best"], "`run/best` holds no run"),
    ):
        done = reasonc(*args)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
        assert words in done.err
        after = {path: (place / path).read_bytes() for path in files(place) if (place / path).is_file()}
        assert after == before
    journal = place / "run" / JOURNAL_FILE
    text = journal.read_text()
    journal.write_text(text.replace('"cpu":"', '"cpu":"Cray ', 1))
    done = reasonc("resume", "run", "--samples", 3)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "`run` was measured in another environment (CPU: was Cray" in done.err
    journal.write_text(text[:-40] + "\n")
    done = reasonc("report", "run")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "is damaged at line" in done.err


def test_a_run_without_a_library_says_how_to_get_one(fake: Callable[..., None], reasonc: Callable[..., Done]) -> None:
    fake(judge=failing("crash", "as planned"), untuned=failing("timeout"))
    done = reasonc("tune", GEMM, "--samples", 4, "--out", "run")
    assert (done.code, done.out) == (3, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("reasonc: none of 4 programs could be measured and verified (4 crash); most said: as")
    assert "reasonc doctor" in last and last.endswith("All of it: `reasonc report run`")
    for command in (["run", "run"], ["export", "run", "--out", "lib.so"]):
        done = reasonc(*command)
        assert done.code == 2
        assert "`run` has no library yet; go on with `reasonc resume run`" in done.err
    assert "no program has been measured and verified" in reasonc("report", "run").out


@pytest.mark.parametrize(
    ("tvm", "ffi", "words"),
    [
        ("0.27.0.post1", "0.1.15.post1", "apache-tvm 0.27.0.post1 with apache-tvm-ffi 0.1.15.post1 crashes"),
        ("0.26.0", "0.1.14.post0", "apache-tvm 0.26.0 was never tested here"),
        (None, None, "TVM is not installed"),
    ],
)
def test_versions_of_tvm_that_crash_together(
    reasonc: Callable[..., Done], place: Path, monkeypatch: pytest.MonkeyPatch, tvm: str, ffi: str, words: str
) -> None:
    versions = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}
    monkeypatch.setattr(toolchain, "installed_version", versions.get)
    toolchain._require_known_versions.cache_clear()
    done = reasonc("tune", GEMM, "--out", "run")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err and 'python -m pip install "apache-tvm==' in done.err
    assert not (place / "run").exists()


def test_debug_shows_where(reasonc: Callable[..., Done]) -> None:
    done = reasonc("--debug", "tune", "zzz")
    assert done.code == 2
    assert "Traceback" in done.err and done.err.splitlines()[-1].startswith("reasonc: there is no workload `zzz`")
    assert "Traceback" not in reasonc("tune", "zzz").err


def test_an_error_of_ours_is_told_as_one(reasonc: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoning_compiler.journal.read_session", lambda run: 1 / 0)
    done = reasonc("report", "run")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "unexpected ZeroDivisionError: division by zero" in done.err and "reasonc --debug" in done.err


# -- the disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(point)]
    if os.name != "posix" or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def test_a_full_disk_stops_a_run_that_can_go_on(
    fake: Callable[..., None], reasonc: Callable[..., Done], small_disk: Path
) -> None:
    folder = small_disk / "run"
    done = reasonc("tune", GEMM, "--samples", 60, "--out", folder)
    assert (done.code, done.out) == (4, "")
    last = done.err.splitlines()[-1]
    assert (last.startswith("reasonc: ") and "the disk is full" in last) or "No space left" in last
    before = rc.read_run(folder)
    assert 0 < before.num_samples < 60
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert reasonc("resume", folder, "--samples", before.num_samples + 3, "-q").code == 0
    after = rc.read_run(folder)
    assert after.num_samples == before.num_samples + 3
    assert after.samples[: len(before.samples)] == before.samples


def test_a_disk_without_room_for_a_header(reasonc: Callable[..., Done], small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 98_304)
    done = reasonc("tune", GEMM, "--samples", 2, "--out", small_disk / "run")
    assert done.code == 4 and "the disk is full, free some space" in done.err.splitlines()[-1]


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "args", "presses"),
    [
        pytest.param("samples, 0 s: starting", [GEMM], 1, id="starting"),
        pytest.param("   1  ", [GEMM], 1, id="measuring"),
        pytest.param("   1  ", [GEMM], 2, id="twice", marks=pytest.mark.nightly),
        pytest.param("timing the untuned program", [GEMM], 1, id="untuned", marks=pytest.mark.nightly),
        # What chance proposes takes long enough to be caught at it.
        pytest.param(
            "timing the best few",
            ["gemm[512,512,512]", "--samples", "4", "--proposer", "random"],
            1,
            id="confirming",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_ctrl_c(tmp_path: Path, sign: str, args: list[str], presses: int) -> None:
    source = str(Path(rc.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "reasoning_compiler", "tune", *args, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert process.stderr is not None
    shown = ""
    while sign not in shown:
        line = process.stderr.readline()
        assert line, shown
        shown += line
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    if presses == 2:
        again = threading.Timer(0.02, process.send_signal, [signal.SIGINT])
        again.start()
    out, err = process.communicate(timeout=60)
    # The second one may come when Python has put its handlers away; the shell says 130 all the same.
    assert process.returncode == 130 or (presses == 2 and process.returncode == -signal.SIGINT)
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        "reasonc: interrupted; go on with `reasonc resume run`"
        if (tmp_path / "run").exists()
        else "reasonc: interrupted before there was a run; nothing was written"
    )
    _, left = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=5)
    assert not left
    if not (tmp_path / "run").exists():
        return
    run = rc.read_run(tmp_path / "run")
    assert ("Result" in out) == (run.num_samples > 0)
    if run.samples:
        assert run.ended is not None and run.ended.reason == "interrupted"
    if run.outcome.step is not None:
        assert json.loads((tmp_path / "run" / "best" / "program.json").read_text())["node"] == run.outcome.step.node


# -- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(reasonc: Callable[..., Done], command: str) -> None:
    for flag in ("--help", "-h"):
        done = reasonc(command, flag)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"Usage: reasonc {command}")


def test_without_a_command_there_is_help(reasonc: Callable[..., Done]) -> None:
    done = reasonc()
    assert (done.code, done.err) == (0, "")
    assert done.out == reasonc("--help").out
    assert all(f"\n  {command} " in done.out for command in COMMANDS)
    assert reasonc("--version").out.startswith("reasonc 0.")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom reasoning_compiler.cli.main import main\nsys.argv = ['reasonc', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(rc.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert not loaded & {"tvm", "tvm_ffi", "numpy", "xgboost", "scipy", "rich", "psutil", "pydantic_ai"}


# -- the terminal --------------------------------------------------------------------------------------------------


def test_a_terminal_shows_how_it_goes(fake: Callable[..., None], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from reasoning_compiler.cli.watch import _watching

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    fake(judge=lasting(1e-3))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with _watching(quiet=False) as watch:
        rc.tune(GEMM, samples=3, batch=1, out=place / "run", on_progress=watch)
    shown = screen.getvalue()
    for words in ("3/3 samples, best 1 ms (5× untuned)", "thinking", "timing the untuned program", "expert: C: "):
        assert words in shown
    assert "\x1b[31m" not in shown

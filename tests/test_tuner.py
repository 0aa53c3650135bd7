"""The one loop and its front door: whole runs, real and with a fake instrument; kills, resumes, stops, endings."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest

pytest.importorskip("tvm")

import reasoning_compiler as rc
from fake_instrument import UNTUNED_SECS, FakeInstrument, failing, lasting
from journal_examples import batches, canonical_lines
from reasoning_compiler import codegen
from reasoning_compiler.codegen.signature import read_signature
from reasoning_compiler.core.errors import (
    DeviceError,
    EnvironmentMismatchError,
    Interrupted,
    NothingMeasuredError,
    UsageError,
)
from reasoning_compiler.core.measurements import Failure, FailureKind, Measurement
from reasoning_compiler.deploy import export_database
from reasoning_compiler.journal import JOURNAL_FILE
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.measure import instrument
from reasoning_compiler.report import summarize, to_text
from reasoning_compiler.session import Progress, Result, load_workload, machine_of, space_of
from reasoning_compiler.session.session import Session

pytestmark = pytest.mark.tvm

GEMM = "gemm[64,64,64]"
BEST = ["kernel.json", "kernel.so", "program.json", "schedule.py", "trace.json"]
SOURCE = Path(rc.__file__).parents[1]


def matmul(m: int = 32, n: int = 48, k: int = 16) -> Any:
    """Returns a user's PrimFunc."""
    te = import_tvm().te
    a, b = te.placeholder((m, k), name="A"), te.placeholder((k, n), name="B")
    axis = te.reduce_axis((0, k), name="k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, axis] * b[axis, j], axis=axis), name="C")
    return te.create_prim_func([a, b, c])


def events(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Returns what happened in a run's search, in order and without times."""
    kinds = kinds or ("node", "rejected", "asked", "measured")
    return [event for line in canonical_lines(folder) if (event := json.loads(line))["event"] in kinds]


def computes(library: Path, *inputs: np.ndarray) -> np.ndarray:
    return rc.load(library)(*inputs)


def saved(folder: Path) -> dict[str, Any]:
    """Returns what `best/` holds, all of whose files must be there."""
    assert sorted(path.name for path in (folder / "best").iterdir()) == BEST
    return json.loads((folder / "best" / "program.json").read_text())


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake in the place of the instrument; the function sets what it says (see `FakeInstrument`)."""

    def use(**judges: Any) -> None:
        monkeypatch.setattr(instrument, "Instrument", partial(FakeInstrument, **judges))

    use()
    return use


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with nothing fake."""
    return rc.tune(rc.workloads.gemm(64, 64, 64), out=tmp_path_factory.mktemp("runs") / "real", samples=4)


# -- whole runs ----------------------------------------------------------------------------------------------------


class TestARealRun:
    def test_the_result_says_what_it_came_to(self, real: Result) -> None:
        assert real.best is not None and real.speedup is not None
        assert 0 < real.best.latency_secs < 1e-3
        assert real.speedup > 1
        assert real.run.ended is not None and real.run.ended.reason == "samples"
        assert real.run.num_samples == 4
        assert "gemm[m=64,n=64,k=64]" in real.report()
        assert "speed-up over untuned: " in real.report()

    def test_the_library_computes(self, real: Result) -> None:
        rng = np.random.default_rng(1)
        a, b = (rng.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
        np.testing.assert_allclose(computes(real.library, a, b), a @ b, rtol=1e-4, atol=1e-4)

    def test_the_best_folder_holds_the_winner(self, real: Result) -> None:
        assert real.best is not None
        record = saved(real.folder)
        assert record["node"] == real.best.step.node
        assert record["program"] == real.best.step.program.to_json()
        assert Measurement.from_json(record["measurement"]).latency_secs == real.best.latency_secs
        workload = load_workload(real.run)
        schedule = import_tvm().s_tir.Schedule(workload.mod)
        trace = json.loads((real.folder / "best" / "trace.json").read_text())
        import_tvm().s_tir.Trace.apply_json_to_schedule(trace, schedule)
        script = (real.folder / "best" / "schedule.py").read_text()
        assert schedule.mod.script() == script.rstrip("\n")

    def test_the_best_schedule_and_the_pipeline_make_the_measured_library(self, real: Result, tmp_path: Path) -> None:
        signature = read_signature(real.library)
        assert saved(real.folder)["pipeline"] == signature.pipeline == codegen.PIPELINE_VERSION
        mod = import_tvm().script.from_source((real.folder / "best" / "schedule.py").read_text())
        rebuilt = codegen.compile(mod, signature.target).link(tmp_path / "kernel.so")
        assert rebuilt.read_bytes() == real.library.read_bytes()

    def test_time_is_accounted_for(self, real: Result) -> None:
        known = {"propose", "apply", "predict", "build", "run", "verify", "wait"}
        assert set(real.run.stage_secs) == known
        assert 0.5 * real.run.elapsed_secs < sum(real.run.stage_secs.values()) <= 1.02 * real.run.elapsed_secs

    def test_the_database_is_tvms_own(self, real: Result, tmp_path: Path) -> None:
        space = space_of(real.run)
        count = export_database([(real.run, space)], tmp_path / "db")
        steps = [s for s in real.run.steps if s.node and s.measurement and s.measurement.counts]
        assert count == len(steps)
        from tvm.s_tir import meta_schedule as ms

        database = ms.database.JSONDatabase(work_dir=str(tmp_path / "db"))
        assert len(database) == count
        schedule = ms.tir_integration.compile_tir(database, load_workload(real.run).mod, space.target)
        assert schedule is not None
        assert import_tvm().compile(schedule.mod, target=space.target) is not None
        told = json.loads((tmp_path / "db" / "database_pipeline.json").read_text())
        assert told["pipeline"] == codegen.PIPELINE_VERSION
        assert [each["node"] for each in told["records"]] == [step.node for step in steps]
        records = (tmp_path / "db" / "database_tuning_record.json").read_text().splitlines()
        for step, each, record in zip(steps, told["records"], records, strict=True):
            assert json.loads(record)[1][1] == list(step.measurement.latencies_secs), "in the database's order"
            assert each["needs"] == list(codegen.needed_passes(space.schedule(step.program).mod, space.target))
        with pytest.raises(UsageError, match="holds a database already"):
            export_database([(real.run, space)], tmp_path / "db")

    def test_a_finished_run_has_nothing_left_to_do(self, real: Result) -> None:
        before = (real.folder / JOURNAL_FILE).read_bytes()
        again = rc.resume(real.folder)
        assert again.best == real.best
        assert (real.folder / JOURNAL_FILE).read_bytes() == before

    def test_more_samples_may_follow(self, real: Result, tmp_path: Path) -> None:
        folder = shutil.copytree(real.folder, tmp_path / "copy")
        result = rc.resume(folder, samples=6)
        assert result.run.num_samples == 6
        assert events(folder)[: len(events(real.folder))] == events(real.folder)
        nodes = [event["node"] for event in events(folder, "measured")]
        assert len(nodes) == len(set(nodes)) == 7
        assert result.run.config["samples"] == 6
        assert saved(folder)["node"] == result.best.step.node


@pytest.mark.parametrize("form", ["PrimFunc", pytest.param("IRModule", marks=pytest.mark.nightly)])
def test_a_kernel_that_is_an_object(form: str, tmp_path: Path) -> None:
    kernel = matmul() if form == "PrimFunc" else import_tvm().IRModule({"main": matmul()})
    result = rc.tune(kernel, out=tmp_path / "run", samples=2)
    rng = np.random.default_rng(1)
    a = rng.standard_normal((32, 16), dtype=np.float32)
    b = rng.standard_normal((16, 48), dtype=np.float32)
    np.testing.assert_allclose(computes(result.library, a, b), a @ b, rtol=1e-4, atol=1e-4)
    assert result.best.step.measurement.verified
    assert rc.resume(tmp_path / "run", samples=3).run.num_samples == 3


def test_a_kernel_whose_file_is_gone(fake: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / "kernels.py"
    # Its name is that of one of ours, which it must not be taken for.
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    file.write_text(f"{path}\nfrom test_tuner import matmul as gemm\n")
    result = rc.tune(f"{file}:gemm", out=tmp_path / "run", samples=2)
    file.unlink()
    assert load_workload(result.run).key == result.run.header.key
    assert load_workload(result.run).spec == f"{file}:gemm"
    assert rc.resume(tmp_path / "run", samples=4).run.num_samples == 4


def test_without_a_folder_each_run_has_its_own(
    fake: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(judge=lasting(1e-3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    folders = {rc.tune(GEMM, samples=1).folder for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {Path("runs")}
    assert all(folder.name.startswith("gemm-") for folder in folders)


def test_progress_is_told(fake: Callable[..., None], tmp_path: Path) -> None:
    told: list[Progress] = []
    result = rc.tune(GEMM, out=tmp_path / "run", samples=5, batch=2, on_progress=told.append)
    doing = list(dict.fromkeys(progress.doing for progress in told))
    assert doing == ["starting", "thinking", "measuring", "untuned", "confirming", "saving", "done"]
    counts = [progress.num_samples for progress in told]
    assert counts == sorted(counts) and counts[-1] == 5
    bests = [progress.best_secs for progress in told if progress.improved]
    assert bests == sorted(bests, reverse=True)
    assert sum(progress.last is not None for progress in told) == 5
    assert told[-1].untuned_secs == pytest.approx(UNTUNED_SECS, rel=1e-5)
    assert told[-1].best_secs == min(m.latency_secs for s in result.run.steps[1:] if (m := s.measurement) and m.counts)


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "`samples` is 0; it must be a whole number of at least 1"),
        ({"samples": 2.5}, "`samples` is 2.5"),
        ({"samples": None}, "`samples` is None"),
        ({"samples": True}, "`samples` is True"),
        ({"batch": 0}, "`batch` is 0"),
        ({"patience": -1}, "`patience` is -1"),
        ({"threads": 0}, "`threads` is 0"),
        ({"threads": 4096}, "`threads` is 4096; this process may use"),
        ({"minutes": 0}, "`minutes` is 0; it must be a number above 0"),
        ({"minutes": float("nan")}, "`minutes` is nan"),
        ({"minutes": float("inf")}, "`minutes` is inf"),
        ({"minutes": "3"}, "`minutes` is '3'"),
        ({"timeout_secs": None}, "`timeout_secs` is None"),
        ({"seed": 0.5}, "`seed` is 0.5; it must be a whole number"),
        ({"proposer": "oracle"}, "`proposer` is 'oracle'; allowed: expert, random"),
        ({"preset": "fast"}, "`preset` is 'fast'; allowed: default, paper"),
        ({"preset": "paper"}, "needs a model"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rc.tune(GEMM, out=tmp_path / "run", **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_limits_of_a_resume_are_checked_too(fake: Callable[..., None], tmp_path: Path) -> None:
    rc.tune(GEMM, out=tmp_path / "run", samples=2)
    before = (tmp_path / "run" / JOURNAL_FILE).read_bytes()
    for limits in ({"samples": 0}, {"minutes": 0}, {"patience": 0}):
        with pytest.raises(UsageError, match="must be"):
            rc.resume(tmp_path / "run", **limits)
    assert (tmp_path / "run" / JOURNAL_FILE).read_bytes() == before


def test_threads_are_respected(fake: Callable[..., None], tmp_path: Path) -> None:
    result = rc.tune(GEMM, out=tmp_path / "run", samples=2, threads=1)
    assert result.run.header.fingerprint["threads"] == 1
    assert machine_of(result.run).num_cores == 1
    assert json.loads((tmp_path / "run" / "best" / "kernel.json").read_text())["about"]["num_threads"] == 1


def test_another_environment_is_refused(fake: Callable[..., None], tmp_path: Path) -> None:
    folder = rc.tune(GEMM, out=tmp_path / "run", samples=2).folder
    journal = folder / JOURNAL_FILE
    for before, after in (('"apache-tvm":"', '"apache-tvm":"9.'), ('"cpu":"', '"cpu":"Cray ')):
        text = journal.read_text()
        journal.write_text(text.replace(before, after, 1))
        with pytest.raises(EnvironmentMismatchError, match="another environment"):
            rc.resume(folder, samples=4)
        journal.write_text(text)
    assert rc.resume(folder, samples=4).run.num_samples == 4


def test_the_programs_of_another_version_are_refused(fake: Callable[..., None], tmp_path: Path) -> None:
    folder = rc.tune(GEMM, out=tmp_path / "run", samples=2).folder
    journal = folder / JOURNAL_FILE
    text = journal.read_text()
    journal.write_text(text.replace('"unroll"', '"unrolled"'))
    with pytest.raises(UsageError, match=r"made by version .* not all of it is known to this one \(.*unrolled"):
        rc.resume(folder, samples=4)
    with pytest.raises(UsageError, match=r"made by version .* not all of it is known to this one"):
        export_database([(rc.read_run(folder), space_of(rc.read_run(folder)))], tmp_path / "db")
    assert not (tmp_path / "db").exists()
    journal.write_text(text.replace('"samples":2', '"simples":2'))
    with pytest.raises(UsageError, match=r"made by version .* not all of it is known to this one \(.*simples"):
        rc.resume(folder, samples=4)


# -- when a run ends, and with what --------------------------------------------------------------------------------


class TestEndings:
    def test_samples(self, fake: Callable[..., None], tmp_path: Path) -> None:
        run = rc.tune(GEMM, out=tmp_path / "run", samples=7, batch=3).run
        assert (run.ended.reason, run.num_samples) == ("samples", 7)
        assert [len(batch) for batch in batches(run)] == [3, 3, 1]

    def test_patience(self, fake: Callable[..., None], tmp_path: Path) -> None:
        fake(judge=lasting(1e-3))
        run = rc.tune(GEMM, out=tmp_path / "run", samples=50, batch=2, patience=5).run
        assert (run.ended.reason, run.num_samples) == ("patience", 6)
        assert rc.resume(tmp_path / "run").run.num_samples == 6
        assert rc.resume(tmp_path / "run", patience=7).run.num_samples == 8

    def test_minutes(self, fake: Callable[..., None], tmp_path: Path) -> None:
        def slow(bits: int) -> Measurement:
            time.sleep(0.1)
            return lasting(1e-3)(bits)

        fake(judge=slow)
        run = rc.tune(GEMM, out=tmp_path / "run", samples=500, batch=2, minutes=0.5 / 60).run
        assert run.ended.reason == "minutes"
        assert 0 < run.num_samples <= 6
        again = rc.resume(tmp_path / "run").run
        assert again.ended == run.ended
        more = rc.resume(tmp_path / "run", minutes=(run.elapsed_secs + 2) / 60).run
        assert more.ended.reason == "minutes"
        assert run.num_samples < more.num_samples <= run.num_samples + 22

    def test_nothing_left_to_try(self, fake: Callable[..., None], tmp_path: Path) -> None:
        te = import_tvm().te
        a = te.placeholder((2,), name="A")
        kernel = te.create_prim_func([a, te.compute((2,), lambda i: a[i] * 2.0, name="B")])
        run = rc.tune(kernel, out=tmp_path / "run", samples=5000).run
        assert run.ended.reason == "nothing left to try"
        assert 0 < run.num_samples < 200
        assert run.num_samples == len(run.steps) - 1

    def test_nothing_slower_than_the_untuned_program_is_handed_out(
        self, fake: Callable[..., None], tmp_path: Path
    ) -> None:
        fake(judge=lasting(2 * UNTUNED_SECS))
        result = rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert result.best.step.node == 0
        assert result.speedup == pytest.approx(1.0)
        assert saved(tmp_path / "run")["node"] == 0
        assert "nothing faster was found; the library is the kernel as written" in result.report()

    def test_an_end_measured_anew_decides(self, fake: Callable[..., None], tmp_path: Path) -> None:
        class Fickle(FakeInstrument):
            def confirm(self, artifacts: Any, **options: Any) -> list[Measurement]:
                return [Measurement((1.0 / (1 + i),), verified=True) for i in range(len(artifacts))]

        instrument.Instrument = Fickle  # the fixture takes it back
        result = rc.tune(GEMM, out=tmp_path / "run", samples=6)
        fastest = sorted(
            (s for s in result.run.steps[1:] if s.measurement and s.measurement.counts),
            key=lambda s: s.measurement.latency_secs,
        )
        assert result.best.step == fastest[2]
        assert saved(tmp_path / "run")["node"] == fastest[2].node
        assert result.best.latency_secs == 1 / 3

    @pytest.mark.parametrize("error", [DeviceError("no device"), RuntimeError("a bug")])
    @pytest.mark.parametrize("out", [None, "run", "empty", "taken"])
    def test_a_failed_start_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, out: str | None
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("empty").mkdir()
        Path("taken").mkdir()
        Path("taken", "notes.txt").write_text("mine")
        before = sorted(tmp_path.rglob("*"))

        def fail(self: FakeInstrument, *args: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(instrument, "Instrument", type("Failing", (FakeInstrument,), {"__init__": fail}))
        with pytest.raises(UsageError if out == "taken" else type(error)):
            rc.tune(GEMM, out=out, samples=4)
        assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before

    @pytest.mark.parametrize("kind", get_args(FailureKind))
    def test_a_run_that_measured_nothing_fails(self, fake: Callable[..., None], tmp_path: Path, kind: str) -> None:
        fake(judge=failing(kind, "so it goes"), untuned=failing("timeout"))
        with pytest.raises(NothingMeasuredError, match=rf"none of 4 programs .*\(4 {kind}\).* so it goes") as caught:
            rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert caught.value.exit_code == 3
        assert f"`reasonc report {tmp_path / 'run'}`" in str(caught.value)
        run = rc.read_run(tmp_path / "run")
        assert run.ended.best is None and run.outcome.step is None
        assert not (tmp_path / "run" / "best").exists()
        with pytest.raises(NothingMeasuredError):  # and again, not silently
            rc.resume(tmp_path / "run")

    def test_it_says_what_went_wrong_most_often(self, fake: Callable[..., None], tmp_path: Path) -> None:
        said = iter([("build", "rare"), *[("wrong_result", "often")] * 2, ("wrong_result", "once")])
        fake(judge=lambda bits: failing(*next(said))(bits), untuned=failing("timeout"))
        with pytest.raises(NothingMeasuredError, match=r"\(3 wrong_result, 1 build\); most said: often\. .* tolerance"):
            rc.tune(GEMM, out=tmp_path / "run", samples=4)
        told = to_text(summarize(rc.read_run(tmp_path / "run")))
        assert "most frequent wrong_result: often" in told and "most frequent build: rare" in told

    def test_where_only_the_untuned_program_works_it_is_there(self, fake: Callable[..., None], tmp_path: Path) -> None:
        fake(judge=failing("crash"))
        result = rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert result.best is not None and result.best.step.node == 0 and result.speedup == 1
        assert saved(tmp_path / "run")["node"] == 0
        assert rc.read_run(tmp_path / "run").outcome.step.node == 0

    def test_programs_that_nobody_verified_are_none(self, fake: Callable[..., None], tmp_path: Path) -> None:
        fake(judge=lambda bits: Measurement((1e-3,)))
        rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert saved(tmp_path / "run")["node"] == 0

    def test_without_a_reference_the_untuned_program_must_run(self, fake: Callable[..., None], tmp_path: Path) -> None:
        fake(untuned=failing("timeout", "no answer within 600 s"))
        with pytest.raises(NothingMeasuredError, match=r"the program as written fails itself .*no answer"):
            rc.tune(matmul(), out=tmp_path / "run", samples=4)
        assert rc.read_run(tmp_path / "run").ended.reason == "nothing to compare with"

    def test_an_untuned_program_that_fails_does_not_stop_a_run_with_a_reference(
        self, fake: Callable[..., None], tmp_path: Path
    ) -> None:
        fake(untuned=failing("timeout"))
        result = rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert result.best.step.node != 0 and result.speedup is None
        assert "untuned: failed, timeout" in result.report()

    def test_the_best_that_fails_at_the_end(self, fake: Callable[..., None], tmp_path: Path) -> None:
        class Dying(FakeInstrument):
            def confirm(self, artifacts: Any, **options: Any) -> list[Measurement]:
                return [Measurement(failure=Failure("device", "gone")) for _ in artifacts]

        instrument.Instrument = Dying
        with pytest.raises(NothingMeasuredError, match=r"worked during the search and fail now \(device: gone"):
            rc.tune(GEMM, out=tmp_path / "run", samples=4)
        assert saved(tmp_path / "run")["node"] == rc.read_run(tmp_path / "run").best.node


# -- the same again ------------------------------------------------------------------------------------------------


class Server:
    """A process that forks runs with a fake instrument, of which some are killed; see run_server.py."""

    def __init__(self, scratch: Path, *, hash_seed: int) -> None:
        path = os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("run_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed), "TMPDIR": str(scratch)},
        )

    def run(
        self, folder: Path, *, samples: int = 8, seed: int = 0, kill_at: int = 0, then: Callable[[int], Any] = id
    ) -> int:
        """Returns a run's exit code, or -9 where it was killed; a folder that holds a run is gone on with.

        Args:
            folder: the run folder.
            samples: of the run.
            seed: of the run.
            kill_at: see run_server.py.
            then: is given the run's process id once it has started.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"folder": str(folder), "samples": samples, "seed": seed, "kill_at": kill_at}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        then(int(self._process.stdout.readline()))
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    scratch = tmp_path_factory.mktemp("scratch")
    made = (Server(scratch, hash_seed=1), Server(scratch, hash_seed=2))
    yield made
    for server in made:
        server.close()


def same_run(a: Path, b: Path) -> None:
    """Fails where two runs differ in what they proposed, asked, measured or came to."""
    assert events(a) == events(b)
    ends = [rc.read_run(folder).ended for folder in (a, b)]
    assert ends[0].reason == ends[1].reason == "samples"
    assert [ends[0].best, ends[0].confirmed] == [ends[1].best, ends[1].confirmed]
    assert saved(a) == saved(b)


def test_the_same_seed_gives_the_same_journal(servers: tuple[Server, Server], tmp_path: Path) -> None:
    for server, name in zip(servers, ("one", "two"), strict=True):
        assert server.run(tmp_path / name, samples=12) == 0
    first, second = (canonical_lines(tmp_path / name) for name in ("one", "two"))
    assert first[1:] == second[1:]  # the header says by which command it was made
    assert servers[0].run(tmp_path / "other", samples=12, seed=1) == 0
    assert canonical_lines(tmp_path / "other")[1:] != first[1:]


@pytest.mark.parametrize("least", [10, pytest.param(50, marks=pytest.mark.nightly)])
def test_whatever_is_killed_when_goes_on_as_if_it_had_not_been(
    servers: tuple[Server, Server], tmp_path: Path, least: int
) -> None:
    rng = random.Random(0)
    num_kills = 0
    for seed in range(3):
        assert servers[0].run(tmp_path / f"whole{seed}", seed=seed) == 0
    for number in range(100):
        if num_kills >= least:
            break
        folder = tmp_path / f"killed{number}"
        for server in servers * 100:
            code = server.run(folder, seed=number % 3, kill_at=rng.randint(1, 60))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            num_kills += 1
            before = events(tmp_path / f"whole{number % 3}")
            if (folder / JOURNAL_FILE).read_bytes().count(b"\n"):
                so_far = events(folder)
                assert so_far == before[: len(so_far)]  # nothing twice, nothing else
        same_run(folder, tmp_path / f"whole{number % 3}")
        assert sorted(p.name for p in folder.iterdir()) == ["best", "environment.json", JOURNAL_FILE]
    assert num_kills >= least


def test_ctrl_c_at_any_moment(servers: tuple[Server, Server], tmp_path: Path) -> None:
    rng = random.Random(0)
    assert servers[0].run(tmp_path / "whole") == 0

    def press(pid: int) -> None:
        time.sleep(rng.uniform(0.02, 0.4))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)

    codes = []
    for number in range(3):
        folder = tmp_path / f"stopped{number}"
        codes += [servers[number % 2].run(folder, then=press) for _ in range(4)]
        assert servers[number % 2].run(folder) == 0
        same_run(folder, tmp_path / "whole")
    assert set(codes) <= {0, 130}
    assert codes.count(130) >= 3


# -- nothing fake, and killed --------------------------------------------------------------------------------------


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reasoning_compiler", "tune", GEMM, "--out", str(folder), *args]
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(folder.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(condition: Callable[[], Any], *, secs: float = 60.0) -> None:
    until = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def num_measured(folder: Path) -> int:
    path = folder / JOURNAL_FILE
    return path.read_bytes().count(b'"event":"measured"') if path.exists() else 0


@pytest.mark.parametrize("after", [*(pytest.param(n, marks=pytest.mark.nightly) for n in (0, 6)), 1])
def test_a_real_run_is_killed_and_goes_on(tmp_path: Path, after: int) -> None:
    folder = tmp_path / "run"
    process = start(folder, "--samples", "60")
    wait_for(lambda: (folder / JOURNAL_FILE).exists() and num_measured(folder) >= after)
    wait_for(lambda: len(workers_of(process)) >= 2)
    workers = workers_of(process)
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(workers), secs=10)
    kept = rc.read_run(folder).samples
    assert len(kept) >= after
    samples = rc.read_run(folder).num_samples + 3
    result = rc.resume(folder, samples=samples)
    assert result.run.samples[: len(kept)] == kept
    assert result.run.num_samples == samples
    nodes = [sample.node for sample in result.run.samples]
    assert len(nodes) == len(set(nodes))
    assert result.speedup > 1
    assert saved(folder)["node"] == result.best.step.node
    from reasoning_compiler.measure.workers.scratch import Scratch

    Scratch(tmp_path).close()  # as the next run here would
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # what the killed one left behind is gone


def test_an_interrupt_reaches_whoever_called_us(
    fake: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(self: Session, *turn: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_take_turn", press)
        with pytest.raises(Interrupted, match="go on with `reasonc resume") as caught:
            rc.tune(GEMM, out=tmp_path / "run", samples=4)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.folder == tmp_path / "run"
    assert rc.read_run(tmp_path / "run").ended.reason == "interrupted"
    assert rc.resume(tmp_path / "run").run.num_samples == 4


def test_what_a_killed_process_could_not_save_is_saved_by_the_next(
    fake: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rc.tune(GEMM, out=tmp_path / "run", samples=4)
    shutil.rmtree(tmp_path / "run" / "best")

    def press(self: Session) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_next_turn", press)
    with pytest.raises(Interrupted):
        rc.resume(tmp_path / "run", samples=6)
    assert saved(tmp_path / "run")["node"] == result.best.step.node


def test_what_is_handed_out_after_an_interrupt_is_the_faster_one(
    fake: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(judge=lasting(2 * UNTUNED_SECS))

    def press(self: Session, *seat: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_finish", press)
    with pytest.raises(Interrupted):
        rc.tune(GEMM, out=tmp_path / "run", samples=4)
    run = rc.read_run(tmp_path / "run")
    assert run.outcome.step.node == saved(tmp_path / "run")["node"] == 0

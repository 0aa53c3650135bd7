"""Sessions of several tasks: who gets the samples, one journal, one folder, stops, failures, reports; old journals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("tvm")

import reasoning_compiler as rc
from fake_instrument import FakeInstrument, failing, lasting
from journal_examples import batches, canonical_lines
from reasoning_compiler.cli.main import app
from reasoning_compiler.core.errors import Interrupted, NothingMeasuredError, UsageError
from reasoning_compiler.deploy import export_database
from reasoning_compiler.journal import JOURNAL_FILE
from reasoning_compiler.measure import instrument
from reasoning_compiler.session import Progress, load_workload, space_of
from reasoning_compiler.session.session import Session
from test_tuner import matmul

pytestmark = pytest.mark.tvm

TWO = ["gemm[64,64,64]", "gemm[32,48,16]"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake in the place of the instrument; the function sets what it says (see `FakeInstrument`)."""

    def use(**judges: Any) -> None:
        monkeypatch.setattr(instrument, "Instrument", partial(FakeInstrument, **judges))

    use()
    return use


def turns(folder: Path) -> list[tuple[str, int]]:
    """Returns (task, number of programs) of each batch, in order."""
    events = [json.loads(line) for line in canonical_lines(folder)]
    return [(event["task"], len(event["nodes"])) for event in events if event["event"] == "asked"]


def test_tasks_share_a_budget_a_journal_and_a_folder(fake: Callable[..., None], tmp_path: Path) -> None:
    told: list[Progress] = []
    session = rc.tune(TWO, out=tmp_path / "run", samples=12, on_progress=told.append)
    assert [task.run.header.task for task in session.tasks] == ["gemm", "gemm-2"]
    assert [task.run.header.spec for task in session.tasks] == ["gemm[m=64,n=64,k=64]", "gemm[m=32,n=48,k=16]"]
    assert sum(task.run.num_samples for task in session.tasks) == 12
    assert all(task.run.ended.reason == "samples" and task.speedup > 1 for task in session.tasks)
    assert {progress.task for progress in told} == {"", "gemm", "gemm-2"} and told[-1].num_samples == 12
    for task in session.tasks:
        assert task.library == tmp_path / "run" / "best" / task.run.header.task / "kernel.so"
        record = json.loads(task.library.with_name("program.json").read_text())
        assert record["node"] == task.best.step.node
        assert load_workload(task.run).key == task.run.header.key
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best", "environment.json", JOURNAL_FILE]


def test_samples_go_by_weight_and_time(fake: Callable[..., None], tmp_path: Path) -> None:
    fake(judge=lasting(1e-3))
    rc.tune(TWO, weights=[1, 3], out=tmp_path / "run", samples=24, batch=2)
    assert turns(tmp_path / "run")[:2] == [("gemm", 2), ("gemm-2", 2)]
    counts = {task: sum(n for t, n in turns(tmp_path / "run") if t == task) for task in ("gemm", "gemm-2")}
    assert counts == {"gemm": 6, "gemm-2": 18}


def test_each_task_gets_a_sample_at_least(fake: Callable[..., None], tmp_path: Path) -> None:
    session = rc.tune(TWO, out=tmp_path / "run", samples=3)
    assert turns(tmp_path / "run") == [("gemm", 2), ("gemm-2", 1)]
    assert all(task.best is not None for task in session.tasks)


def test_a_task_alone_is_found_as_it_is_alone(fake: Callable[..., None], tmp_path: Path) -> None:
    alone = rc.tune(TWO[0], out=tmp_path / "alone", samples=4).run
    together = rc.tune(TWO, out=tmp_path / "both", samples=8, batch=4).tasks[0].run
    assert [step.program for step in together.steps[: len(alone.steps)]] == [step.program for step in alone.steps]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "`workload` is an empty list"),
        (TWO, {"samples": 1}, "`samples` is 1; it must be at least 2, one for each workload"),
        (TWO, {"weights": [1]}, "`weights` is [1]; it must hold a number above 0 for each of 2 workloads"),
        (TWO, {"weights": [1, 0]}, "`weights` is [1, 0]"),
    ],
)
def test_what_is_refused(given: list[str], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rc.tune(given, out=tmp_path / "run", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def of_search(folder: Path) -> list[str]:
    """Returns what happened in the trees of a session's tasks, in order and without times."""
    kinds = ("node", "rejected", "asked", "measured")
    return [line for line in canonical_lines(folder) if json.loads(line)["event"] in kinds]


def test_a_session_goes_on_where_it_was_stopped(
    fake: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rc.tune([matmul(), *TWO], out=tmp_path / "whole", samples=12, batch=2)
    take_turn, num_stops = Session._take_turn, 0

    def press(self: Session, *turn: Any) -> None:
        nonlocal num_stops
        take_turn(self, *turn)
        num_stops += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_take_turn", press)
        with pytest.raises(Interrupted):
            rc.tune([matmul(), *TWO], out=tmp_path / "parts", samples=12, batch=2)
        for _ in range(3):
            with pytest.raises(Interrupted):
                rc.resume(tmp_path / "parts")
    session = rc.resume(tmp_path / "parts")
    assert num_stops == 4
    assert of_search(tmp_path / "parts") == of_search(tmp_path / "whole")
    assert [task.run.ended.reason for task in session.tasks] == ["samples"] * 3


def test_a_finished_session_takes_more_samples(fake: Callable[..., None], tmp_path: Path) -> None:
    rc.tune(TWO, out=tmp_path / "run", samples=4)
    before = (tmp_path / "run" / JOURNAL_FILE).read_bytes()
    again = rc.resume(tmp_path / "run")
    assert (tmp_path / "run" / JOURNAL_FILE).read_bytes() == before and len(again.tasks) == 2
    more = rc.resume(tmp_path / "run", samples=10)
    assert sum(task.run.num_samples for task in more.tasks) == 10
    assert all(task.run.ended.reason == "samples" for task in more.tasks)


class OneFails(FakeInstrument):
    """Of the small kernel, nothing works."""

    def __init__(self, workload: Any, *args: Any, **options: Any) -> None:
        judge = {"judge": failing("build"), "untuned": failing("timeout")} if workload.flops < 1e5 else {}
        super().__init__(workload, *args, **options, **judge)


def test_a_task_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "Instrument", OneFails)
    told: list[Progress] = []
    session = rc.tune(TWO, out=tmp_path / "run", samples=8, on_progress=told.append)
    assert session.tasks[0].best is not None and session.tasks[1].best is None
    assert any("gemm-2: none of" in progress.notice for progress in told)
    assert "nothing yet" in session.report()
    nothing = partial(FakeInstrument, judge=failing("build"), untuned=failing("timeout"))
    monkeypatch.setattr(instrument, "Instrument", nothing)
    with pytest.raises(NothingMeasuredError):
        rc.tune(["gemm[32,48,16]", "gemm[16,16,16]"], out=tmp_path / "none", samples=4)


class OneHasNoReference(FakeInstrument):
    """Knows what one of the tasks must compute, and not what the other must."""

    def measure(self, *args: Any, **options: Any) -> Any:
        if self._workload.flops < 1e5:
            raise NothingMeasuredError("nothing can be verified")
        return super().measure(*args, **options)


def test_a_task_that_cannot_be_verified_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrument, "Instrument", OneHasNoReference)
    told: list[Progress] = []
    session = rc.tune(TWO, out=tmp_path / "run", samples=8, on_progress=told.append)
    assert [task.run.num_samples for task in session.tasks] == [8, 0]
    assert session.tasks[0].best is not None and session.tasks[1].best is None
    assert [task.run.ended.reason for task in session.tasks] == ["samples", "nothing to compare with"]
    assert [progress.notice for progress in told if progress.notice] == ["gemm-2: nothing can be verified"]
    with pytest.raises(NothingMeasuredError, match=r"^nothing can be verified$"):
        rc.tune(TWO[1], out=tmp_path / "alone", samples=4)


def test_a_session_is_replayed_task_by_task(fake: Callable[..., None], tmp_path: Path) -> None:
    first = rc.tune(TWO, out=tmp_path / "first", samples=8)
    again = rc.tune(TWO[::-1], out=tmp_path / "again", samples=8, proposer=f"replay:{tmp_path / 'first'}")
    for one, other in zip(first.tasks, again.tasks[::-1], strict=True):
        assert [step.program for step in one.run.steps] == [step.program for step in other.run.steps]
        assert batches(one.run) == batches(other.run)
    with pytest.raises(UsageError, match="whose programs are none of gemm"):
        rc.tune("gemm[8,8,8]", out=tmp_path / "other", proposer=f"replay:{tmp_path / 'first'}")


def test_the_commands_know_tasks(fake: Callable[..., None], tmp_path: Path) -> None:
    folder = str(tmp_path / "run")

    def call(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if code:
            return str(done.exception)
        assert done.exit_code == 0, done.output + repr(done.exception)
        return done.stdout

    text = call("tune", *TWO, "--samples", "8", "--out", folder, "--quiet")
    assert text.startswith("2 tasks on ") and "weighted sum:" in text
    assert call("report", folder).split("\n")[0] == text.split("\n")[0]
    assert text.count("Proposers\n") == 2 and text.count("Time by stage") == 1
    tasks = json.loads(call("report", folder, "--json"))["tasks"]
    assert list(tasks) == ["gemm", "gemm-2"] and all(Path(task["library"]).exists() for task in tasks.values())
    assert call("explain", folder).count("untuned (node 0)") == 2
    assert call("explain", folder, "--task", "gemm-2").count("untuned (node 0)") == 1
    assert "give one of them: gemm, gemm-2" in call("export", folder, "--out", str(tmp_path / "k.so"), code=2)
    call("export", folder, "--task", "gemm", "--out", str(tmp_path / "k.so"))
    assert (tmp_path / "k.so").read_bytes() == (tmp_path / "run" / "best" / "gemm" / "kernel.so").read_bytes()
    assert "`task` is 'no'" in call("run", folder, "--task", "no", code=2)
    count = sum(s.measurement.counts for r in rc.read_session(folder).runs for s in r.steps if s.node and s.measurement)
    runs = [(run, space_of(run)) for run in rc.read_session(folder).runs]
    assert export_database(runs, tmp_path / "db") == count


def test_real_tasks_in_turn(tmp_path: Path) -> None:
    session = rc.tune([matmul(), "gemm[64,64,64]"], out=tmp_path / "run", samples=4)
    rng = np.random.default_rng(1)
    for task, (m, n, k) in zip(session.tasks, ((32, 48, 16), (64, 64, 64)), strict=True):
        a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
        np.testing.assert_allclose(rc.load(task.library)(a, b), a @ b, rtol=1e-4, atol=1e-4)
    assert all(run.speedup is not None for run in rc.read_session(tmp_path / "run").runs)


# -- journals of older formats -------------------------------------------------------------------------------------


def downgraded(folder: Path, version: int) -> Path:
    """Rewrites a journal of one task as an older version would have written it."""
    lines = [json.loads(line) for line in (folder / JOURNAL_FILE).read_text().splitlines()]
    header = lines[0] | lines[0].pop("tasks")[0] | {"format_version": version}
    lines[0] = {k: v for k, v in header.items() if k not in ("tasks", "task", "weight")}
    if version < 3:
        lines[0] = {k: v for k, v in lines[0].items() if k not in ("peak", "own_reference")}
    kept = [{k: v for k, v in line.items() if k != "task"} for line in lines]
    (folder / JOURNAL_FILE).write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


@pytest.mark.parametrize("version", [1, 2, 3])
def test_journals_of_older_formats_are_opened_gone_on_with_and_replayed(
    fake: Callable[..., None], tmp_path: Path, version: int
) -> None:
    new = rc.tune(TWO[0], out=tmp_path / "run", samples=4)
    folder = downgraded(shutil.copytree(tmp_path / "run", tmp_path / "old"), version)
    old = rc.read_run(folder)
    assert old.header.format_version == version and old.steps == new.run.steps and old.ended == new.run.ended
    more = rc.resume(folder, samples=8)
    assert more.run.num_samples == 8 and more.run.samples[:5] == old.samples
    whole = rc.tune(TWO[0], out=tmp_path / "whole", samples=8).run
    assert [step.program for step in more.run.steps][: len(new.run.steps)] == [s.program for s in new.run.steps]
    again = rc.tune(TWO[0], out=tmp_path / "again", samples=8, proposer=f"replay:{folder}").run
    assert [step.program for step in again.steps] == [step.program for step in more.run.steps]
    assert whole.num_samples == 8


def test_a_journal_that_version_3_wrote_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(Path(__file__).with_name("old_journals") / "log-softmax", tmp_path / "run")
    run = rc.read_run(folder)
    assert (run.header.task, run.header.spec, run.num_samples) == ("", "kernels.py:logsoftmax", 16)
    assert run.ended.reason == "samples" and run.speedup > 1 and len(run.models) == 1
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0 and done.stdout.startswith("kernels.py:logsoftmax\n═══")
    done = CliRunner().invoke(app, ["transcript", str(folder)])
    assert done.exit_code == 0 and "node 0 |" in done.stdout

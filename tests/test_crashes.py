"""Programs over which TVM ends the process, in whole runs: the run goes on, and they are not tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("tvm")

import reasoning_compiler as rc
from fake_instrument import FakeInstrument, lasting
from journal_examples import old_journal
from reasoning_compiler.core.crash_markers import Crash, CrashMarker
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.measure import instrument
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse

pytestmark = pytest.mark.tvm

SOURCE = Path(rc.__file__).parents[1]
GEMM = "gemm[64,64,64]"
# Python imports this by itself when it starts. In the process that searches, two programs are deadly: the 40th that the
# first process applies, and the 12th of the second one. They are for all later processes, too.
PLANTED = """
import sys
if "reasoning_compiler.cli.watched:work" in sys.orig_argv:
    import ctypes, hashlib, os, pathlib
    from fake_instrument import FakeInstrument
    from reasoning_compiler.measure import instrument
    from reasoning_compiler.space import space
    instrument.Instrument = FakeInstrument
    deaths = pathlib.Path("deaths")
    deaths.touch()
    apply, left = space.postprocess, {0: 40, 1: 12}.get(len(deaths.read_text().split()), -1)
    def postprocess(schedule, postprocs):
        global left
        program = hashlib.sha256(str(schedule.trace).encode()).hexdigest()
        known = deaths.read_text().split()
        left -= 1
        if program in known or left == 0:
            deaths.write_text(" ".join([*known, program]))
            ctypes.string_at(0)
        return apply(schedule, postprocs)
    space.postprocess = postprocess
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake in the place of the instrument; the function sets what it says (see `FakeInstrument`)."""

    def use(**judges: object) -> None:
        monkeypatch.setattr(instrument, "Instrument", partial(FakeInstrument, **judges))

    use()
    return use


@pytest.fixture
def reasonc(tmp_path: Path) -> Callable[..., dict[str, object]]:
    """Runs the command where programs are deadly, and returns what it tells."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    path = os.pathsep.join([str(tmp_path), str(SOURCE), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}

    def run(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "reasoning_compiler", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


def test_a_program_that_ends_the_process_is_left_out_and_the_run_goes_on(
    reasonc: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    told = reasonc("tune", GEMM, "--samples", "12", "--out", "run")
    run = rc.read_run(tmp_path / "run")
    assert run.num_samples == 12 and run.ended.reason == "samples"
    assert (told["samples"]["total"], told["num_crashes"]) == (12, 2)
    assert [crash.how for crash in run.crashes] == ["SIGSEGV", "SIGSEGV"]
    assert all(crash.risk is not None and "postprocess" in crash.where for crash in run.crashes)
    refused = [each.why for each in run.rejected if "TVM crashes" in each.why]
    assert refused
    deaths = (tmp_path / "deaths").read_text().split()
    assert len(deaths) == len(set(deaths)) == 2  # neither was tried again
    reasonc("resume", "run", "--samples", "16")
    assert (tmp_path / "deaths").read_text().split() == deaths
    assert rc.read_run(tmp_path / "run").num_samples == 16


@pytest.mark.nightly
def test_a_comparison_survives_it_too(reasonc: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    options = ("--methods", "mcts,expert", "--samples", "8", "--repeats", "1", "--batch", "4")
    told = reasonc("compare", GEMM, *options)
    (folder,) = (tmp_path / "experiments").iterdir()
    runs = [rc.read_run(journal.parent) for journal in folder.glob("cells/*/journal.jsonl")]
    assert [run.num_samples for run in runs] == [8, 8] and sum(len(run.crashes) for run in runs) == 2
    assert len(told["cells"]) == 2


class TestWhatIsFatal:
    @pytest.fixture
    def target(self) -> object:
        return tvm_target(detect())

    def test_a_program_is_refused_by_whichever_way_it_is_reached(self, target: object) -> None:
        mod = parse(GEMM).mod
        free = Space(mod, target)
        edit = Transformation((("unroll", 64),))
        deadly = free.edit(UNTUNED, edit)
        space = Space(mod, target, fatal=[CrashMarker(deadly)])
        back = Transformation((("unroll", free.start.values["unroll"]),))
        for way in (
            lambda: space.edit(UNTUNED, edit),
            lambda: space.edit(space.edit(UNTUNED, Transformation((("unroll", 512),))), edit),
            lambda: space.schedule(deadly),
            lambda: space.nests(deadly),
            lambda: space.table(deadly),
        ):
            with pytest.raises(IllegalProgramError, match="TVM crashes"):
                way()
        assert space.edit(deadly, back) == space.start

    def test_an_edit_is_refused_and_no_other(self, target: object) -> None:
        mod = parse(GEMM).mod
        space = Space(mod, target, fatal=[CrashMarker(Space(mod, target).start, (("unroll", 64),))])
        with pytest.raises(IllegalProgramError, match="TVM crashes"):
            space.edit(UNTUNED, Transformation((("unroll", 64),)))
        assert space.edit(UNTUNED, Transformation((("unroll", 512),))).values["unroll"] == 512

    def test_of_what_is_drawn_the_next_is_taken(self, target: object) -> None:
        mod = parse(GEMM).mod
        free = Space(mod, target)
        drawn = free.sample(5)
        assert Space(mod, target, fatal=[CrashMarker(drawn)]).sample(5) != drawn


def test_a_program_of_the_tree_that_turns_out_fatal_fails_as_a_crash(fake: Callable[..., None], tmp_path: Path) -> None:
    fake(judge=lasting(1e-3))
    folder = tmp_path / "run"
    rc.tune(GEMM, out=folder, samples=4, batch=2)
    run = rc.read_run(folder)
    waiting = [step for step in run.steps if step.measurement is None and step.node]
    measured = [step for step in run.steps if step.measurement is not None and step.node]
    with old_journal(folder) as journal:
        for step in (*waiting, measured[0]):
            journal.crashed(Crash("SIGSEGV", CrashMarker(step.program)))
        journal.asked([waiting[0].node])
    after = rc.resume(folder, samples=8).run
    failure = after.step(waiting[0].node).measurement.failure
    assert (failure.kind, failure.message) == ("crash", "TVM crashes when this is applied")
    assert after.num_samples == 8
    fatal = {step.node for step in (*waiting, measured[0])}
    assert not [s for s in after.steps[len(run.steps) :] if s.parent in fatal]
    again = rc.resume(folder, samples=9).run  # and it can be gone on with
    assert again.num_samples == 9

"""Planted errors that random inputs alone would not always show: caught every time, and never the best."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from faulty_kernels import BESIDE, DEADLY, GEMM, WRONG, fused_gemm, module, rows_of_threads
from judge_faults import SCHEDULES
from measure_kernels import Gemm, scheduled, slow_gemm, target, tvm
from own_executor import measuring
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.records import plain
from reasoning_compiler.ir.races import racing_loop
from reasoning_compiler.measure import instrument as instrument_module
from reasoning_compiler.measure.executors.kernels import Kernel, Ran
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.measure.timing.racing import Race
from reasoning_compiler.measure.verification.data import Data
from reasoning_compiler.measure.workers.builder import Builder
from reasoning_compiler.measure.workers.loaded import LoadedKernel
from reasoning_compiler.measure.workers.memory import Fenced
from reasoning_compiler.measure.workers.runner import Runner
from reasoning_compiler.measure.workers.workspaces import FILLS, Workspaces, compile_workspaces
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import CATALOGUE, Workload, from_tvm, parse
from test_workload_tvm import SMALL

pytestmark = pytest.mark.tvm
TIMES = 8


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    folder = tmp_path_factory.mktemp("judged")
    command = [sys.executable, str(here / "judge_faults.py"), str(folder), str(TIMES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_is_caught_every_time(judged: dict[str, list[str]], name: str) -> None:
    kinds = Counter(said.partition(":")[0] for said in judged[name])
    assert set(kinds) <= {"wrong_result", "nonfinite"} and kinds.total() == TIMES, kinds


def test_a_right_program_never_is(judged: dict[str, list[str]]) -> None:
    assert judged["right"] == ["passed"] * TIMES


def test_it_takes_the_input_sets_to_see_some_of_them(judged: dict[str, list[str]]) -> None:
    assert all("on large inputs: output 0" in outcome for outcome in judged["what is large is clipped"])


def test_what_is_read_before_it_is_written_is_nan_or_far_off(judged: dict[str, list[str]]) -> None:
    for name in ("a sum that is not initialised", "memory read before it is written, times almost nothing"):
        assert {outcome.partition(":")[0] for outcome in judged[name]} <= {"nonfinite", "wrong_result"}


@pytest.fixture(scope="module")
def instrument() -> Iterator[Instrument]:
    with measuring(GEMM, target(), num_threads=2, timeout_secs=10, repeats=3) as instrument:
        yield instrument


@pytest.mark.parametrize("name", DEADLY)
def test_a_program_that_reaches_where_it_must_not_dies_of_it(instrument: Instrument, name: str) -> None:
    _, func = DEADLY[name]
    bad, good = instrument.measure([module(func), scheduled(GEMM)], best_secs=None)
    assert bad.measurement.failure is not None and bad.measurement.failure.kind == "crash"
    assert "SIGSEGV" in bad.measurement.failure.message
    assert good.measurement.verified


@pytest.mark.parametrize("name", BESIDE)
def test_a_program_that_writes_beside_memory_of_its_own_is_caught(instrument: Instrument, name: str) -> None:
    mod, kind = BESIDE[name]
    bad, good = instrument.measure([mod, rows_of_threads(beside=False)], best_secs=None)
    assert bad.measurement.failure is not None and bad.measurement.failure.kind == kind
    assert ("SIGSEGV" if kind == "crash" else "beside memory of its own") in bad.measurement.failure.message
    assert good.measurement.verified and good.measurement.counts


def test_what_fails_on_an_input_set_is_not_the_best_and_not_handed_out() -> None:
    workload, func = WRONG["a maximum that is not initialised"]
    with measuring(workload, target(), num_threads=2, repeats=3) as instrument:
        bad, good = instrument.measure([module(func), workload.mod], best_secs=None)
        assert bad.measurement.failure is not None and bad.measurement.failure.kind == "wrong_result"
        assert bad.artifact is None
        assert good.measurement.counts and not good.measurement.cut
        # One that never was the best is checked before it is handed out.
        (slower,) = instrument.measure([module(func)], best_secs=1e-9 + good.measurement.latency_secs / 100)
        assert slower.measurement.cut or slower.measurement.failure is not None


@pytest.mark.parametrize("name", CATALOGUE)
def test_schedules_of_every_kernel_pass_all_input_sets(judged: dict[str, list[str]], name: str) -> None:
    said = [outcome for each, outcomes in judged.items() if each.startswith(f"{name} ") for outcome in outcomes]
    assert len(said) == SCHEDULES and set(said) == {"passed"}


def test_a_finalist_that_never_was_the_best_is_checked_before_the_end(instrument: Instrument) -> None:
    workload, func = WRONG["a maximum that is not initialised"]
    with measuring(workload, target(), num_threads=2, repeats=3) as other:
        executor = other._executor
        built = [each.kernel for each in other._build([module(func), workload.mod])]
        libraries = [executor.save(each) for each in built if each is not None]
        bad, good = other.confirm(libraries, rounds=3)
    assert bad.failure is not None and bad.failure.kind == "wrong_result"
    assert good.ok and good.verified


@pytest.mark.parametrize("at_once_secs", [1.0, -1.0])
def test_the_best_of_a_batch_is_checked_also_where_that_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch, at_once_secs: float
) -> None:
    """Of three programs the second, the fastest, turns out wrong."""
    monkeypatch.setattr(instrument_module, "_CHECKED_AT_ONCE_SECS", at_once_secs)
    checked: list[int] = []
    told: list[tuple[int, bool]] = []
    with measuring(GEMM, target(), num_threads=2, repeats=3) as instrument:
        race, kernels = instrument._bench.race, []

        def in_these_times(given: list[Kernel], **kwargs: Any) -> Iterator[Ran]:
            kernels.extend(given)
            for secs, ran in zip((3.0, 1.0, 2.0), race(given, **kwargs), strict=True):
                yield replace(ran, measurement=replace(ran.measurement, latencies_secs=(secs,), cut=False))

        def check(kernel: Kernel, untuned: Any) -> Failure | None:
            checked.append(kernels.index(kernel))
            return Failure("wrong_result", "planted") if checked[-1] == 1 else None

        monkeypatch.setattr(instrument._bench, "race", in_these_times)
        monkeypatch.setattr(instrument._bench, "check_secs", lambda secs: 0.5)
        monkeypatch.setattr(instrument._bench, "check", check)
        results = instrument.measure(
            [scheduled(GEMM, tile=tile) for tile in (8, 16, 32)],
            best_secs=None,
            on_result=lambda index, result: told.append((index, result.measurement.ok)),
        )
    assert [result.measurement.ok for result in results] == [True, False, True]
    assert told == [(0, True), (1, False), (2, True)]
    # Where it waits, the first, which was the best for a while, need not be checked.
    assert checked == ([0, 1, 2] if at_once_secs > 0 else [1, 2])


def test_an_input_set_on_which_the_untuned_program_fails_says_nothing() -> None:
    """A reference that clips what is large, which the kernel does not: no program could be right there."""

    def clipping(inputs: list[np.ndarray]) -> list[np.ndarray]:
        a, b = inputs
        return [np.minimum(a, 10).astype("float64") @ b]

    with measuring(Gemm(reference=clipping), target(), num_threads=2, repeats=3) as instrument:
        (measured,) = instrument.measure([scheduled(GEMM)], best_secs=None)
        assert measured.measurement.counts and measured.artifact is not None
        noise = instrument.noise(measured.artifact)
    assert noise is not None and noise.left_out == ("large",)


def test_without_a_reference_the_untuned_program_answers_for_the_input_sets_too() -> None:
    workload, func = WRONG["a maximum that is not initialised"]

    class WithoutReference(type(workload)):  # type: ignore[misc]
        pass

    bare = WithoutReference(reference=None)
    with measuring(bare, target(), num_threads=2, repeats=3) as instrument:
        bad, good = instrument.measure([module(func), bare.mod], best_secs=None)
    assert bad.measurement.failure is not None and bad.measurement.failure.kind == "wrong_result"
    assert good.measurement.counts


def test_a_program_against_itself_is_no_difference(instrument: Instrument) -> None:
    (measured,) = instrument.measure([slow_gemm(20)], best_secs=None)
    assert measured.artifact is not None
    noise = instrument.noise(measured.artifact)
    assert noise is not None and noise.same.num_pairs >= 8
    # The machine may be anything but quiet: then the interval says so.
    assert noise.same.verdict == "no difference" or abs(noise.same.ratio - 1) < 0.02
    assert 0 < noise.spread < 0.5


def test_caches_are_cold_after_an_eviction() -> None:
    code = (
        "import time, statistics, numpy as np\n"
        "from reasoning_compiler.machine import import_tvm; import_tvm()\n"
        "from reasoning_compiler.measure.timing.eviction import Eviction\n"
        "from reasoning_compiler.measure.executors.local import bytes_to_flush\n"
        "eviction, data, out = Eviction(bytes_to_flush()), np.ones(1 << 18, 'float32'), np.empty(1 << 18, 'float32')\n"
        "def secs(cold):\n"
        "    np.add(data, data, out=out)\n"
        "    if cold: eviction.evict()\n"
        "    started = time.perf_counter(); np.add(data, data, out=out); return time.perf_counter() - started\n"
        "print(*(statistics.median(secs(cold) for _ in range(15)) for cold in (False, True)))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TVM_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    warm, cold = map(float, done.stdout.split())
    assert cold > 1.2 * warm


def test_a_run_with_cold_caches_times_each_run_alone() -> None:
    with measuring(GEMM, target(), num_threads=2, flush_cache=True) as instrument:
        right, wrong = instrument.measure(
            [scheduled(GEMM), module(WRONG["one wrong element at the end"][1])], best_secs=None
        )
    assert right.measurement.counts and 3 <= len(right.measurement.latencies_secs) <= 15
    assert wrong.measurement.failure is not None


class TestRaces:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("a reduction in parallel", "loop k write the same of C"),
            ("parallel blocks that share a row", "loop i write the same of row"),
        ],
    )
    def test_iterations_that_all_write_one_place_are_seen_without_a_run(self, name: str, words: str) -> None:
        assert words in (racing_loop(module(WRONG[name][1])["main"]) or "")

    def test_a_buffer_of_one_iteration_is_no_race(self) -> None:
        for mod in (scheduled(GEMM), GEMM.mod, fused_gemm()):
            assert racing_loop(mod["main"]) is None

    @pytest.mark.parametrize("name", CATALOGUE)
    def test_schedules_of_the_space_have_none(self, name: str) -> None:
        workload = parse(f"{name}[{SMALL[name]}]")
        space = Space(workload.mod, target())
        for seed in range(6):
            assert racing_loop(space.schedule(space.sample(seed)).mod["main"]) is None


class TestFences:
    def test_a_tensor_is_what_was_asked_for(self) -> None:
        for shape, dtype in (((3, 5), "float32"), ((7,), "bfloat16"), ((), "float64"), ((1 << 20,), "int8")):
            fenced = Fenced.allocate(shape, dtype)
            assert tuple(map(int, fenced.tensor.shape)) == shape and str(fenced.tensor.dtype) == dtype
            assert fenced.is_intact

    def test_values_go_in_and_out(self) -> None:
        fenced = Fenced.allocate((3, 5), "float32")
        values = np.arange(15, dtype="float32").reshape(3, 5)
        fenced.tensor.copyfrom(values)
        fenced.allow_writing(False)
        np.testing.assert_array_equal(fenced.tensor.numpy(), values)
        fenced.allow_writing(True)
        fenced.tensor.copyfrom(-values)
        np.testing.assert_array_equal(fenced.values, -values)

    def test_what_lies_beside_it_is_nan_and_looked_after(self) -> None:
        fenced = Fenced.allocate((3, 5), "float32")
        before, behind = fenced.margins
        assert np.isnan(before[-4:].view("float32"))
        assert before.size + behind.size + 60 == 4096 and behind.size == 4
        behind[0] = 0
        assert not fenced.is_intact
        behind[0] = 255
        before[-1] = 1
        assert not fenced.is_intact

    def test_what_must_not_be_reached_ends_the_process(self) -> None:
        code = (
            "import ctypes, os, numpy as np\n"
            "from reasoning_compiler.machine import import_tvm; import_tvm()\n"
            "from reasoning_compiler.measure.workers.memory import Fenced\n"
            "fenced = Fenced.allocate((1024,), 'float32'); at = fenced.values.ctypes.data\n"
            "fenced.tensor.copyfrom(np.zeros(1024, 'float32')); fenced.allow_writing(False)\n"
            "harmless = lambda: ctypes.string_at(at, 4096)\n"
            "writes = [lambda: ctypes.memset(at, 0, 1), lambda: ctypes.memset(at + 4096, 0, 1)]\n"
            "for reach in [harmless, *writes, lambda: ctypes.string_at(at - 1, 1)]:\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        reach(); os._exit(0)\n"
            "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0", "-11", "-11", "-11"]


@pytest.mark.parametrize("workload", [parse("gemm[m=8,n=8,k=8]"), from_tvm(fused_gemm())], ids=["named", "a user's"])
def test_a_workloads_data_are_named_by_keys_and_dropped_with_it(workload: Workload, tmp_path: Path) -> None:
    with LocalExecutor(num_threads=2, scratch_dir=tmp_path) as executor:
        workloads = [Data(workload, str(target()), 0, executor) for _ in range(2)]
        told = [json.dumps([data.payload(), data.inputs(), data.sets()], default=plain) for data in workloads]
        assert told[0] == told[1] and str(tmp_path) not in told[0]
        kept = sorted(executor.store.folder.iterdir())
        workloads[0].close()
        assert kept and sorted(executor.store.folder.iterdir()) == kept
        workloads[1].close()
        assert not any(executor.store.folder.iterdir())


class TestWorkspaces:
    """In the memory that a kernel takes for itself: ours while it is verified, TVM's while it is timed."""

    @pytest.fixture
    def executor(self, tmp_path: Path) -> Iterator[LocalExecutor]:
        with LocalExecutor(num_threads=2, scratch_dir=tmp_path) as executor:
            yield executor

    @pytest.fixture
    def kernel(self, executor: LocalExecutor) -> Kernel:
        module = tvm.ir.save_json(rows_of_threads(beside=False))
        built = Builder(executor.store).build(module=module, target=str(target()), arguments=GEMM.arguments)
        return Kernel(built["code"], built["signature"])

    def test_who_allocates(self, kernel: Kernel, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        allocators: list[int] = []
        run = LoadedKernel._timed

        def noted(self: Any, *args: Any) -> float:
            loaded = ctypes.CDLL(str(executor.store.path(kernel.code)), mode=os.RTLD_NOLOAD)
            allocators.append(ctypes.c_void_p.in_dll(loaded, "__TVMBackendAllocWorkspace").value or 0)
            return run(self, *args)

        monkeypatch.setattr(LoadedKernel, "_timed", noted)
        data = Data(GEMM, str(target()), 0, executor)
        runner = Runner(executor.store, lambda *limit, **instead: None, lambda **facts: None)
        runner.prepare(key="gemm", **data.payload())
        on = {"workload": "gemm", "verify": True}
        runner.run(**on, kernel=kernel, race=Race(repeats=3))
        ours, tvms = allocators[:2]
        assert ours != tvms and len(allocators) > 4 and set(allocators[1:]) == {tvms}
        allocators.clear()
        runner.check(**on, kernel=kernel, sets=data.sets(), inputs=data.inputs())
        num_fenced = len(data.sets()) + len(FILLS)
        assert allocators[:num_fenced] == [ours] * num_fenced
        assert len(allocators) > num_fenced and set(allocators[num_fenced:]) == {tvms}
        allocators.clear()
        runner.compare(**on | {"verify": [True]}, kernels=[kernel], rounds=1, budget_secs=1.0, min_timing_secs=0.0)
        assert set(allocators) == {tvms}
        data.close()

    def test_where_none_can_be_compiled_they_are_tvms(
        self, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        assert compile_workspaces(tmp_path) is None
        workspaces = Workspaces(None)
        with workspaces.fenced(tmp_path / kernel.code) as takes_any:
            workspaces.look()
        assert not takes_any

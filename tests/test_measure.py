"""Measuring real TVM modules, with faults planted in some of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_info

pytest.importorskip("tvm")

from faulty_candidates import FAULTS, measure
from measure_kernels import (
    Gemm,
    N,
    calling,
    gemm_without_last,
    greedy_gemm,
    nan_gemm,
    scheduled,
    slow_gemm,
    sometimes_wrong_gemm,
    target,
    tvm,
)
from own_executor import measuring
from reasoning_compiler.codegen.packing import split_packing
from reasoning_compiler.codegen.signature import KernelArgument, read_signature, signature_path
from reasoning_compiler.core.errors import NothingMeasuredError, ReasoningCompilerError
from reasoning_compiler.core.processes.pool import Pool, Preparation
from reasoning_compiler.core.processes.worker import Request
from reasoning_compiler.machine import num_physical_cores
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument, Measured
from reasoning_compiler.measure.workers.scratch import Scratch
from reasoning_compiler.measure.workers.weights import PackedWeights
from reasoning_compiler.measure.workers.worker import WorkerOptions

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def instrument() -> Iterator[Instrument]:
    with measuring(
        Gemm(), target(), num_threads=2, timeout_secs=6, repeats=3, memory_limit_bytes=2 << 30
    ) as instrument:
        yield instrument


def one(instrument: Instrument, mod: object, *, best_secs: float | None = None) -> Measured:
    (measured,) = instrument.measure([mod], best_secs=best_secs)
    return measured


class TestPacking:
    def test_the_weight_arrives_packed_and_its_packing_is_a_function(self) -> None:
        packed = split_packing(scheduled(Gemm(), tile=16))
        assert list(packed.packers) == [1]
        assert [list(map(int, p.shape)) for p in packed.kernel["main"].params] == [[N, N], [N // 16, N, 16], [N, N]]
        assert {str(name.name_hint) for name in packed.library.functions} == {"main", "pack_B"}
        weight, target_ = (tvm.runtime.empty(shape, "float32") for shape in ((N, N), (N // 16, N, 16)))
        values = np.arange(N * N, dtype="float32").reshape(N, N)
        weight.copyfrom(values)
        tvm.compile(packed.library, target=target())["pack_B"](weight, target_)
        np.testing.assert_array_equal(target_.numpy(), values.reshape(N, N // 16, 16).transpose(1, 0, 2))

    def test_an_untuned_kernel_has_nothing_to_pack(self) -> None:
        mod = Gemm().mod
        packed = split_packing(mod)
        assert packed.kernel.same_as(mod) and not packed.packers

    def test_a_weight_that_is_read_elsewhere_too_stays_where_it_is(self) -> None:
        n = N
        te = tvm.te
        a, b = te.placeholder((n, n), name="A"), te.placeholder((n, n), name="B")
        k = te.reduce_axis((0, n), name="k")
        product = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="P")
        total = te.compute((n, n), lambda i, j: product[i, j] + b[i, j], name="C")
        func = te.create_prim_func([a, b, total]).with_attr("layout_free_buffers", [1])
        schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}))
        block = schedule.get_sblock("P")
        packing = schedule.cache_read(block, 1, "global", consumer_blocks=[block])
        schedule.annotate(packing, "meta_schedule.layout_rewrite_preproc", True)
        schedule.transform_layout(packing, ("write", 0), lambda i, j: (j // 16, i, j % 16))
        assert not split_packing(schedule.mod).packers
        workload = Gemm(reference=lambda inputs: [inputs[0] @ inputs[1] + inputs[1]])
        with measuring(workload, target(), num_threads=1) as instrument:
            measured = one(instrument, schedule.mod)
        assert measured.measurement.verified
        assert measured.artifact is not None


class TestPackedWeights:
    """Of a weight of 64 bytes."""

    @staticmethod
    def weights(max_bytes: int = 1 << 20) -> tuple[list[str], Callable[..., Any]]:
        """Returns the layouts that were packed, and a function that asks for one, filled with its number."""
        kept = PackedWeights(tvm.runtime.cpu(), max_bytes=max_bytes)
        packed: list[str] = []

        def get(layout: str, shape: tuple[int, ...] = (4, 4), **options: bool) -> np.ndarray:
            def pack(tensor: Any) -> None:
                packed.append(layout)
                np.from_dlpack(tensor)[...] = int(layout or 0)

            argument = KernelArgument("B", (4, 4), "float32", "weight", "pack_B", shape, "float32", layout)
            return np.from_dlpack(kept.get(1, argument, pack, **options))

        return packed, get

    def test_a_layout_is_packed_once_while_it_is_one_of_the_last_four(self) -> None:
        packed, get = self.weights()
        for layout in "1213145261":
            assert (get(layout) == int(layout)).all()
        assert "".join(packed) == "12345261"

    def test_memory_is_used_again_where_it_fits(self) -> None:
        _, get = self.weights(max_bytes=64)
        places = [get(layout, shape).ctypes.data for layout, shape in (("1", (4, 4)), ("2", (2, 8)), ("3", (5, 4)))]
        assert places[0] == places[1]
        assert get("3", (5, 4)).shape == (5, 4)

    def test_no_more_memory_is_taken_than_there_is(self) -> None:
        packed, get = self.weights(max_bytes=2 * 64)
        for layout in "12312":
            get(layout)
        assert "".join(packed) == "12312"

    def test_what_others_still_read_is_left_alone(self) -> None:
        _, get = self.weights(max_bytes=64)
        first, second, again = get("1", alone=False), get("2", alone=False), get("1", alone=False)
        assert (first == 1).all() and (second == 2).all() and (again == 1).all()
        mine = get("3")
        assert (get("4", alone=False) == 4).all() and (mine == 3).all()
        assert get("3", alone=False).ctypes.data == mine.ctypes.data

    def test_a_layout_that_is_not_known_is_packed_each_time(self) -> None:
        packed, get = self.weights()
        get("")
        get("")
        assert packed == ["", ""]

    def test_layouts_have_names(self) -> None:
        one, two, other = (split_packing(scheduled(Gemm(), tile=tile)) for tile in (16, 16, 8))
        assert one.layout(1) == two.layout(1) != other.layout(1)
        assert len(one.layout(1)) == 16 and one.layout(0) == ""


class TestMeasuring:
    def test_a_right_program_is_timed_verified_and_kept(self, instrument: Instrument) -> None:
        measured = one(instrument, scheduled(Gemm()))
        measurement = measured.measurement
        assert measurement.ok and measurement.verified and not measurement.cut
        assert 3 <= len(measurement.latencies_secs) <= 15
        assert 0 < measurement.latency_secs < 0.1
        assert measurement.build_secs > 0 and measurement.run_secs > 0
        assert measured.artifact is not None and measured.artifact.is_file()
        signature = read_signature(measured.artifact)
        assert [(a.name, a.role, a.packer) for a in signature.arguments] == [
            ("A", "input", None),
            ("B", "weight", "pack_B"),
            ("C", "output", None),
        ]
        assert signature.arguments[1].packed_shape == (N // 16, N, 16)

    @pytest.mark.parametrize(
        ("mod", "kind", "words"),
        [
            pytest.param(gemm_without_last(columns=1), "wrong_result", "never written", id="edge not written"),
            pytest.param(gemm_without_last(steps=1), "wrong_result", "values differ", id="sums one step short"),
            pytest.param(sometimes_wrong_gemm(), "wrong_result", "values differ", id="wrong from the second run on"),
            pytest.param(nan_gemm(), "nonfinite", "NaN", id="NaN"),
            pytest.param(calling("abort"), "crash", "SIGABRT", id="abort"),
            pytest.param(calling("memset", 0, 1, 99, ret="void"), "crash", "SIGSEGV", id="segmentation fault"),
            pytest.param(calling("_exit", 0), "crash", "exit code 0", id="exit as if all were well"),
            pytest.param(calling("no_such_function"), "crash", "no_such_function", id="unknown symbol"),
            pytest.param(greedy_gemm(3 << 30), "crash", "bad_alloc", id="too much memory"),
            pytest.param(calling("pause"), "timeout", "no answer within 6 s", id="hang"),
        ],
    )
    def test_a_planted_fault_costs_one_program(
        self, instrument: Instrument, mod: object, kind: str, words: str
    ) -> None:
        bad, good = instrument.measure([mod, scheduled(Gemm())], best_secs=None)
        assert bad.measurement.failure is not None
        assert (bad.measurement.failure.kind, words in bad.measurement.failure.message) == (kind, True)
        assert bad.artifact is None
        assert good.measurement.verified

    def test_a_program_that_does_not_compile_is_a_failed_build(self, instrument: Instrument) -> None:
        schedule = tvm.s_tir.Schedule(Gemm().mod)
        loop = schedule.get_loops(schedule.get_sblock("C"))[0]
        schedule.bind(loop, "threadIdx.x")
        bad, good = instrument.measure([schedule.mod, scheduled(Gemm())], best_secs=None)
        assert bad.measurement.failure is not None and bad.measurement.failure.kind == "build"
        assert good.measurement.verified

    def test_a_flood_of_output_harms_nobody(self, instrument: Instrument) -> None:
        flood = calling("puts", "x" * 1000, times=20_000)
        assert one(instrument, flood).measurement.verified

    def test_a_process_that_a_program_has_filled_with_descriptors_is_replaced(self, instrument: Instrument) -> None:
        leaking = calling("dup", 1, times=100)
        one(instrument, scheduled(Gemm()))
        (before,) = psutil.Process(instrument._executor.pids[0]).children()
        assert one(instrument, leaking).measurement.ok
        assert is_gone_soon(before.pid)
        assert one(instrument, scheduled(Gemm())).measurement.verified

    def test_who_takes_many_times_as_long_as_the_best_is_not_waited_for(self, instrument: Instrument) -> None:
        lost = one(instrument, calling("pause"), best_secs=1e-4)
        assert lost.measurement.latencies_secs == (0.1,) and lost.measurement.cut and lost.artifact is None
        assert lost.measurement.censored and not lost.measurement.verified

    def test_a_loser_is_cut_and_not_kept(self, instrument: Instrument) -> None:
        results = instrument.measure([scheduled(Gemm()), slow_gemm(20)], best_secs=None)
        winner, loser = (result.measurement for result in results)
        assert loser.ok and loser.cut and loser.verified
        assert not winner.cut and loser.latency_secs > 1.5 * winner.latency_secs
        assert results[1].artifact is None

    def test_results_come_in_order_and_at_once(self, instrument: Instrument) -> None:
        seen: list[tuple[int, Measured]] = []
        modules = [scheduled(Gemm()), calling("abort"), scheduled(Gemm(), tile=8)]
        instrument._clock.take()
        results = instrument.measure(modules, best_secs=None, on_result=lambda i, m: seen.append((i, m)))
        assert seen == list(enumerate(results))
        stage_secs = instrument._clock.take()
        assert all(stage_secs[stage] > 0 for stage in ("build", "run", "verify"))

    def test_a_runner_killed_from_outside_costs_one_program(self, instrument: Instrument, tmp_path: Path) -> None:
        one(instrument, scheduled(Gemm()))
        pid, runs = instrument._executor.pids[0], tmp_path / "runs"

        def kill_it_while_it_runs() -> None:
            while not runs.exists():
                time.sleep(0.01)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_it_while_it_runs, daemon=True)
        killer.start()
        stuck = calling("system", f"touch {runs}; sleep 60")
        bad, good = instrument.measure([stuck, scheduled(Gemm())], best_secs=None)
        killer.join(timeout=10)
        assert bad.measurement.failure is not None
        assert (bad.measurement.failure.kind, bad.measurement.failure.message) == ("crash", "killed by SIGKILL")
        assert good.measurement.verified

    def test_workers_killed_while_idle_cost_nothing(self, instrument: Instrument) -> None:
        for pid in instrument._executor.pids:
            os.kill(pid, signal.SIGKILL)
            assert is_gone_soon(pid)
        assert one(instrument, scheduled(Gemm())).measurement.verified

    @pytest.mark.parametrize("how", ["abort", "wrong", "hang", "outside"])
    def test_after_a_death_only_a_child_is_born_again_with_its_data(self, instrument: Instrument, how: str) -> None:
        one(instrument, scheduled(Gemm()))
        (runner,) = instrument._executor.pids[:1]
        (child,) = psutil.Process(runner).children()
        if how == "outside":
            child.kill()
            assert is_gone_soon(child.pid)
        else:
            fatal = {"abort": calling("abort"), "wrong": gemm_without_last(steps=1), "hang": calling("pause")}[how]
            assert one(instrument, fatal).measurement.failure is not None
        built = instrument._build([scheduled(Gemm(), tile=8)])[0].kernel
        assert built is not None
        assert instrument._bench.run(built, best_secs=None, verify=True).measurement.verified
        # No other process had to import TVM.
        assert instrument._executor.pids[0] == runner and psutil.Process(runner).children() != [child]

    def test_the_untuned_program_is_measured_too(self, instrument: Instrument) -> None:
        untuned = instrument.measure_untuned()
        assert untuned.measurement.verified and untuned.artifact is not None

    def test_a_program_against_itself_makes_no_difference(self, instrument: Instrument) -> None:
        artifact = one(instrument, slow_gemm(20)).artifact
        assert artifact is not None
        first, second = instrument.confirm([artifact, artifact], rounds=8)
        assert min(len(first.latencies_secs), len(second.latencies_secs)) >= 8
        assert first.verified and second.verified
        assert min(first.latencies_secs) < max(second.latencies_secs)
        assert min(second.latencies_secs) < max(first.latencies_secs)

    def test_libraries_that_pack_differently_keep_their_own_weights(self, instrument: Instrument) -> None:
        # Each alone: in one batch a disturbed machine may let the second lose, and a loser has no library.
        results = [one(instrument, scheduled(Gemm(), tile=tile)) for tile in (8, 16)]
        artifacts = [result.artifact for result in results if result.artifact]
        timed = instrument.confirm(artifacts, rounds=4)
        # One that failed here would have been timed again alone, with fewer repeats.
        assert len(timed) == 2 and all(each.verified and len(each.latencies_secs) >= 4 for each in timed)

    def test_one_that_fails_in_a_comparison_is_left_out_and_the_others_are_timed_in_turns_again(
        self, instrument: Instrument, tmp_path: Path
    ) -> None:
        measured = [one(instrument, scheduled(Gemm(), tile=tile)) for tile in (8, 16)]
        assert all(each.measurement.ok for each in measured), measured
        goods = [each.artifact for each in measured]
        broken = tmp_path / "kernel.so"
        broken.write_bytes(b"no library")
        signature_path(broken).write_text(signature_path(goods[0]).read_text())
        instrument._checked.add(broken)  # it fails only now
        first, second, third = instrument.confirm([goods[0], broken, goods[1]], rounds=20)
        assert second.failure is not None and second.failure.kind == "crash"
        # Alone, each would be timed 15 times at most.
        assert all(each.verified and len(each.latencies_secs) >= 20 for each in (first, third)), (first, third)

    def test_a_library_that_is_missing_fails_alone(self, instrument: Instrument) -> None:
        good = one(instrument, scheduled(Gemm())).artifact
        assert good is not None
        missing, other = instrument.confirm([good.with_name("missing.so"), good])
        assert not missing.ok and other.verified


def test_sixty_candidates_with_faults_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    outcome = measure(60, FAULTS[:6], scratch=tmp_path)
    assert outcome.is_clean, outcome
    assert outcome.planted == {"none": 54} | {fault.name: 1 for fault in FAULTS[:6]}
    assert outcome.num_replaced >= 2  # some in one batch, of which only the last is seen
    assert outcome.growth_bytes < 20 << 20


class TestWithoutReference:
    def test_the_kernel_itself_is_the_reference(self) -> None:
        with measuring(Gemm(reference=None), target(), num_threads=1) as instrument:
            right, wrong = instrument.measure([scheduled(Gemm()), gemm_without_last(steps=1)], best_secs=None)
        assert right.measurement.verified
        assert wrong.measurement.failure is not None and wrong.measurement.failure.kind == "wrong_result"

    def test_where_it_dies_that_is_said_and_nothing_is_measured(self) -> None:
        class Broken(Gemm):
            mod = calling("abort")

        with measuring(Broken(reference=None), target(), num_threads=1) as instrument:
            assert instrument.measure_untuned().measurement.failure is not None
            with pytest.raises(NothingMeasuredError, match=r"as it was written fails \(crash: killed by SIGABRT"):
                one(instrument, scheduled(Gemm()))


class TestWorkers:
    @pytest.mark.parametrize("num_threads", [1, 3])
    def test_threads_are_as_many_as_asked_for(self, num_threads: int) -> None:
        limits: list[int] = []

        def matmul(inputs: list[np.ndarray]) -> list[np.ndarray]:
            limits.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
            return [inputs[0] @ inputs[1]]

        with measuring(Gemm(reference=matmul), target(), num_threads=num_threads) as instrument:
            one(instrument, scheduled(Gemm()))
            runner, *builders = map(psutil.Process, instrument._executor.pids)
            (child,) = runner.children()
            threads = [each.num_threads() for each in (runner, child, *builders)]
        assert limits and max(limits) <= num_threads
        assert threads == [1, num_threads, *[1] * min(num_threads, num_physical_cores())]

    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        fds_before = len(os.listdir("/proc/self/fd"))
        executor = LocalExecutor(num_threads=1, scratch_dir=tmp_path)
        instrument = Instrument(Gemm(), target(), executor)
        leaves_a_child = calling("system", "sleep 100 & kill -9 $PPID")
        groups = executor.pids
        instrument.measure([scheduled(Gemm()), leaves_a_child, calling("abort")], best_secs=None)
        groups += executor.pids
        assert list(tmp_path.iterdir())
        for each in (instrument, executor, instrument, executor):
            each.close()
        assert not list(tmp_path.iterdir())
        time.sleep(0.2)
        assert not [process for process in psutil.process_iter() if is_alive_in(groups, process)]
        assert len(os.listdir("/proc/self/fd")) == fds_before

    def test_workers_die_with_us_however_busy_they_are(self, tmp_path: Path) -> None:
        code = (
            "import sys, time; from measure_kernels import *\n"
            "from reasoning_compiler.measure.executors.local import LocalExecutor\n"
            "from reasoning_compiler.measure.instrument import Instrument\n"
            f"executor = LocalExecutor(num_threads=1, scratch_dir={str(tmp_path)!r})\n"
            "instrument = Instrument(Gemm(), target(), executor)\n"
            "instrument.measure([scheduled(Gemm())], best_secs=None)\n"
            "print(*executor.pids, flush=True)\n"
            "instrument.measure([calling('pause')], best_secs=None)\n"
        )
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        parent = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.5)
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        pids += [child.pid for child in psutil.Process(pids[0]).children()]
        assert len(pids) == 3
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert all(is_gone_soon(pid) for pid in pids)
        Scratch(tmp_path).close()
        assert not list(tmp_path.iterdir())

    def test_no_worker_can_take_all_memory(self) -> None:
        with measuring(Gemm(), target(), num_threads=1) as instrument:
            one(instrument, scheduled(Gemm()))
            processes = [psutil.Process(pid) for pid in instrument._executor.pids]
            processes += processes[0].children()
            limits = [process.rlimit(psutil.RLIMIT_DATA)[0] for process in processes]
        assert all(0 < limit < psutil.virtual_memory().total for limit in limits)

    def test_ctrl_c_reaches_only_us(self) -> None:
        with measuring(Gemm(), target(), num_threads=1) as instrument:
            assert all(os.getsid(pid) == pid for pid in instrument._executor.pids)

    def test_a_question_that_nobody_waits_for_is_given_up(self) -> None:
        job = (Gemm().mod, str(target()))
        with LocalExecutor(num_threads=1, num_build_workers=2) as executor:
            executor.builders.wait_until_ready()  # else one alone may have built all
            executor.build([job, job])
            pool, stopped = executor.builders, executor.pids[1]
            os.kill(stopped, signal.SIGSTOP)
            answers = pool.map([Request("build", {}, 60.0)] * 2)
            next(answers)
            answers.close()
            assert is_gone_soon(stopped)
            started = time.monotonic()
            assert all(built.failure is None for built in executor.build([job, job, job]))
            assert time.monotonic() - started < 30

    def test_a_builder_that_hangs_or_dies_fails_one_build(self) -> None:
        job = (Gemm().mod, str(target()))
        with LocalExecutor(num_threads=1, num_build_workers=1, build_timeout_secs=15.0) as executor:
            assert executor.build([job])[0].failure is None
            (pid,) = executor.pids
            os.kill(pid, signal.SIGSTOP)
            (hung,) = executor.build([job])
            assert hung.failure is not None and hung.failure.kind == "timeout"
            executor.builders.wait_until_ready()
            (pid,) = executor.pids
            os.kill(pid, signal.SIGSTOP)
            killer = threading.Timer(0.3, lambda: os.kill(pid, signal.SIGKILL))
            killer.start()
            (died,) = executor.build([job])
            killer.join()
            assert died.failure is not None and died.failure.kind == "build"
            assert "the compiler died: killed by SIGKILL" in died.failure.message
            assert executor.build([job])[0].failure is None

    def test_workers_that_never_start_are_an_error_not_a_loop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        pool = Pool(1, WorkerOptions("builder", str(tmp_path)).entry)
        with pytest.raises(ReasoningCompilerError, match="reasonc doctor"):
            pool.wait_until_ready()
        pool.close()

    def test_a_preparation_that_always_fails_is_an_error_and_one_that_was_killed_is_not(self, tmp_path: Path) -> None:
        pool = Pool(1, WorkerOptions("runner", str(tmp_path)).entry)
        payload = {"arguments": [], "target": str(target()), "inputs": [], "expected": None}

        def needs(key: str, **changes: str) -> Preparation:
            return Preparation(key, Request("prepare", payload | {"key": key} | changes, 60.0))

        killer = threading.Timer(0.2, lambda: os.kill(pool.pids[0], signal.SIGKILL))
        killer.start()
        pool.wait_until_ready(needs("right"))
        killer.join()
        pool.wait_until_ready(needs("right"))
        with pytest.raises(ReasoningCompilerError, match=r"failed preparing its data .*missing"):
            pool.wait_until_ready(needs("wrong", target='{"kind": "missing"}'))
        pool.close()

    def test_two_workloads_are_measured_in_turn_and_both_stay_prepared(self) -> None:
        small, large = Gemm(), Gemm(size=2 * N)
        with LocalExecutor(num_threads=1) as executor:
            first, second = (Instrument(each, target(), executor, repeats=3) for each in (small, large))
            for _ in range(2):
                for instrument, workload in ((first, small), (second, large)):
                    measured = one(instrument, scheduled(workload))
                    assert measured.measurement.verified, measured.measurement.failure
                    wrong = one(instrument, gemm_without_last(steps=1)) if workload is small else None
                    assert wrong is None or wrong.measurement.failure is not None
            (runner,) = executor.runners._workers
            assert len(runner.prepared) == 2
            first.close()
            assert one(second, scheduled(large)).measurement.verified
            second.close()


class TestMetaSchedule:
    def test_tune_tir_measures_with_our_builder_and_runner(self, tmp_path: Path) -> None:
        from tvm.s_tir import meta_schedule as ms

        from reasoning_compiler.measure.executors.metaschedule import ReasoningBuilder, ReasoningRunner

        builder = ReasoningBuilder(num_workers=1, scratch_dir=tmp_path)
        runner = ReasoningRunner(num_threads=2, workload=Gemm(), target=target(), scratch_dir=tmp_path)
        database = ms.tune_tir(
            Gemm().mod,
            target(),
            work_dir=str(tmp_path / "work"),
            max_trials_global=8,
            num_trials_per_iter=4,
            builder=builder,
            runner=runner,
            num_tuning_cores=1,
            seed=1,
        )
        records = database.get_all_tuning_records()
        assert len(records) == 8
        latencies = [float(secs) for record in records for secs in record.run_secs]
        assert all(0 < secs < 0.1 for secs in latencies)
        builder.close()
        runner.close()
        assert not list(tmp_path.glob("reasonc-*"))

    def test_a_wrong_candidate_is_an_error(self, tmp_path: Path) -> None:
        from tvm.s_tir.meta_schedule.arg_info import ArgInfo
        from tvm.s_tir.meta_schedule.builder import BuilderInput
        from tvm.s_tir.meta_schedule.runner import RunnerInput

        from reasoning_compiler.measure.executors.metaschedule import ReasoningBuilder, ReasoningRunner

        builder = ReasoningBuilder(num_workers=1, scratch_dir=tmp_path)
        runner = ReasoningRunner(num_threads=1, workload=Gemm(), target=target(), scratch_dir=tmp_path)
        modules = [scheduled(Gemm()), gemm_without_last(steps=1), calling("abort")]
        built = builder.build([BuilderInput(mod, target()) for mod in modules])
        inputs = [
            RunnerInput(result.artifact_path, "llvm", ArgInfo.from_prim_func(mod["main"]))
            for result, mod in zip(built, modules, strict=True)
        ]
        right, wrong, crash = (future.result() for future in runner.run(inputs))
        assert right.error_msg is None and len(right.run_secs) > 0
        assert wrong.run_secs is None and "wrong_result" in wrong.error_msg
        assert crash.run_secs is None and "SIGABRT" in crash.error_msg
        builder.close()
        runner.close()


def is_alive_in(groups: list[int], process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def is_gone_soon(pid: int) -> bool:
    for _ in range(50):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True  # dead; who reaps it is the system's affair
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False

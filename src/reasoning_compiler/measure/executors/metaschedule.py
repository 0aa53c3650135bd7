"""This room's builder and runner for TVM's own tuner, so that whatever it finds is measured the same way.

builder = ReasoningBuilder()
runner = ReasoningRunner(num_threads=8, workload=workload, target=target)
ms.tune_tir(mod, target, work_dir=..., max_trials_global=64, builder=builder, runner=runner)
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerFuture, RunnerInput, RunnerResult

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.measure.bench import Bench
from reasoning_compiler.measure.executors.artifacts import read_artifact, write_artifact
from reasoning_compiler.measure.executors.local import BUILD_TIMEOUT_SECS, LocalExecutor
from reasoning_compiler.measure.executors.protocol import Kernel
from reasoning_compiler.measure.timing.racing import Race, fastest_right


@derived_object
class ReasoningBuilder(PyBuilder):
    """Builds MetaSchedule's candidates in processes that last from batch to batch.

    Args:
        num_workers: processes that build; None for one per physical core.
        timeout_secs: the longest that a build may take.
        scratch_dir: where libraries go; None for the system's temporary folder.
    """

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        timeout_secs: float = BUILD_TIMEOUT_SECS,
        scratch_dir: Path | None = None,
    ) -> None:
        super().__init__()
        self._executor = LocalExecutor(
            num_threads=1,
            num_build_workers=num_workers or num_physical_cores(),
            build_timeout_secs=timeout_secs,
            scratch_dir=scratch_dir,
        )
        weakref.finalize(self, self._executor.close)

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Returns the libraries, or the error messages, of MetaSchedule's candidates."""
        modules = [(each.mod, str(each.target)) for each in build_inputs]
        results = []
        for built in self._executor.build(modules):
            if built.kernel is not None:
                library = write_artifact(self._executor, built.kernel, self._executor.new_folder())
                self._executor.drop(built.kernel.code)
                results.append(BuilderResult(str(library), None))
            else:
                assert built.failure is not None
                results.append(BuilderResult(None, f"{built.failure.kind}: {built.failure.message}"))
        return results

    def close(self) -> None:
        """Ends the processes and removes the libraries. May be called again."""
        self._executor.close()


@derived_object
class ReasoningRunner(PyRunner):
    """Runs MetaSchedule's candidates in a process that lasts from batch to batch and may die.

    With a workload, every candidate is raced against the best so far and verified. Without one, inputs are
    random, nothing is verified, and each is timed to the end, since one runner may then serve many tasks.

    Args:
        num_threads: threads that a candidate may use; None for one per physical core.
        workload: what all candidates compute; None where it is not known.
        target: the TVM target; needed with `workload`.
        seed: of the workload's inputs.
        timeout_secs: the longest that a candidate may take, all its runs together.
        repeats: timings of a candidate that may win.
        budget_secs: time for the timings of one candidate, roughly.
        scratch_dir: where the workload's data go; None for the system's temporary folder.
        flush_cache: whether each timing begins with cold caches.
    """

    def __init__(
        self,
        *,
        num_threads: int | None = None,
        workload: Any = None,
        target: Any = None,
        seed: int = 0,
        timeout_secs: float = 30.0,
        repeats: int = 5,
        budget_secs: float = 1.0,
        scratch_dir: Path | None = None,
        flush_cache: bool = False,
    ) -> None:
        super().__init__()
        if workload is not None and target is None:
            raise UsageError("`target` is missing: with a `workload`, the runner must know on which device it runs")
        self._races = workload is not None
        self._best_secs: float | None = None
        self._executor = LocalExecutor(
            num_threads=num_threads or num_physical_cores(), scratch_dir=scratch_dir, flush_cache=flush_cache
        )
        self._bench = Bench(
            self._executor,
            race=Race(repeats=repeats, budget_secs=budget_secs),
            timeout_secs=timeout_secs,
            workload=workload,
            target=str(target),
            seed=seed,
        )
        weakref.finalize(self, _close, self._bench, self._executor)

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Returns the latencies, or the error messages, of MetaSchedule's candidates, all of them done."""
        kernels = [read_artifact(self._executor, Path(str(each.artifact_path))) for each in runner_inputs]
        best_secs = self._best_secs
        measured: list[Measurement] = []
        for kernel in kernels:
            ran = self._bench.run(
                kernel, best_secs=best_secs if self._races else None, verify=self._bench.has_reference
            )
            measured.append(ran.measurement)
            if ran.measurement.is_faster_than(best_secs):
                best_secs = ran.measurement.latency_secs
        self._check_fastest(kernels, measured)
        for kernel in kernels:
            self._executor.drop(kernel.code)
        return [_Done(each) for each in measured]

    def close(self) -> None:
        """Ends the process and removes its data. May be called again."""
        _close(self._bench, self._executor)

    def _check_fastest(self, kernels: list[Kernel], measured: list[Measurement]) -> None:
        """Checks what is faster than all before, the fastest first, until one is right; what is wrong has failed."""

        def is_right(index: int) -> bool:
            failure, _ = self._bench.check(kernels[index])
            if failure is not None:
                measured[index] = Measurement(failure=failure)
            return failure is None

        best = fastest_right(tuple(measured), self._best_secs, is_right)
        if best is not None:
            self._best_secs = measured[best].latency_secs


@derived_object
class _Done(PyRunnerFuture):
    """A result that is already there."""

    def __init__(self, measurement: Measurement) -> None:
        super().__init__()
        failure = measurement.failure
        if failure is None:
            self._result = RunnerResult(list(measurement.latencies_secs), None)
        else:
            self._result = RunnerResult(None, f"{failure.kind}: {failure.message}")

    def done(self) -> bool:
        return True

    def result(self) -> RunnerResult:
        return self._result


def _close(bench: Bench, executor: LocalExecutor) -> None:
    bench.close()
    executor.close()

"""The builder and the runner of this room for TVM's own tuner, so that whatever it finds is measured the same way.

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

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.measure.executors.kernels import Built
from reasoning_compiler.measure.executors.local import BUILD_TIMEOUT_SECS, LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.workload.workload import Workload


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
                library = self._executor.save(built.kernel)
                self._executor.store.drop(built.kernel.code)
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
    """Runs MetaSchedule's candidates as ours: raced against the best so far, in a process that may die, and verified.

    Args:
        workload: what all candidates compute.
        target: the TVM target.
        num_threads: threads that a candidate may use; None for one per physical core.
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
        workload: Workload,
        target: Any,
        num_threads: int | None = None,
        seed: int = 0,
        timeout_secs: float = 30.0,
        repeats: int = 5,
        budget_secs: float = 1.0,
        scratch_dir: Path | None = None,
        flush_cache: bool = False,
    ) -> None:
        super().__init__()
        self._best_secs: float | None = None
        self._executor = LocalExecutor(
            num_threads=num_threads or num_physical_cores(),
            num_build_workers=1,
            flush_cache=flush_cache,
            scratch_dir=scratch_dir,
        )
        self._instrument = Instrument(
            workload,
            target,
            self._executor,
            seed=seed,
            timeout_secs=timeout_secs,
            repeats=repeats,
            budget_secs=budget_secs,
        )
        weakref.finalize(self, _close, self._instrument, self._executor)

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Returns the latencies, or the error messages, of MetaSchedule's candidates, all of them done."""
        built = [Built(self._executor.load(Path(str(each.artifact_path)))) for each in runner_inputs]
        results = self._instrument.measure_built(built, best_secs=self._best_secs)
        measured = [result.measurement for result in results]
        for measurement in measured:
            if measurement.is_faster_than(self._best_secs):
                self._best_secs = measurement.latency_secs
        return [_Done(each) for each in measured]

    def close(self) -> None:
        """Ends the process and removes its data. May be called again."""
        _close(self._instrument, self._executor)


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


def _close(instrument: Instrument, executor: LocalExecutor) -> None:
    instrument.close()
    executor.close()

"""The measuring instrument: modules of one workload in, measurements out, whatever becomes of the workers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import NothingMeasuredError, UsageError
from reasoning_compiler.core.measurements import Failure, Measurement, Noise
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.measure.bench import LONG_TIMEOUT_SECS, Bench
from reasoning_compiler.measure.executors.kernels import Built, Kernel, Ran
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.timing.comparison import compare
from reasoning_compiler.measure.timing.racing import Race, fastest_right
from reasoning_compiler.workload.workload import Workload

# The incumbent is timed again where that takes at most this part of the time since it was last done.
_TIME_AGAIN_SHARE = 0.02
_TIME_AGAIN_ROUNDS = 3
_CHECKED_AT_ONCE_SECS = 1.0
_NOISE_ROUNDS = 12
_NOISE_BUDGET_SECS = 3.0


@dataclass(frozen=True)
class Measured:
    """What the instrument says of a module.

    Args:
        measurement: its latencies or its failure.
        artifact: the library, with its signature beside it, until the instrument is closed; None where it
            failed or was cut.
    """

    measurement: Measurement
    artifact: Path | None = None


class Instrument:
    """Builds, races, verifies and times the programs of one workload on an executor. A context manager.

    All modules are built first, several at once; then they run, one program at a time on each machine, while nothing
    is built: on a small machine a build would take the cores that a timing needs. Several instruments can share an
    executor, and measure in turn. Its workers start in the background as soon as there is an instrument.

    Args:
        workload: what is measured: its module, arguments, inputs, reference and tolerance.
        target: the TVM target that programs are built for.
        executor: where they are built and run; it outlives the instrument.
        seed: of the inputs.
        timeout_secs: the longest that a program may take in the runner, all its runs together.
        repeats: timings of a program that may win.
        budget_secs: time for the timings of one program, roughly.
        clock: counts the time as the stages "build", "run" (without verification), "verify" and "wait" (for processes).

    Raises:
        DeviceError: of `RpcExecutor`, from every method, whenever all devices have been gone for a while.
    """

    def __init__(
        self,
        workload: Workload,
        target: Any,
        executor: LocalExecutor,
        *,
        seed: int = 0,
        timeout_secs: float = 30.0,
        repeats: int = 5,
        budget_secs: float = 1.0,
        clock: PhaseTimer | None = None,
    ) -> None:
        self._workload = workload
        self._target = str(target)
        self._executor = executor
        self._untuned: Measured | None = None
        self._inexact = ""
        self._checked: set[Path] = set()
        self._kernels: dict[Path, Kernel] = {}
        self._incumbent: tuple[Path, float] | None = None
        self._slower = 1.0
        self._drift: list[float] = []
        self._time_again_at = 0.0
        self._clock = clock or PhaseTimer()
        self._builders = executor.builders
        self._bench = Bench(
            executor,
            workload,
            self._target,
            race=Race(repeats=repeats, budget_secs=budget_secs),
            timeout_secs=timeout_secs,
            seed=seed,
            clock=self._clock,
        )

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of where programs run and what they are compared with, a line each."""
        inexact = (f"the program as written is inexact: {self._inexact}",) if self._inexact else ()
        return (*self._executor.notices, *self._bench.notices, *inexact)

    def require_reference(self) -> None:
        """Returns if it is known what programs must compute. Waits until the reference has run.

        Raises:
            NothingMeasuredError: the kernel as it was written cannot be run.
        """
        failure = self._bench.reference_failure
        if failure is not None:
            raise NothingMeasuredError(
                f"nothing can be verified, since the kernel as it was written fails ({failure.kind}: {failure.message})"
                "; try smaller shapes, or look whether its indices stay within its buffers"
            )

    def measure(
        self,
        modules: Sequence[Any],
        *,
        best_secs: float | None,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        """Returns what the hardware says of each module.

        Args:
            modules: scheduled and postprocessed IRModules of the workload.
            best_secs: the latency to beat; None where there is none yet. What beats it in this batch replaces
                it.
            on_result: called with (index, result) as soon as a module is done, in the order of `modules`. A new best
                that takes long to check waits for the next one, which may make that needless, or for the end.

        Raises:
            ReasoningCompilerError: the worker processes cannot start, or temporary files cannot be written.
        """
        return self.measure_built(self._build(modules), best_secs=best_secs, on_result=on_result)

    def measure_built(
        self,
        built: Sequence[Built],
        *,
        best_secs: float | None,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        """Returns what the hardware says of kernels that were built of modules; see `measure`."""
        if best_secs is not None:
            best_secs *= self._time_incumbent_again()
        self.require_reference()
        kernels = [each.kernel for each in built if each.kernel is not None]
        runs = self._bench.race(kernels, best_secs=lambda: best_secs)
        results: list[Measured] = []
        num_told, checked_secs = 0, best_secs
        for each in built:
            result = self._measured(each, partial(next, runs))
            if result.measurement.is_faster_than(best_secs):
                if self._bench.check_secs(result.measurement.latency_secs) > _CHECKED_AT_ONCE_SECS:
                    best_secs = result.measurement.latency_secs
                else:
                    result = self._checked_too(result)
                    if result.measurement.ok:
                        best_secs = checked_secs = result.measurement.latency_secs
            results.append(result)
            if len(results) == len(built) and best_secs != checked_secs:
                self._check_fastest(results, checked_secs)
                checked_secs = best_secs
            while on_result is not None and num_told < len(results) and best_secs == checked_secs:
                on_result(num_told, results[num_told])
                num_told += 1
        self._take_incumbent(results)
        return results

    def measure_untuned(self) -> Measured:
        """Returns what the hardware says of the workload as it was given; it has a timeout of its own.

        It may miss what a good order of summation achieves (`Noise.inexact`). Then it is timed all the same, and no
        measurement of it says that it is verified.
        """
        (built,) = self._build([self._workload.mod])
        self._untuned = self._measured(built, partial(self._run_untuned, built.kernel))
        if self._untuned.artifact is not None:
            self._checked.add(self._untuned.artifact)  # it is what was given; it may be too slow to be run so often
        return self._untuned

    def _run_untuned(self, kernel: Kernel) -> Ran:
        run = partial(self._bench.run, kernel, best_secs=None, timeout_secs=LONG_TIMEOUT_SECS)
        ran = run(verify=self._bench.has_reference)
        failure = ran.measurement.failure
        if failure is None or failure.kind not in ("wrong_result", "nonfinite"):
            return ran
        self._inexact = failure.message
        return run(verify=False)

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        """Returns new measurements of libraries, timed in turns, so that drift and noise hit all alike.

        Args:
            artifacts: libraries that `measure` or `measure_untuned` returned.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
        """
        self._bench.wait_until_ready()
        wrong = {artifact: self._why_wrong(artifact) for artifact in dict.fromkeys(artifacts)}
        right = [artifact for artifact in artifacts if wrong[artifact] is None]
        kernels = [self._kernel(artifact) for artifact in right]
        inexact = self._untuned.artifact if self._untuned is not None and self._inexact else None
        unverified = [] if inexact is None else [self._kernels[inexact]]
        with self._clock.stage("run"):
            timed = iter(self._bench.compare(kernels, rounds=rounds, budget_secs=budget_secs, unverified=unverified))
        return [Measurement(failure=why) if (why := wrong[artifact]) else next(timed) for artifact in artifacts]

    def noise(self, artifact: Path) -> Noise | None:
        """Returns how much timings vary here: one program timed in turns with itself, and over the time so far.

        Args:
            artifact: a library that `measure` or `measure_untuned` returned; None comes back where it fails now.
        """
        kernels = [self._kernel(artifact)] * 2
        with self._clock.stage("run"):
            pair = self._bench.compare(kernels, rounds=_NOISE_ROUNDS, budget_secs=_NOISE_BUDGET_SECS)
        if not all(measurement.ok for measurement in pair):
            return None
        first, second = (measurement.latencies_secs for measurement in pair)
        both = sorted([*first, *second])
        low, high = both[len(both) // 4], both[-1 - len(both) // 4]
        return Noise(
            same=compare(first, second),
            spread=(high - low) / 2 / both[len(both) // 2],
            drift=tuple(self._drift),
            left_out=tuple(self._bench.left_out_sets),
            inexact=self._inexact,
        )

    def close(self) -> None:
        """Forgets its programs; the executor goes on. May be called again."""
        self._bench.close()
        for kernel in self._kernels.values():
            self._executor.store.drop(kernel.code)
        self._kernels.clear()

    def _checked_too(self, result: Measured) -> Measured:
        """Returns what a program that may become the best comes to when it is verified on more than random inputs."""
        assert result.artifact is not None
        failure = self._why_wrong(result.artifact)
        if failure is None:
            return result
        self._executor.store.drop(self._kernels.pop(result.artifact).code)
        shutil.rmtree(result.artifact.parent)
        measurement = result.measurement
        return Measured(Measurement(failure=failure, build_secs=measurement.build_secs, run_secs=measurement.run_secs))

    def _check_fastest(self, results: list[Measured], best_secs: float | None) -> None:
        """Checks what is faster than the best that was checked, the fastest first, until one is right."""

        def is_right(index: int) -> bool:
            results[index] = self._checked_too(results[index])
            return results[index].measurement.ok

        fastest_right([result.measurement for result in results], best_secs, is_right)

    def _take_incumbent(self, results: Sequence[Measured]) -> None:
        """Makes the fastest of a batch the best so far, if it is that."""
        best_secs = self._incumbent[1] if self._incumbent else None
        fastest = fastest_right([result.measurement for result in results], best_secs)
        if fastest is not None:
            artifact = results[fastest].artifact
            assert artifact is not None
            self._incumbent, self._slower = (artifact, results[fastest].measurement.latency_secs), 1.0

    def _why_wrong(self, artifact: Path) -> Failure | None:
        """Returns why a library is wrong on an input set or when it is run again; None where it is right."""
        if artifact in self._checked:
            return None
        try:
            kernel = self._kernel(artifact)
        except (OSError, UsageError) as error:
            return Failure("build", str(error))
        with self._clock.stage("verify"):
            failure = self._bench.check(kernel, self._untuned_kernel)
        if failure is None:
            self._checked.add(artifact)
        return failure

    def _untuned_kernel(self) -> Kernel | None:
        untuned = self._untuned or self.measure_untuned()
        return None if untuned.artifact is None else self._kernels[untuned.artifact]

    def _time_incumbent_again(self) -> float:
        """Returns by which factor the machine is slower than when the best so far was measured, at least 1."""
        started = time.perf_counter()
        if self._incumbent is None or started < self._time_again_at:
            return self._slower
        artifact, secs = self._incumbent
        with self._clock.stage("run"):
            (again,) = self._bench.compare([self._kernel(artifact)], rounds=_TIME_AGAIN_ROUNDS, budget_secs=secs)
        self._time_again_at = started + (time.perf_counter() - started) / _TIME_AGAIN_SHARE
        if again.ok:
            self._drift.append(again.latency_secs / secs)
            self._slower = max(1.0, self._drift[-1])
        return self._slower

    def _build(self, modules: Sequence[Any]) -> list[Built]:
        with self._clock.stage("wait"):
            self._builders.wait_until_ready()
        with self._clock.stage("build"):
            return self._executor.build([(mod, self._target) for mod in modules], arguments=self._workload.arguments)

    def _measured(self, built: Built, run: Callable[[], Ran]) -> Measured:
        """Returns what running a kernel gives, or passes on why there is none."""
        if built.kernel is None:
            return Measured(Measurement(failure=built.failure, build_secs=built.build_secs))
        with self._clock.stage("run"):
            ran = run()
        measurement = replace(ran.measurement, build_secs=built.build_secs)
        if not measurement.is_full:
            self._executor.store.drop(built.kernel.code)
            return Measured(measurement)
        artifact = self._executor.save(built.kernel, linked=ran.linked)
        self._kernels[artifact] = built.kernel
        return Measured(measurement, artifact)

    def _kernel(self, artifact: Path) -> Kernel:
        """Returns a library as the executor knows it; one that was not built here is brought to it."""
        if artifact not in self._kernels:
            self._kernels[artifact] = self._executor.load(artifact)
        return self._kernels[artifact]

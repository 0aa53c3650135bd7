"""The measuring instrument: modules in, measurements out, whatever becomes of the worker processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.measure.bench import LONG_TIMEOUT_SECS, Bench, Ran
from reasoning_compiler.measure.builders import Builders, Built
from reasoning_compiler.measure.racing import Race
from reasoning_compiler.measure.scratch import Scratch
from reasoning_compiler.records import Measurement
from reasoning_compiler.workload.workload import Workload


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
    """Builds, races, verifies and times the programs of one workload. A context manager.

    Building happens in processes of its own, several at once; running in one, one program at a time, while
    nothing is built. All of them start in the background as soon as the instrument exists.

    Args:
        workload: what is measured: its module, arguments, inputs, reference and tolerance.
        target: the TVM target that programs are built for.
        num_threads: threads that a program may use.
        seed: of the inputs.
        timeout_secs: the longest that a program may take in the runner, all its runs together.
        repeats: timings of a program that may win.
        budget_secs: time for the timings of one program, roughly.
        scratch_dir: where temporary files go; None for the system's temporary folder.
        num_build_workers: processes that build; None for `num_threads`.
        memory_limit_bytes: the most memory that the runner may take for data; None for most of what is free.
    """

    def __init__(
        self,
        workload: Workload,
        target: Any,
        *,
        num_threads: int,
        seed: int = 0,
        timeout_secs: float = 30.0,
        repeats: int = 5,
        budget_secs: float = 1.0,
        scratch_dir: Path | None = None,
        num_build_workers: int | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self._workload = workload
        self._target = str(target)
        self._untuned: Measured | None = None
        self._stage_secs = dict.fromkeys(("build", "run", "verify", "wait"), 0.0)
        self._scratch = Scratch(scratch_dir)
        self._bench = Bench(
            num_threads,
            race=Race(repeats=repeats, budget_secs=budget_secs),
            timeout_secs=timeout_secs,
            memory_limit_bytes=memory_limit_bytes,
        )
        self._builders = Builders(num_build_workers or num_threads, self._scratch)
        self._bench.use(workload, self._target, seed=seed, scratch=self._scratch)

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stage_secs(self) -> dict[str, float]:
        """Wall seconds so far: "build", "run" (without verification), "verify", "wait" (for processes)."""
        return dict(self._stage_secs)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, the runner's first."""
        return self._bench.pids + self._builders.pids

    def measure(
        self,
        modules: Sequence[Any],
        *,
        best_secs: float | None,
        verify: bool = True,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        """Returns what the hardware says of each module.

        All are built first, then run one by one: on a small machine a build would take the cores that a
        timing needs.

        Args:
            modules: scheduled and postprocessed IRModules of the workload.
            best_secs: the latency to beat; None where there is none yet. What beats it in this batch replaces
                it.
            verify: whether to compare the outputs with the reference.
            on_result: called with (index, result) as soon as a module is done, in the order of `modules`.

        Raises:
            ReasoningCompilerError: the worker processes cannot start, or temporary files cannot be written.
        """
        built = self._build(modules)
        if verify and self._untuned is None and not self._has_reference():
            self.measure_untuned()
        verify = verify and self._has_reference()
        results = []
        for index, each in enumerate(built):
            result = self._run(each, best_secs=best_secs, verify=verify)
            measurement = result.measurement
            if measurement.ok and not measurement.cut:
                best_secs = min(measurement.latency_secs, best_secs or measurement.latency_secs)
            results.append(result)
            if on_result is not None:
                on_result(index, result)
        return results

    def measure_untuned(self) -> Measured:
        """Returns what the hardware says of the workload as it was given; it has a timeout of its own.

        Where the workload has no reference, the outputs of this run become it; where this run fails too,
        nothing can be verified, and no later measurement says that it is.
        """
        (built,) = self._build([self._workload.mod])
        verify = self._has_reference()
        self._untuned = self._run(
            built, best_secs=None, verify=verify, timeout_secs=LONG_TIMEOUT_SECS, save_outputs=not verify
        )
        if not verify and self._untuned.measurement.ok:
            self._bench.adopt_outputs()
            verified = replace(self._untuned.measurement, verified=True)
            self._untuned = replace(self._untuned, measurement=verified)
        return self._untuned

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        """Returns new measurements of libraries, timed in turns, so that drift and noise hit all alike.

        Args:
            artifacts: libraries that `measure` or `measure_untuned` returned.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
        """
        self._stage_secs["wait"] += self._bench.wait_until_ready()
        started = time.perf_counter()
        measurements = self._bench.compare(artifacts, rounds=rounds, budget_secs=budget_secs)
        self._stage_secs["run"] += time.perf_counter() - started
        return measurements

    def close(self) -> None:
        """Ends the workers and removes all temporary files. May be called again."""
        self._builders.close()
        self._bench.close()
        self._scratch.close()

    def _has_reference(self) -> bool:
        started = time.perf_counter()
        known = self._bench.has_reference
        self._stage_secs["wait"] += time.perf_counter() - started
        return known

    def _build(self, modules: Sequence[Any]) -> list[Built]:
        self._stage_secs["wait"] += self._builders.wait_until_ready()
        started = time.perf_counter()
        jobs = [(mod, self._target) for mod in modules]
        built = self._builders.build(jobs, arguments=self._workload.arguments)
        self._stage_secs["build"] += time.perf_counter() - started
        return built

    def _run(
        self,
        built: Built,
        *,
        best_secs: float | None,
        verify: bool,
        timeout_secs: float | None = None,
        save_outputs: bool = False,
    ) -> Measured:
        """Runs a library, or passes on why there is none."""
        if built.failure is not None:
            ran = Ran(Measurement(failure=built.failure))
        else:
            self._stage_secs["wait"] += self._bench.wait_until_ready()
            started = time.perf_counter()
            ran = self._bench.run(
                built.library,
                best_secs=best_secs,
                verify=verify,
                timeout_secs=timeout_secs,
                save_outputs=save_outputs,
            )
            self._stage_secs["run"] += time.perf_counter() - started - ran.verify_secs
            self._stage_secs["verify"] += ran.verify_secs
        measurement = replace(ran.measurement, build_secs=built.build_secs)
        if measurement.ok and not measurement.cut:
            return Measured(measurement, built.library)
        shutil.rmtree(built.library.parent)
        return Measured(measurement)

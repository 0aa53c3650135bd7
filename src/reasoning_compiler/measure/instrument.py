"""The measuring instrument: modules in, measurements out, whatever becomes of the processes that make them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.measure.pool import Pool, Request, WorkerOptions
from reasoning_compiler.measure.racing import Race
from reasoning_compiler.measure.scratch import Scratch
from reasoning_compiler.measure.tensors import numpy_dtype, write_array
from reasoning_compiler.records import Argument, Failure, Measurement

_BUILD_TIMEOUT_SECS = 60.0
_SET_UP_TIMEOUT_SECS = 300.0
_UNTUNED_TIMEOUT_SECS = 600.0
# A program that takes this many times as long as the best has lost, however long it may be allowed to take.
_HOPELESS_RATIO = 20.0
_LOAD_SECS = 5.0
_LEAST_BYTES_PER_SEC = 100e6


@dataclass(frozen=True)
class Measured:
    """What the instrument says of a module.

    Args:
        measurement: its latencies or its failure.
        artifact: the library, with its signature beside it, until the instrument is closed; None where it failed or
            was cut.
    """

    measurement: Measurement
    artifact: Path | None = None


class Instrument:
    """Builds, races, verifies and times the programs of one workload. A context manager.

    Building happens in processes of its own, several at once; running in one, one program at a time, while nothing is
    built. All of them start in the background as soon as the instrument exists.

    Args:
        workload: what is measured: its module, arguments, inputs and reference.
        target: the TVM target that programs are built for.
        num_threads: threads that a program may use.
        seed: of the inputs.
        timeout_secs: the longest that a program may take in the runner, all its runs together.
        repeats: timings of a program that may win.
        budget_secs: time spent on the timings of one program, roughly.
        scratch_dir: where temporary files go; None for the system's temporary folder.
        num_build_workers: processes that build; None for `num_threads`.
        memory_limit_bytes: the most memory that the runner may take; None for no limit.
    """

    def __init__(
        self,
        workload: Any,
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
        self._seed = seed
        self._timeout_secs = timeout_secs
        self._race = Race(repeats=repeats, budget_secs=budget_secs)
        self._stage_secs = dict.fromkeys(("build", "run", "verify", "wait"), 0.0)
        self._is_set_up = False
        self._expected_files: list[Path] | None = None
        self._scratch = Scratch(scratch_dir)
        self._data_dir = self._scratch.new_folder()
        self._runner = Pool(1, WorkerOptions("runner", num_threads, memory_limit_bytes))
        self._builders = Pool(num_build_workers or num_threads, WorkerOptions("builder"))
        # The reference takes numpy seconds on a large workload: it is made while the processes start.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._input_files = self._background.submit(self._write_inputs)

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stage_secs(self) -> dict[str, float]:
        """Seconds spent so far on "build", "run" (without verification), "verify" and "wait" (for processes)."""
        return dict(self._stage_secs)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, the runner's first."""
        return self._runner.pids + self._builders.pids

    def measure(
        self,
        modules: Sequence[Any],
        *,
        best_secs: float | None,
        verify: bool = True,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        """Returns what the hardware says of each module.

        All are built first, then run one by one: on a small machine a build would take the cores that a timing needs.

        Args:
            modules: scheduled and postprocessed IRModules of the workload.
            best_secs: the latency to beat; None where there is none yet. Modules of this batch that beat it count too.
            verify: whether to compare the outputs with the reference.
            on_result: called with (index, result) as soon as a module is done, in the order of `modules`.
        """
        built = self._build(modules)
        if verify and self._expected_files is None:
            self.measure_untuned()
        results = []
        for index, build in enumerate(built):
            result = self._run(build, best_secs=best_secs, verify=verify)
            measurement = result.measurement
            if measurement.ok and not measurement.cut:
                best_secs = min(measurement.latency_secs, best_secs or measurement.latency_secs)
            results.append(result)
            if on_result is not None:
                on_result(index, result)
        return results

    def measure_untuned(self) -> Measured:
        """Returns what the hardware says of the workload as it was given, with a timeout of its own: it may be slow.

        Where the workload has no reference, the outputs of this run become it.
        """
        (build,) = self._build([self._workload.mod])
        known = self._find_expected()
        save = None if known else [self._data_dir / f"output{i}" for i in range(len(self._outputs))]
        result = self._run(
            build, best_secs=None, verify=known, save_outputs=save, timeout_secs=_UNTUNED_TIMEOUT_SECS
        )
        if save is not None and result.measurement.ok:
            self._expected_files = save
            self._is_set_up = False
            result = replace(result, measurement=replace(result.measurement, verified=True))
        return result

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        """Returns new measurements of libraries, timed in turns against each other, so that drift hits all alike.

        Args:
            artifacts: libraries that `measure` or `measure_untuned` returned, verified there.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
        """
        self._set_up_runner()
        payload = {
            "libraries": [str(artifact) for artifact in artifacts],
            "rounds": rounds,
            "budget_secs": budget_secs,
            "min_timing_secs": self._race.min_timing_secs,
            "verify": self._expected_files is not None,
        }
        started = time.perf_counter()
        answer = self._runner.ask(Request("compare", payload, _UNTUNED_TIMEOUT_SECS))
        self._stage_secs["run"] += time.perf_counter() - started
        if isinstance(answer, Failure):
            # One of them failed, although it did not before: alone, each shows whether it was the one.
            return [self._run(_Built(a), best_secs=None, verify=True).measurement for a in artifacts]
        run_secs = answer["run_secs"] / max(1, len(artifacts))
        return [
            Measurement(tuple(latencies), verified=payload["verify"], run_secs=run_secs)
            for latencies in answer["latencies_secs"]
        ]

    def close(self) -> None:
        """Ends the workers and removes all temporary files. May be called again."""
        self._background.shutdown(wait=True, cancel_futures=True)
        self._builders.close()
        self._runner.close()
        self._scratch.close()

    @property
    def _arguments(self) -> tuple[Argument, ...]:
        return tuple(self._workload.arguments)

    @property
    def _outputs(self) -> list[Argument]:
        return [argument for argument in self._arguments if argument.role == "output"]

    def _build(self, modules: Sequence[Any]) -> list[_Built]:
        """Builds all modules at once."""
        import tvm

        self._wait(self._builders.wait_until_ready)
        started = time.perf_counter()
        requests, libraries = [], []
        for mod in modules:
            folder = self._scratch.new_folder()
            (folder / "module.json").write_text(tvm.ir.save_json(mod))
            libraries.append(folder / "kernel.so")
            payload = {
                "module": str(folder / "module.json"),
                "target": self._target,
                "arguments": [asdict(argument) for argument in self._arguments],
                "library": str(libraries[-1]),
            }
            requests.append(Request("build", payload, _BUILD_TIMEOUT_SECS))
        built = [_Built(library) for library in libraries]
        for index, answer in self._builders.map(requests):
            (libraries[index].parent / "module.json").unlink()
            if not isinstance(answer, Failure):
                built[index] = replace(built[index], build_secs=answer["build_secs"])
            elif answer.kind == "crash":
                built[index] = replace(built[index], failure=Failure("build", f"the compiler died: {answer.message}"))
            else:
                built[index] = replace(built[index], failure=answer)
        self._stage_secs["build"] += time.perf_counter() - started
        return built

    def _run(
        self,
        built: _Built,
        *,
        best_secs: float | None,
        verify: bool,
        save_outputs: list[Path] | None = None,
        timeout_secs: float | None = None,
    ) -> Measured:
        """Runs one library, or passes the failure of its build on."""
        answer: dict[str, Any] | Failure | None = built.failure
        started = time.perf_counter()
        if answer is None:
            self._set_up_runner()
            started = time.perf_counter()
            payload = {
                "library": str(built.library),
                "race": asdict(replace(self._race, best_secs=best_secs)),
                "verify": verify,
                "save_outputs": [str(path) for path in save_outputs] if save_outputs else None,
            }
            answer = self._runner.ask(Request("run", payload, timeout_secs or self._timeout_for(best_secs)))
        wall_secs = time.perf_counter() - started
        verify_secs = 0.0 if isinstance(answer, Failure) else answer["verify_secs"]
        self._stage_secs["run"] += wall_secs - verify_secs
        self._stage_secs["verify"] += verify_secs
        if isinstance(answer, Failure):
            measurement = Measurement(failure=answer, build_secs=built.build_secs, run_secs=wall_secs)
        else:
            measurement = Measurement(
                tuple(answer["latencies_secs"]),
                cut=answer["cut"],
                verified=answer["verified"],
                build_secs=built.build_secs,
                run_secs=answer["run_secs"],
            )
        if measurement.ok and not measurement.cut:
            return Measured(measurement, built.library)
        shutil.rmtree(built.library.parent)
        return Measured(measurement)

    def _timeout_for(self, best_secs: float | None) -> float:
        """Returns how long a program may take in the runner: less, once something is known to beat."""
        if best_secs is None:
            return self._timeout_secs
        num_bytes = sum(path.stat().st_size for path in self._input_files.result())
        preparing_secs = _LOAD_SECS + num_bytes / _LEAST_BYTES_PER_SEC
        return min(self._timeout_secs, preparing_secs + self._race.budget_secs + _HOPELESS_RATIO * best_secs)

    def _set_up_runner(self) -> None:
        """Makes sure that the runner has the workload's data, and what is known of the outputs."""
        if self._is_set_up:
            return
        self._find_expected()
        payload = {
            "arguments": [asdict(argument) for argument in self._arguments],
            "target": self._target,
            "input_files": [str(path) for path in self._input_files.result()],
            "expected_files": [str(path) for path in self._expected_files] if self._expected_files else None,
            "rtol": self._workload.tolerance.rtol,
            "atol": self._workload.tolerance.atol,
        }
        self._wait(lambda: self._runner.set_up(Request("set_up", payload, _SET_UP_TIMEOUT_SECS)))
        self._is_set_up = True

    def _find_expected(self) -> bool:
        """Tells whether the expected outputs are known, after waiting for the reference."""
        self._wait(self._input_files.result)
        return self._expected_files is not None

    def _write_inputs(self) -> list[Path]:
        """Writes the inputs, and the expected outputs where there is a reference; returns the files of the inputs."""
        inputs = self._workload.make_inputs(self._seed)
        paths = []
        for argument, array in zip((a for a in self._arguments if a.role != "output"), inputs, strict=True):
            paths.append(self._data_dir / argument.name)
            write_array(paths[-1], array)
        if self._workload.reference is not None:
            expected = []
            for argument, array in zip(self._outputs, self._workload.expected(inputs), strict=True):
                expected.append(self._data_dir / argument.name)
                write_array(expected[-1], array.astype(numpy_dtype(argument.dtype), copy=False))
            self._expected_files = expected
        return paths

    def _wait(self, until: Callable[[], Any]) -> None:
        started = time.perf_counter()
        until()
        self._stage_secs["wait"] += time.perf_counter() - started


@dataclass(frozen=True)
class _Built:
    library: Path
    build_secs: float = 0.0
    failure: Failure | None = None

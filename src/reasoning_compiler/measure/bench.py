"""The process that runs libraries on a workload's data, as the process that asks it sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.errors import ReasoningCompilerError
from reasoning_compiler.measure.pool import Pool, Request, WorkerOptions
from reasoning_compiler.measure.racing import Race
from reasoning_compiler.measure.scratch import Scratch
from reasoning_compiler.measure.tensors import numpy_dtype, write_array
from reasoning_compiler.records import Argument, Failure, Measurement

LONG_TIMEOUT_SECS = 600.0
"""For what may be slow by nature: reading a workload's data, running the untuned program."""

# A program that takes this many times as long as the best has lost, however long it may be allowed to take.
_HOPELESS_RATIO = 20.0
# What loading a library and packing its weights may take beside its runs.
_LOAD_SECS = 5.0
_LEAST_PACKED_BYTES_PER_SEC = 100e6


@dataclass(frozen=True)
class Ran:
    """What became of a library in the runner.

    Args:
        measurement: latencies or a failure.
        verify_secs: the part of its `run_secs` that verification took.
    """

    measurement: Measurement
    verify_secs: float = 0.0


class Bench:
    """One process that runs libraries, one at a time; it starts in the background.

    Args:
        num_threads: threads that a program may use.
        race: how long programs are timed; its `best_secs` is not used.
        timeout_secs: the longest that a program may take, all its runs together.
        memory_limit_bytes: the most memory that the process may take for data; None for no limit.
    """

    def __init__(
        self, num_threads: int, *, race: Race, timeout_secs: float, memory_limit_bytes: int | None = None
    ) -> None:
        self._pool = Pool(1, WorkerOptions("runner", num_threads, memory_limit_bytes))
        self._race = race
        self._timeout_secs = timeout_secs
        self._data: _Data | None = None
        self._data_are_sent = True

    @property
    def pids(self) -> list[int]:
        """The process id of the runner, in a list."""
        return self._pool.pids

    @property
    def has_reference(self) -> bool:
        """Whether it is known what the outputs must be; waits until the workload has been read."""
        return self._data is not None and self._data.expected_files() is not None

    def use(self, workload: Any, target: str, *, seed: int, scratch: Scratch) -> None:
        """Makes the bench run libraries on a workload's data; without it, inputs are random and nothing is
        verified.

        Inputs and reference are computed in the background.

        Args:
            workload: what the libraries compute.
            target: the TVM target as JSON text.
            seed: of the inputs.
            scratch: where the data go.
        """
        self._data = _Data(workload, target, seed, scratch.new_folder())
        self._data_are_sent = False

    def adopt_reference(self, output_files: Sequence[Path]) -> None:
        """Takes the outputs that a run has saved for what the outputs must be."""
        assert self._data is not None
        self._data.adopted_files = list(output_files)
        self._data_are_sent = False

    def new_output_files(self) -> list[Path]:
        """Returns files to save the workload's outputs into."""
        assert self._data is not None
        return [self._data.folder / f"output{i}" for i in range(len(self._data.outputs))]

    def wait_until_ready(self) -> float:
        """Returns the seconds it still took until the runner had started and read the workload."""
        started = time.perf_counter()
        if self._data is not None and not self._data_are_sent:
            payload = self._data.payload()
            self._pool.set_up(Request("set_up", payload, LONG_TIMEOUT_SECS))
            self._data_are_sent = True
        self._pool.wait_until_ready()
        return time.perf_counter() - started

    def run(
        self,
        library: Path,
        *,
        best_secs: float | None,
        verify: bool,
        timeout_secs: float | None = None,
        save_outputs: Sequence[Path] | None = None,
    ) -> Ran:
        """Returns what a library's race against the best gave.

        Args:
            library: a shared library with its signature beside it.
            best_secs: the latency to beat; None where there is none.
            verify: whether to compare the outputs with the reference.
            timeout_secs: another timeout than the bench's.
            save_outputs: files to write the outputs into.
        """
        self.wait_until_ready()
        payload = {
            "library": str(library.resolve()),
            "race": asdict(replace(self._race, best_secs=best_secs)),
            "verify": verify,
            "save_outputs": [str(path) for path in save_outputs] if save_outputs is not None else None,
        }
        timeout_secs = timeout_secs or self._timeout_for(best_secs)
        started = time.perf_counter()
        answer = self._pool.ask(Request("run", payload, timeout_secs))
        if isinstance(answer, Failure):
            return Ran(Measurement(failure=answer, run_secs=time.perf_counter() - started))
        measurement = Measurement(
            tuple(answer["latencies_secs"]),
            cut=answer["cut"],
            verified=answer["verified"],
            run_secs=answer["run_secs"],
        )
        return Ran(measurement, answer["verify_secs"])

    def compare(self, libraries: Sequence[Path], *, rounds: int, budget_secs: float) -> list[Measurement]:
        """Returns measurements of libraries that were timed in turns.

        Args:
            libraries: shared libraries of the workload, with their signatures beside them.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
        """
        self.wait_until_ready()
        payload = {
            "libraries": [str(library.resolve()) for library in libraries],
            "rounds": rounds,
            "budget_secs": budget_secs,
            "min_timing_secs": self._race.min_timing_secs,
            "verify": self.has_reference,
        }
        answer = self._pool.ask(Request("compare", payload, LONG_TIMEOUT_SECS + budget_secs))
        if isinstance(answer, Failure):
            # Alone, each shows whether it was the one that failed.
            verify, timeout_secs = self.has_reference, LONG_TIMEOUT_SECS
            return [
                self.run(library, best_secs=None, verify=verify, timeout_secs=timeout_secs).measurement
                for library in libraries
            ]
        run_secs = answer["run_secs"] / max(1, len(libraries))
        return [
            Measurement(tuple(latencies), verified=payload["verify"], run_secs=run_secs)
            for latencies in answer["latencies_secs"]
        ]

    def close(self) -> None:
        """Ends the process. May be called again."""
        if self._data is not None:
            self._data.close()
        self._pool.close()

    def _timeout_for(self, best_secs: float | None) -> float:
        """Returns how long a program may take: less, once there is something to beat."""
        if best_secs is None:
            return self._timeout_secs
        num_bytes = self._data.num_bytes() if self._data is not None else 0
        preparing_secs = _LOAD_SECS + num_bytes / _LEAST_PACKED_BYTES_PER_SEC
        return min(self._timeout_secs, preparing_secs + self._race.budget_secs + _HOPELESS_RATIO * best_secs)


class _Data:
    """A workload's inputs and expected outputs, written into files in the background."""

    def __init__(self, workload: Any, target: str, seed: int, folder: Path) -> None:
        self.folder = folder
        self.adopted_files: list[Path] | None = None
        self._workload = workload
        self._target = target
        self._arguments: tuple[Argument, ...] = tuple(workload.arguments)
        # numpy takes seconds for the reference of a large workload; meanwhile processes start and programs
        # build.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._files: Future[tuple[list[Path], list[Path] | None]] = self._executor.submit(self._write, seed)

    @property
    def outputs(self) -> list[Argument]:
        return [argument for argument in self._arguments if argument.role == "output"]

    def expected_files(self) -> list[Path] | None:
        return self.adopted_files or self._written()[1]

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._written()[0])

    def payload(self) -> dict[str, Any]:
        """Returns the runner's set-up request."""
        expected = self.expected_files()
        return {
            "arguments": [asdict(argument) for argument in self._arguments],
            "target": self._target,
            "input_files": [str(path) for path in self._written()[0]],
            "expected_files": None if expected is None else [str(path) for path in expected],
            "rtol": self._workload.tolerance.rtol,
            "atol": self._workload.tolerance.atol,
        }

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _written(self) -> tuple[list[Path], list[Path] | None]:
        try:
            return self._files.result()
        except OSError as error:
            raise ReasoningCompilerError(
                f"the workload's data cannot be written ({error}): free some space, or set TMPDIR elsewhere"
            ) from None

    def _write(self, seed: int) -> tuple[list[Path], list[Path] | None]:
        """Returns the files of the inputs and, where there is a reference, of the expected outputs."""
        taken = [argument for argument in self._arguments if argument.role != "output"]
        inputs = self._workload.make_inputs(seed)
        input_files = self._write_each(taken, inputs)
        if self._workload.reference is None:
            return input_files, None
        return input_files, self._write_each(self.outputs, self._workload.expected(inputs))

    def _write_each(self, arguments: Sequence[Argument], arrays: Sequence[Any]) -> list[Path]:
        paths = []
        for argument, array in zip(arguments, arrays, strict=True):
            paths.append(self.folder / argument.name)
            write_array(paths[-1], array.astype(numpy_dtype(argument.dtype), copy=False))
        return paths

"""The process that runs libraries on a workload's data, as the process that asks it sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from reasoning_compiler.errors import UsageError
from reasoning_compiler.measure.pool import Pool, Request, WorkerOptions
from reasoning_compiler.measure.racing import Race
from reasoning_compiler.measure.scratch import Scratch, no_space
from reasoning_compiler.measure.tensors import write_array
from reasoning_compiler.records import Argument, Failure, Measurement
from reasoning_compiler.workload.workload import Workload, tolerance

LONG_TIMEOUT_SECS = 600.0
"""For what may be slow by nature: reading a workload's data, running the untuned program."""


@dataclass(frozen=True)
class Ran:
    """What became of a library in the runner.

    Args:
        measurement: latencies or a failure.
        verify_secs: the part of its `run_secs` that verification took.
        timed_secs: the part in which the program itself ran.
    """

    measurement: Measurement
    verify_secs: float = 0.0
    timed_secs: float = 0.0


class Bench:
    """One process that runs libraries, one at a time; it starts in the background.

    Args:
        num_threads: threads that a program may use.
        race: how long programs are timed; its `best_secs` is not used.
        timeout_secs: the longest that a program may take, all its runs together.
        memory_limit_bytes: the most memory that the process may take for data; None for most of what is free.
    """

    def __init__(
        self, num_threads: int, *, race: Race, timeout_secs: float, memory_limit_bytes: int | None = None
    ) -> None:
        self._num_threads = num_threads
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
        return self._data is not None and self._data.expected() is not None

    def use(self, workload: Workload, target: str, *, seed: int, scratch: Scratch) -> None:
        """Makes the bench run libraries on a workload's data; without it, inputs are random and nothing is
        verified.

        Inputs and reference are computed in the background.

        Args:
            workload: what the libraries compute.
            target: the TVM target as JSON text.
            seed: of the inputs.
            scratch: where the data go.
        """
        self._data = _Data(workload, target, seed, scratch.new_folder(), num_threads=self._num_threads)
        self._data_are_sent = False

    def adopt_outputs(self) -> None:
        """Takes the outputs that the last run has saved for what the outputs must be."""
        assert self._data is not None
        self._data.adopt_outputs()
        self._data_are_sent = False

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
        save_outputs: bool = False,
    ) -> Ran:
        """Returns what a library's race against the best gave.

        Args:
            library: a shared library with its signature beside it.
            best_secs: the latency to beat; None where there is none.
            verify: whether to compare the outputs with the reference.
            timeout_secs: another timeout than the bench's.
            save_outputs: whether to save the outputs, for `adopt_outputs`.
        """
        self.wait_until_ready()
        files = self._data.output_files if self._data is not None and save_outputs else None
        payload = {
            "library": str(library.resolve()),
            "race": asdict(replace(self._race, best_secs=best_secs)),
            "verify": verify,
            "save_outputs": [str(path) for path in files] if files is not None else None,
        }
        started = time.perf_counter()
        answer = self._pool.ask(Request("run", payload, timeout_secs or self._timeout_secs))
        if isinstance(answer, Failure):
            return Ran(Measurement(failure=answer, run_secs=time.perf_counter() - started))
        measurement = Measurement(
            tuple(answer["latencies_secs"]),
            cut=answer["cut"],
            verified=answer["verified"],
            run_secs=answer["run_secs"],
        )
        return Ran(measurement, answer["verify_secs"], answer["timed_secs"])

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


class _Data:
    """A workload's inputs and expected outputs, written into files in the background."""

    def __init__(self, workload: Workload, target: str, seed: int, folder: Path, *, num_threads: int) -> None:
        self.folder = folder
        self._num_threads = num_threads
        self._workload = workload
        self._target = target
        self._adopted: list[_File] | None = None
        # numpy takes seconds for the reference of a large workload; meanwhile processes start and programs build.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._written: Future[tuple[list[_File], list[_File] | None]] = self._executor.submit(self._write, seed)

    @property
    def output_files(self) -> list[Path]:
        """Where a run can save the workload's outputs."""
        return [self.folder / f"output{i}" for i in range(len(self._outputs))]

    def adopt_outputs(self) -> None:
        """Takes what a run has saved for what the outputs must be."""
        self._adopted = [
            _File(str(path), argument.shape, argument.dtype)
            for path, argument in zip(self.output_files, self._outputs, strict=True)
        ]

    def expected(self) -> list[_File] | None:
        """Returns the files with the expected outputs, None where nothing is known; waits until they are written."""
        return self._adopted or self._files()[1]

    def payload(self) -> dict[str, Any]:
        """Returns the runner's set-up request; waits until all files are written."""
        expected = self.expected()
        rtol, atol = tolerance(self._workload)
        return {
            "arguments": [asdict(argument) for argument in self._workload.arguments],
            "target": self._target,
            "inputs": [asdict(file) for file in self._files()[0]],
            "expected": None if expected is None else [asdict(file) for file in expected],
            "rtol": rtol,
            "atol": atol,
        }

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def _outputs(self) -> list[Argument]:
        return [argument for argument in self._workload.arguments if argument.role == "output"]

    def _files(self) -> tuple[list[_File], list[_File] | None]:
        try:
            return self._written.result()
        except OSError as error:
            raise no_space(error) from None

    def _write(self, seed: int) -> tuple[list[_File], list[_File] | None]:
        inputs = self._workload.make_inputs(seed)
        taken = [argument for argument in self._workload.arguments if argument.role != "output"]
        input_files = [self._write_one(a, array) for a, array in zip(taken, inputs, strict=True)]
        if self._workload.reference is None:
            return input_files, None
        with threadpool_limits(self._num_threads):  # numpy would take every core for the reference
            expected = self._workload.expected(inputs)
        return input_files, [self._write_one(a, array) for a, array in zip(self._outputs, expected, strict=True)]

    def _write_one(self, argument: Argument, array: np.ndarray) -> _File:
        if array.shape != argument.shape:
            raise UsageError(
                f"`{argument.name}` has shape {argument.shape} in the kernel, but the workload makes {array.shape}"
            )
        path = self.folder / argument.name
        write_array(path, array)
        return _File(str(path), array.shape, array.dtype.name)


@dataclass(frozen=True)
class _File:
    """An array in a file, as the runner is told of it. A reference may be more exact than the kernel's dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: str

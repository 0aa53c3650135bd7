"""A workload's data as the runner reads them: inputs and expected outputs, in files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.verification.expectations import source
from reasoning_compiler.measure.verification.files import ExpectedFiles, File
from reasoning_compiler.measure.workers.scratch import no_space
from reasoning_compiler.measure.workers.workspaces import compile_workspaces
from reasoning_compiler.workload.index_ranges import index_ranges
from reasoning_compiler.workload.input_sets import INPUT_SETS, SUMS_EXACTLY, make_input_set, nans
from reasoning_compiler.workload.primfunc import blocks
from reasoning_compiler.workload.workload import Workload

_NANS = "NaN"
# No further input set is added when this much time has been spent on what its outputs must be.
_SETS_BUDGET_SECS = 30.0


class Data:
    """A workload's inputs and expected outputs, written into files in the background.

    Args:
        workload: whose.
        target: the TVM target as JSON text, for the runner.
        seed: of the random inputs.
        folder: where the files go.
        num_threads: threads that the reference may use.
    """

    def __init__(self, workload: Workload, target: str, seed: int, folder: Path, *, num_threads: int) -> None:
        self.folder = folder
        self._workload = workload
        self._target = target
        self._is_closed = False
        self._source = source(workload, folder, num_threads=num_threads)
        # The reference of a large workload takes seconds; meanwhile processes start and programs build.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._random: list[np.ndarray] = []
        self._written: Future[tuple[list[File], ExpectedFiles | Failure]] = self._executor.submit(self._write, seed)
        self._workspaces: Future[Path | None] = self._executor.submit(compile_workspaces, folder)
        self._written_sets: Future[list[_Set]] = self._executor.submit(self._write_sets, seed)
        self._kept_sets: list[_Set] | None = None
        self._waits_until: float | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the reference, a line each."""
        return self._source.notices

    @property
    def failure(self) -> Failure | None:
        """Why it is not known what the outputs must be; None where it is. Waits until the reference has run."""
        _, expected = self._files()
        return expected if isinstance(expected, Failure) else None

    def payload(self) -> dict[str, Any]:
        """Returns the runner's set-up request; waits until all files are written."""
        inputs, expected = self._files()
        workspaces = self._workspaces.result()
        return {
            "arguments": [asdict(argument) for argument in self._workload.arguments],
            "target": self._target,
            "inputs": [asdict(file) for file in inputs],
            "expected": None if isinstance(expected, Failure) else expected.to_json(),
            "workspaces": None if workspaces is None else str(workspaces),
        }

    def input_files(self) -> list[dict[str, Any]]:
        """Returns the files of the inputs that programs are timed on, in order."""
        return [asdict(file) for file in self._files()[0]]

    def wait_for_sets(self, secs: float) -> None:
        """Returns when the input sets are written, or so many seconds after it was first called."""
        if self._waits_until is None:
            self._waits_until = time.monotonic() + secs
        wait([self._written_sets], timeout=max(0.0, self._waits_until - time.monotonic()))

    def sets(self) -> list[dict[str, Any]]:
        """Returns the runner's word for each input set; waits until they are written."""
        if self._kept_sets is None:
            try:
                self._kept_sets = self._written_sets.result()
            except OSError as error:
                raise no_space(error) from None
        return [each.to_json() for each in self._kept_sets]

    def leave_out_sets(self, names: Sequence[str]) -> None:
        """Leaves out these input sets."""
        self._kept_sets = [each for each in self._kept_sets or [] if each.name not in names]

    def close(self) -> None:
        """Stops what is still computed. May be called again."""
        self._is_closed = True
        self._source.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def _taken(self) -> list[Argument]:
        return [argument for argument in self._workload.arguments if argument.role != "output"]

    def _files(self) -> tuple[list[File], ExpectedFiles | Failure]:
        try:
            return self._written.result()
        except OSError as error:
            raise no_space(error) from None

    def _write(self, seed: int) -> tuple[list[File], ExpectedFiles | Failure]:
        self._random = self._workload.make_inputs(seed)
        files = [self._write_one(a, array, self.folder) for a, array in zip(self._taken, self._random, strict=True)]
        expected = self._source.expected(files, self.folder, any_order=False)
        if expected is None:
            expected = Failure("wrong_result", "the reference cannot be computed on random inputs")
        return files, expected

    def _write_sets(self, seed: int) -> list[_Set]:
        """Writes the inputs of each set that differs from the random one, and what the outputs must be there."""
        usual, known = self._written.result()
        random, self._random = self._random, []
        if isinstance(known, Failure):
            return []
        sets = []
        made = nans(self._taken)
        if any(array is not None for array in made):
            sets.append(_Set(_NANS, self._write_inputs(_NANS, made), None))
        main = self._workload.mod["main"]
        longest_sum = max(block.reduction_length for block in blocks(main))
        ranges = {self._workload.arguments[number].name: each for number, each in index_ranges(main).items()}
        started = time.monotonic()
        for name in INPUT_SETS:
            if self._is_closed or time.monotonic() - started > _SETS_BUDGET_SECS:
                break
            made = make_input_set(name, self._taken, random, seed=seed, longest_sum=longest_sum, ranges=ranges)
            if all(array is None for array in made):
                continue
            inputs = self._write_inputs(name, made)
            files = [old if new is None else new for old, new in zip(usual, inputs, strict=True)]
            expected = self._source.expected(files, self._folder(name), any_order=name == SUMS_EXACTLY)
            if isinstance(expected, ExpectedFiles) and _are_finite(expected):
                sets.append(_Set(name, inputs, expected))
        self._source.close()
        return sets

    def _folder(self, name: str) -> Path:
        folder = self.folder / f"set-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def _write_inputs(self, name: str, made: list[np.ndarray | None]) -> list[File | None]:
        return [
            None if array is None else self._write_one(a, array, self._folder(name))
            for a, array in zip(self._taken, made, strict=True)
        ]

    def _write_one(self, argument: Argument, array: np.ndarray, folder: Path) -> File:
        if array.shape != argument.shape:
            raise UsageError(
                f"`{argument.name}` has shape {argument.shape} in the kernel, but the workload makes {array.shape}"
            )
        return File.write(folder / argument.name, array)


@dataclass(frozen=True)
class _Set:
    """Other inputs than those that programs are timed on.

    Args:
        name: of the input set.
        inputs: per argument that is no output, its file; None where it keeps its values.
        expected: what the outputs must be; None where nothing is compared.
    """

    name: str
    inputs: list[File | None]
    expected: ExpectedFiles | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inputs": [None if file is None else asdict(file) for file in self.inputs],
            "expected": None if self.expected is None else self.expected.to_json(),
        }


def _are_finite(expected: ExpectedFiles) -> bool:
    """Returns whether all right outputs are finite: where they overflow, the order of a sum decides on Inf or NaN."""
    return all(np.isfinite(file.read().astype(np.float64, copy=False)).all() for file in expected.values)

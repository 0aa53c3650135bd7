"""A workload's data as the runner reads them: inputs and expected outputs, in files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.measure.workers.scratch import no_space
from reasoning_compiler.measure.workers.tensors import write_array
from reasoning_compiler.measure.workers.workspaces import compile_workspaces
from reasoning_compiler.workload.input_sets import INPUT_SETS, LOOSER, InputSet, make_input_set, nans
from reasoning_compiler.workload.workload import Workload, smallest_difference, tolerance

_NANS = "NaN"


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
        self._num_threads = num_threads
        self._workload = workload
        self._target = target
        self._adopted: list[_File] | None = None
        self._is_closed = False
        # numpy takes seconds for the reference of a large workload; meanwhile processes start and programs build.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._random: list[np.ndarray] | None = None
        self._written: Future[tuple[list[_File], list[_File] | None]] = self._executor.submit(self._write, seed)
        self._workspaces: Future[Path | None] = self._executor.submit(compile_workspaces, folder)
        self._written_sets: Future[list[_Set]] = self._executor.submit(self._write_sets, seed)
        self._kept_sets: list[_Set] | None = None
        self._waits_until: float | None = None

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
        workspaces = self._workspaces.result()
        return {
            "arguments": [asdict(argument) for argument in self._workload.arguments],
            "target": self._target,
            "inputs": [asdict(file) for file in self._files()[0]],
            "expected": None if expected is None else [asdict(file) for file in expected],
            "rtol": rtol,
            "atol": atol,
            "least": smallest_difference(self._workload),
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

    def sets(self, *, save: bool = False) -> list[dict[str, Any]]:
        """Returns the runner's word for each input set; waits until they are written.

        Args:
            save: whether the outputs become what is expected, where that is not known.
        """
        if self._kept_sets is None:
            try:
                self._kept_sets = self._written_sets.result()
            except OSError as error:
                raise no_space(error) from None
        return [each.to_json(save=self._saved(each) if save else None) for each in self._kept_sets]

    def leave_out_sets(self, names: Sequence[str]) -> None:
        """Leaves out these input sets; what was saved of the others is now expected of them."""
        kept = [each for each in self._kept_sets or [] if each.name not in names]
        self._kept_sets = [replace(each, expected=self._saved(each) or each.expected) for each in kept]

    def _saved(self, each: _Set) -> list[_File] | None:
        """Returns where a run saves the outputs of a set; None where they are known, or nobody wants to know them."""
        if each.expected is not None or each.name == _NANS:
            return None
        pairs = enumerate(self._outputs)
        return [_File(str(each.folder / f"output{i}"), a.shape, a.dtype) for i, a in pairs]

    def close(self) -> None:
        self._is_closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def _outputs(self) -> list[Argument]:
        return [argument for argument in self._workload.arguments if argument.role == "output"]

    def _files(self) -> tuple[list[_File], list[_File] | None]:
        try:
            return self._written.result()
        except OSError as error:
            raise no_space(error) from None

    @property
    def _taken(self) -> list[Argument]:
        return [argument for argument in self._workload.arguments if argument.role != "output"]

    def _write(self, seed: int) -> tuple[list[_File], list[_File] | None]:
        inputs = self._random = self._workload.make_inputs(seed)
        input_files = [self._write_one(a, array) for a, array in zip(self._taken, inputs, strict=True)]
        if self._workload.reference is None:
            return input_files, None
        with threadpool_limits(self._num_threads):  # numpy would take every core for the reference
            expected = self._workload.expected(inputs)
        return input_files, [self._write_one(a, array) for a, array in zip(self._outputs, expected, strict=True)]

    def _write_sets(self, seed: int) -> list[_Set]:
        """Writes the inputs, and by the reference the outputs, of each set that differs from the random one."""
        random, self._random = self._random, None
        assert random is not None
        sets = [self._write_set(_NANS, nans(self._taken), random)]
        for name in INPUT_SETS:
            if self._is_closed:
                break
            made = make_input_set(name, self._taken, random, seed=seed)
            sets.append(self._write_set(name, made, random))
        return [each for each in sets if each is not None]

    def _write_set(
        self, name: InputSet | Literal["NaN"], made: list[np.ndarray | None], random: list[np.ndarray]
    ) -> _Set | None:
        if all(array is None for array in made):
            return None
        folder = self.folder / f"set-{name}"
        folder.mkdir()
        expected = None
        if self._workload.reference is not None and name != _NANS:
            inputs = [old if new is None else new for old, new in zip(random, made, strict=True)]
            try:
                with np.errstate(all="ignore"), threadpool_limits(self._num_threads):
                    values = self._workload.expected(inputs)
            except (ArithmeticError, ValueError):
                return None  # a user's own reference that is not made for such inputs
            # Where the right result overflows, the order of summing up decides between Inf and NaN.
            if not all(np.isfinite(each.astype(np.float64, copy=False)).all() for each in values):
                return None
            pairs = zip(self._outputs, values, strict=True)
            expected = [self._write_one(a, array, folder) for a, array in pairs]
        files = [
            None if array is None else self._write_one(a, array, folder)
            for a, array in zip(self._taken, made, strict=True)
        ]
        return _Set(name, folder, files, expected)

    def _write_one(self, argument: Argument, array: np.ndarray, folder: Path | None = None) -> _File:
        if array.shape != argument.shape:
            raise UsageError(
                f"`{argument.name}` has shape {argument.shape} in the kernel, but the workload makes {array.shape}"
            )
        path = (folder or self.folder) / argument.name
        write_array(path, array)
        return _File(str(path), array.shape, array.dtype.name)


@dataclass(frozen=True)
class _Set:
    """Other inputs than those that programs are timed on.

    Args:
        name: of the input set.
        folder: where its files are.
        inputs: per argument that is no output, its file; None where it keeps its values.
        expected: per output, its file; None where nothing is known.
    """

    name: str
    folder: Path
    inputs: list[_File | None]
    expected: list[_File] | None

    def to_json(self, *, save: list[_File] | None) -> dict[str, Any]:
        return {
            "name": self.name,
            "inputs": [None if file is None else asdict(file) for file in self.inputs],
            "expected": None if self.expected is None else [asdict(file) for file in self.expected],
            "looser": LOOSER.get(self.name, 1.0),
            "save": None if save is None else [file.path for file in save],
        }


@dataclass(frozen=True)
class _File:
    """An array in a file, as the runner is told of it. A reference may be more exact than the kernel's dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: str

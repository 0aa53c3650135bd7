"""A workload's data as the runner reads them: inputs and expected outputs, in the executor's store."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.verification.expectations import source
from reasoning_compiler.measure.verification.share import Share
from reasoning_compiler.measure.verification.stored import InputSet, StoredArray, StoredOutputs
from reasoning_compiler.measure.workers.workspaces import compile_workspaces
from reasoning_compiler.workload.index_ranges import index_ranges
from reasoning_compiler.workload.input_sets import INPUT_SETS, SUMS_EXACTLY, make_input_set, nans
from reasoning_compiler.workload.primfunc import blocks
from reasoning_compiler.workload.workload import Workload

_NANS = "NaN"
# No further input set is added when this much time has been spent on what its outputs must be.
_SETS_BUDGET_SECS = 30.0

_Usual = tuple[list[StoredArray], StoredOutputs | Failure]
"""The inputs that programs are timed on, and what the outputs must be, or why that is not known."""


class Data:
    """A workload's inputs and expected outputs, put into an executor's store in the background.

    Args:
        workload: whose.
        target: the TVM target as JSON text, for the runner.
        seed: of the random inputs.
        executor: whose runners read them; the reference may use as many threads as programs do.
    """

    def __init__(self, workload: Workload, target: str, seed: int, executor: LocalExecutor) -> None:
        self._share = Share(executor)
        self._workload = workload
        self._target = target
        self._is_closed = False
        self._source = source(workload, self._share)
        # The reference of a large workload takes seconds; meanwhile processes start and programs build.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._random: list[np.ndarray] = []
        self._usual: Future[_Usual] = self._thread.submit(self._put_usual, seed)
        self._workspaces: Future[str | None] = self._thread.submit(self._put_workspaces, executor.new_folder())
        self._sets: Future[list[InputSet]] = self._thread.submit(self._put_sets, seed)
        self._waits_until: float | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the reference, a line each."""
        return self._source.notices

    @property
    def failure(self) -> Failure | None:
        """Why it is not known what the outputs must be; None where it is. Waits until the reference has run."""
        _, expected = self._usual.result()
        return expected if isinstance(expected, Failure) else None

    def payload(self) -> dict[str, Any]:
        """Returns the runner's set-up request; waits until all of it is there."""
        inputs, expected = self._usual.result()
        return {
            "arguments": self._workload.arguments,
            "target": self._target,
            "inputs": inputs,
            "expected": None if isinstance(expected, Failure) else expected,
            "workspaces": self._workspaces.result(),
        }

    def inputs(self) -> list[StoredArray]:
        """Returns the inputs that programs are timed on, in order."""
        return self._usual.result()[0]

    def wait_for_sets(self, secs: float) -> None:
        """Returns when the input sets are there, or so many seconds after it was first called."""
        if self._waits_until is None:
            self._waits_until = time.monotonic() + secs
        wait([self._sets], timeout=max(0.0, self._waits_until - time.monotonic()))

    def sets(self) -> list[InputSet]:
        """Returns the input sets; waits until they are there."""
        return self._sets.result()

    def close(self) -> None:
        """Stops what is still computed, and drops what the store holds. May be called again."""
        self._is_closed = True
        self._source.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._share.drop()

    @property
    def _taken(self) -> list[Argument]:
        return [argument for argument in self._workload.arguments if argument.role != "output"]

    def _put_workspaces(self, folder: Path) -> str | None:
        library = compile_workspaces(folder)
        return None if library is None else self._share.put(library.read_bytes(), suffix=library.suffix)

    def _put_usual(self, seed: int) -> _Usual:
        self._random = self._workload.make_inputs(seed)
        inputs = [self._put(argument, array) for argument, array in zip(self._taken, self._random, strict=True)]
        expected = self._source.expected(inputs, any_order=False)
        if expected is None:
            expected = Failure("wrong_result", "the reference cannot be computed on random inputs")
        return inputs, expected

    def _put_sets(self, seed: int) -> list[InputSet]:
        """Puts the inputs of each set that differs from the random one, and what the outputs must be there."""
        usual, known = self._usual.result()
        random, self._random = self._random, []
        if isinstance(known, Failure):
            return []
        sets = []
        made = nans(self._taken)
        if any(array is not None for array in made):
            sets.append(InputSet(_NANS, self._put_all(made), None))
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
            inputs = self._put_all(made)
            whole = [old if new is None else new for old, new in zip(usual, inputs, strict=True)]
            expected = self._source.expected(whole, any_order=name == SUMS_EXACTLY)
            if isinstance(expected, StoredOutputs) and self._are_finite(expected):
                sets.append(InputSet(name, inputs, expected))
        self._source.close()
        return sets

    def _put_all(self, made: list[np.ndarray | None]) -> tuple[StoredArray | None, ...]:
        pairs = zip(self._taken, made, strict=True)
        return tuple(None if array is None else self._put(argument, array) for argument, array in pairs)

    def _put(self, argument: Argument, array: np.ndarray) -> StoredArray:
        if array.shape != argument.shape:
            raise UsageError(
                f"`{argument.name}` has shape {argument.shape} in the kernel, but the workload makes {array.shape}"
            )
        return StoredArray.put(self._share, array)

    def _are_finite(self, expected: StoredOutputs) -> bool:
        """Returns whether all outputs are finite: where they overflow, the order of a sum decides on Inf or NaN."""
        arrays = (array.get(self._share).astype(np.float64, copy=False) for array in expected.values)
        return all(np.isfinite(array).all() for array in arrays)

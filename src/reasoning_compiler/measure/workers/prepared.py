"""The data that a runner runs libraries on: those of the workloads that it has read."""

from __future__ import annotations

import math
import resource
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import psutil

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.machine.cgroup import memory_limit_bytes
from reasoning_compiler.measure.verification.stored import StoredArray, StoredOutputs
from reasoning_compiler.measure.workers.loaded import DeviceData
from reasoning_compiler.measure.workers.memory import is_cpu
from reasoning_compiler.measure.workers.runtimes import LocalRuntime, Runtime
from reasoning_compiler.measure.workers.store import Store
from reasoning_compiler.workload.workload import numpy_dtype


class Prepared:
    """The data of the last few workloads, as many as there is room for, where libraries run.

    Args:
        store: where they come from.
    """

    def __init__(self, store: Store) -> None:
        self.runtime: Runtime = LocalRuntime()
        """Where libraries run."""
        self._store = store
        self._workloads: OrderedDict[str, DeviceData] = OrderedDict()

    @property
    def keys(self) -> list[str]:
        """What the workloads are called."""
        return list(self._workloads)

    @property
    def may_fork(self) -> bool:
        """Whether a fork of this process could go on with its data: none lie on an accelerator, nor far away."""
        return isinstance(self.runtime, LocalRuntime) and all(is_cpu(data.device) for data in self._workloads.values())

    def renew_outputs(self) -> None:
        """Gives the outputs memory that this process shares with no other: it need not be copied when it is written."""
        for key, data in self._workloads.items():
            self._workloads[key] = data.with_new_outputs()

    def add(
        self,
        key: str,
        arguments: tuple[Argument, ...],
        target: str,
        *,
        inputs: Sequence[StoredArray],
        expected: StoredOutputs | None,
    ) -> None:
        """Reads a workload; see `Runner.prepare`."""
        self._make_room(sum(_num_bytes(argument) for argument in arguments))
        room_bytes = _room_bytes() if isinstance(self.runtime, LocalRuntime) else 0  # a device may be small
        data = DeviceData.allocate(arguments, self.runtime.device(target), room_bytes=room_bytes)
        data.fill_inputs([array.get(self._store) for array in inputs])
        outputs = None if expected is None else expected.get(self._store)
        self._workloads[key] = replace(data, expected=outputs)

    def data(self, workload: str) -> DeviceData:
        """Returns what libraries of a workload run on, by its key."""
        return self._workloads[workload]

    def _make_room(self, num_bytes: int) -> None:
        """Forgets workloads, those first that were prepared first, until another one has room beside the rest."""
        room_bytes = _room_bytes() if self.may_fork else 0  # a device may be small
        while self._workloads and num_bytes + sum(map(_data_bytes, self._workloads.values())) > room_bytes:
            self._workloads.popitem(last=False)


def _num_bytes(argument: Argument) -> int:
    return math.prod(argument.shape) * numpy_dtype(argument.dtype).itemsize


def _data_bytes(data: DeviceData) -> int:
    return sum(map(_num_bytes, data.arguments))


def _room_bytes() -> int:
    """Returns how much memory packed weights, and data, may take: a quarter of what there is for this process."""
    limits = [psutil.virtual_memory().available, memory_limit_bytes(), resource.getrlimit(resource.RLIMIT_DATA)[0]]
    return min(each for each in limits if each is not None and each != resource.RLIM_INFINITY) // 4

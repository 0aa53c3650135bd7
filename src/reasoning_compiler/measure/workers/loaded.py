"""What the process of a runner holds: the arguments of a kernel in memory, and a library ready to run on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.processes.serving import one_line
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.measure.verification.compare import Expected, poison
from reasoning_compiler.measure.workers.memory import Memory, allocate
from reasoning_compiler.measure.workers.runtimes import Runtime
from reasoning_compiler.measure.workers.weights import PackedWeights
from reasoning_compiler.workload.workload import numpy_dtype


@dataclass(frozen=True)
class DeviceData:
    """The arguments of a kernel on the device.

    Args:
        arguments: what they are.
        memory: one per argument; weights are not packed.
        device: where they are.
        packed: the packed weights of the last libraries.
        expected: what the outputs must be; None where nothing is known.
    """

    arguments: tuple[Argument, ...]
    memory: tuple[Memory, ...]
    device: Any
    packed: PackedWeights
    expected: Expected | None = None

    @classmethod
    def allocate(cls, arguments: tuple[Argument, ...], device: Any, *, room_bytes: int) -> DeviceData:
        memory = tuple(allocate(a.shape, a.dtype, device) for a in arguments)
        return cls(arguments, memory, device, PackedWeights(device, max_bytes=room_bytes))

    def with_new_outputs(self) -> DeviceData:
        """Returns the same with outputs in other memory, their values undefined."""
        memory = (allocate(a.shape, a.dtype, self.device) if a.role == "output" else m for a, m in self._pairs())
        return replace(self, memory=tuple(memory))

    @property
    def tensors(self) -> list[Any]:
        return [memory.tensor for memory in self.memory]

    @property
    def inputs(self) -> list[Memory]:
        return [memory for argument, memory in self._pairs() if argument.role != "output"]

    @property
    def outputs(self) -> list[Memory]:
        return [memory for argument, memory in self._pairs() if argument.role == "output"]

    def fill_inputs(self, values: Sequence[np.ndarray | None]) -> None:
        """Gives the arguments that are no outputs new values; None leaves one as it is. No kernel may change them."""
        for memory, array in zip(self.inputs, values, strict=True):
            if array is not None:
                memory.allow_writing(True)
                memory.tensor.copyfrom(array)
                memory.allow_writing(False)

    def spoil_outputs(self) -> None:
        """Fills the outputs with what no kernel computes."""
        for argument, memory in self._pairs():
            if argument.role == "output":
                memory.fill(poison(numpy_dtype(argument.dtype)))

    def verify(self, expected: Expected | None = None, *, on: str = "") -> float:
        """Returns the seconds that it took to find the outputs right.

        Args:
            expected: what they must be; None for what is expected of the usual inputs.
            on: what a failure's message begins with.

        Raises:
            Refused: they are not right, or something beside them has been written.
        """
        expected = expected if expected is not None else self.expected
        assert expected is not None
        started = time.perf_counter()
        failure = expected.why_not([memory.read() for memory in self.outputs])
        if failure is not None:
            # What has computed wrong may have written anywhere, into what we cannot protect as well.
            raise Refused(failure.kind, on + failure.message, retire=True)
        self.look_at_fences()
        return time.perf_counter() - started

    def look_at_fences(self) -> float:
        """Returns the seconds that it took to find everything as it was beside the arguments. Raises Refused."""
        started = time.perf_counter()
        touched = [argument.name for argument, memory in self._pairs() if not memory.is_intact]
        if touched:
            raise Refused("wrong_result", f"it wrote beside its argument {', '.join(touched)}", retire=True)
        return time.perf_counter() - started

    def _pairs(self) -> Iterable[tuple[Argument, Memory]]:
        return zip(self.arguments, self.memory, strict=True)


@dataclass(frozen=True)
class LoadedKernel:
    """A loaded library with its arguments, weights packed.

    Args:
        runtime: where it runs.
        library: the file that it was loaded from.
        module: its module.
        tensors: its arguments, as it takes them.
        data: the arguments as its user has them.
        packing_secs: what packing weights has taken, by its own functions.
        linked: the key of its library in the store, where the device has linked it; None elsewhere.
    """

    runtime: Runtime
    library: Path
    module: Any
    tensors: Sequence[Any]
    data: DeviceData
    packing_secs: float
    linked: str | None = None

    def first_secs(self) -> float:
        """Returns the seconds of the first run."""
        return self._timed(self.runtime.first_secs)

    def time(self, number: int) -> float:
        """Returns the seconds of one run, the mean of `number` in a row."""
        return self._timed(self.runtime.run_secs, number)

    def _timed(self, clock: Callable[..., float], *number: int) -> float:
        try:
            return clock(self.module, self.tensors, self.data.device, *number)
        except Refused:
            raise
        except Exception as error:
            raise Refused("crash", one_line(error), retire=True) from None

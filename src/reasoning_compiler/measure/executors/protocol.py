"""What every executor does: it builds kernels and runs them, on this machine or elsewhere.

An executor knows nothing of one workload. What it is sent is bytes, by `put`, and JSON that refers to them by their
keys; what comes back is JSON. So it makes no difference where the processes are that do the work, and several tasks of
a session can share one executor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.pool import Pool, Preparation
from reasoning_compiler.core.processes.worker import Answer, Request


@dataclass(frozen=True)
class Kernel:
    """Machine code that an executor holds.

    Args:
        code: its key; ".so" at the end is for a library, ".o" for an object that is linked where it is run.
        signature: see `codegen.Signature.to_json`.
    """

    code: str
    signature: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns what a runner reads."""
        return asdict(self)


@dataclass(frozen=True)
class Built:
    """A kernel, or why there is none.

    Args:
        kernel: held by the executor until it is dropped; None where it does not exist.
        build_secs: time to generate and link the code.
        failure: why it does not exist; None where it does.
    """

    kernel: Kernel | None = None
    build_secs: float = 0.0
    failure: Failure | None = None


class Executor(Protocol):
    """Processes that build kernels and run them."""

    num_threads: int
    """Threads that a program may use."""

    num_runners: int
    """How many programs may run at the same time, each on a machine of its own."""

    flushes_cache: bool
    """Whether each timing begins with cold caches."""

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers on this machine, those of runners first."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of where programs run, a line each, as it came."""
        ...

    def start_builders(self) -> None:
        """Starts the processes that build in the background, unless they have started."""
        ...

    def start_runners(self) -> None:
        """Starts the processes that run programs in the background, unless they have started."""
        ...

    def new_folder(self) -> Path:
        """Returns a new folder on this machine for the caller's files; it is gone when the executor is closed."""
        ...

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """Returns a key for some bytes, which requests may refer to until the key is dropped."""
        ...

    def claim(self, key: str) -> None:
        """Keeps the bytes of a key that one of the executor's processes has put, until it is dropped."""
        ...

    def get(self, key: str) -> bytearray:
        """Returns a copy of the bytes of a key."""
        ...

    def drop(self, key: str) -> None:
        """Forgets the bytes of a key, once for each time that they were put, claimed or built."""
        ...

    def wait_for_builders(self) -> float:
        """Returns how many seconds the builders still needed to start."""
        ...

    def build(self, modules: Sequence[tuple[Any, str]], *, arguments: Sequence[Argument] | None = None) -> list[Built]:
        """Returns what became of each module.

        Args:
            modules: (scheduled IRModule, TVM target as JSON text) pairs.
            arguments: the arguments of every module's `main`; None to take them from the module, where the last is
                taken for the output.

        Raises:
            ReasoningCompilerError: the builders do not start, or temporary files cannot be written.
        """
        ...

    def open_reference(self) -> Pool:
        """Returns a process that says what kernels must compute; who opens it ends it. See `ReferenceWorker`."""
        ...

    def wait_for_runners(self, workload: Preparation | None) -> None:
        """Returns once a program of a workload could run.

        Raises:
            ReasoningCompilerError: the runners do not start, or cannot read the workload's data.
        """
        ...

    def run(self, requests: Iterable[Request], workload: Preparation | None) -> Iterator[tuple[int, Answer]]:
        """Yields (index, answer or failure) of each request, as they come.

        Args:
            requests: each is taken when a runner is free for it. Their actions are those of `workers.runner.Runner`.
            workload: whose data they run on; None for random data.

        Raises:
            ReasoningCompilerError: as `wait_for_runners`.
        """
        ...

    def close(self) -> None:
        """Ends all processes and removes all temporary files. May be called again."""
        ...

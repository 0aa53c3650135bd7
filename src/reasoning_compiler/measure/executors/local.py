"""Building and running on this machine: builders at work together, then one program at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reasoning_compiler.codegen.signature import Signature, read_signature, write_signature
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.pool import Pool
from reasoning_compiler.core.processes.worker import Answer, Request
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.machine.cpu import read_cpu
from reasoning_compiler.measure.executors.kernels import Built, Kernel
from reasoning_compiler.measure.workers.scratch import Scratch, no_space
from reasoning_compiler.measure.workers.store import Store
from reasoning_compiler.measure.workers.worker import WorkerOptions

BUILD_TIMEOUT_SECS = 60.0
_LEAST_FLUSH_BYTES = 64 << 20


class LocalExecutor:
    """Processes that build kernels and run them. A context manager.

    It knows nothing of one workload, so several tasks of a session can share it. Its processes are sent bytes, which
    they find in the store, and JSON that refers to them by their keys; what comes back is JSON. So another executor
    need only bring the bytes to where its processes are. What it needs starts with its first use, or before on request.

    Args:
        num_threads: threads that a program may use.
        num_build_workers: processes that build; None for `num_threads`, or as many as there are cores.
        build_timeout_secs: the longest that a build may take.
        memory_limit_bytes: the most memory that the runner may take for data; None for most of what is free.
        flush_cache: whether each timing begins with cold caches.
        scratch_dir: where temporary files go; None for the system's temporary folder.
    """

    num_runners = 1
    """How many programs may run at the same time, each on a machine of its own."""

    def __init__(
        self,
        *,
        num_threads: int,
        num_build_workers: int | None = None,
        build_timeout_secs: float = BUILD_TIMEOUT_SECS,
        memory_limit_bytes: int | None = None,
        flush_cache: bool = False,
        scratch_dir: Path | None = None,
    ) -> None:
        self.num_threads = num_threads
        self.flushes_cache = flush_cache
        self._num_builders = num_build_workers or min(num_threads, num_physical_cores())
        self._build_timeout_secs = build_timeout_secs
        self._memory_limit_bytes = memory_limit_bytes
        self._scratch_dir = scratch_dir

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers on this machine, those of runners first."""
        return [pid for pool in self._pools for pid in pool.pids]

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of where programs run, a line each, as it came: of this machine, nothing."""
        return ()

    @cached_property
    def builders(self) -> Pool:
        """The processes that build; asking for them starts them in the background."""
        return Pool(self._num_builders, WorkerOptions("builder", str(self.store.folder)).entry)

    @cached_property
    def runners(self) -> Pool:
        """The processes that run programs, see `workers.runner.Runner`; asking for them starts them in the background.

        They take requests that name a workload once they have read its data.
        """
        flush_bytes = bytes_to_flush() if self.flushes_cache else 0
        # What empties the caches starts TVM's threads, which do not survive a fork.
        forks = not flush_bytes
        folder = str(self.store.folder)
        options = WorkerOptions("runner", folder, self.num_threads, self._memory_limit_bytes, flush_bytes, forks)
        return Pool(1, options.entry)

    def open_reference(self) -> Pool:
        """Returns a process that says what kernels must compute; who opens it ends it. See `ReferenceWorker`."""
        return Pool(1, WorkerOptions("reference", str(self.store.folder), self.num_threads).entry)

    @cached_property
    def store(self) -> Store:
        """The bytes that its processes share, by their keys."""
        return Store(self._scratch.new_folder())

    def new_folder(self) -> Path:
        """Returns a new folder on this machine for the caller's files; it is gone when the executor is closed."""
        return self._scratch.new_folder()

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """Returns the store's key for some bytes. Raises ReasoningCompilerError where they cannot be written."""
        try:
            return self.store.put(data, suffix=suffix)
        except OSError as error:
            raise no_space(error) from None

    def build(self, modules: Sequence[tuple[Any, str]], *, arguments: Sequence[Argument] | None = None) -> list[Built]:
        """Returns what became of each module.

        Args:
            modules: (scheduled IRModule, TVM target as JSON text) pairs.
            arguments: the arguments of every module's `main`; None to take them from the module, where the last is
                taken for the output.

        Raises:
            ReasoningCompilerError: the builders do not start, or temporary files cannot be written.
        """
        tvm = import_tvm()
        payloads = [
            {"module": tvm.ir.save_json(mod), "target": target, "arguments": arguments} for mod, target in modules
        ]
        built = [Built() for _ in payloads]
        requests = [Request("build", payload, self._build_timeout_secs) for payload in payloads]
        for index, answer in self.builders.map(requests):
            built[index] = self._built(answer)
        return built

    def _built(self, answer: Answer) -> Built:
        if not isinstance(answer, Failure):
            self.store.claim(answer["code"])
            return Built(Kernel(answer["code"], Signature.from_json(answer["signature"])), answer["build_secs"])
        if answer.kind == "crash":
            # "crash" is for programs that die when they run; this one never came to that.
            answer = replace(answer, kind="build", message=f"the compiler died: {answer.message}")
        return Built(failure=answer)

    def save(self, kernel: Kernel, *, linked: str | None = None) -> Path:
        """Returns the library of a kernel, in a new folder with its signature beside it.

        Args:
            kernel: what to write.
            linked: the key of the library that a device has linked of the kernel's object; that lies beside it then.

        Raises:
            ReasoningCompilerError: it cannot be written.
        """
        library = self.new_folder() / "kernel.so"
        try:
            library.with_suffix(Path(kernel.code).suffix).write_bytes(self.store.get(kernel.code))
            if linked is not None:
                library.write_bytes(self.store.get(linked))
            write_signature(library, kernel.signature)
        except OSError as error:
            raise no_space(error) from None
        return library

    def load(self, library: Path) -> Kernel:
        """Returns the kernel of a library that was saved, which the store holds until it is dropped.

        Raises:
            OSError: there is no such file.
            UsageError: it has no signature beside it.
        """
        object_file = library.with_suffix(".o")
        file = object_file if object_file.exists() else library
        return Kernel(self.put(file.read_bytes(), suffix=file.suffix), read_signature(library))

    def close(self) -> None:
        """Ends all processes and removes all temporary files. May be called again."""
        for pool in self._pools:
            pool.close()
        if "_scratch" in vars(self):
            self._scratch.close()

    @cached_property
    def _scratch(self) -> Scratch:
        return Scratch(self._scratch_dir)

    @property
    def _pools(self) -> list[Pool]:
        """The pools that have started, that of runners first."""
        return [vars(self)[name] for name in ("runners", "builders") if name in vars(self)]


def bytes_to_flush() -> int:
    """Returns how much memory must be read to empty this machine's caches: twice what they hold."""
    caches = read_cpu().caches
    return max(2 * (caches.l3_bytes + caches.l2_bytes), _LEAST_FLUSH_BYTES)

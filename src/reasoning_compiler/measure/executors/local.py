"""Building and running on this machine: builders at work together, then one program at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.pool import Pool, Preparation
from reasoning_compiler.core.processes.worker import Answer, Request
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.machine.cpu import read_cpu
from reasoning_compiler.measure.executors.protocol import Built, Kernel
from reasoning_compiler.measure.workers.scratch import Scratch, no_space
from reasoning_compiler.measure.workers.store import Store
from reasoning_compiler.measure.workers.worker import WorkerOptions

BUILD_TIMEOUT_SECS = 60.0
_LEAST_FLUSH_BYTES = 64 << 20


class LocalExecutor:
    """See `Executor`. A context manager. What it needs starts with its first use, or before on request.

    Args:
        num_threads: threads that a program may use.
        num_build_workers: processes that build; None for `num_threads`, or as many as there are cores.
        build_timeout_secs: the longest that a build may take.
        memory_limit_bytes: the most memory that the runner may take for data; None for most of what is free.
        flush_cache: whether each timing begins with cold caches.
        scratch_dir: where temporary files go; None for the system's temporary folder.
    """

    num_runners = 1

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
        """See `Executor`."""
        return [pid for pool in self._pools for pid in pool.pids]

    @property
    def notices(self) -> tuple[str, ...]:
        """See `Executor`; of this machine there is nothing to say."""
        return ()

    def start_builders(self) -> None:
        """See `Executor`."""
        _ = self._builders

    def start_runners(self) -> None:
        """See `Executor`."""
        _ = self._runners

    def new_folder(self) -> Path:
        """See `Executor`."""
        return self._scratch.new_folder()

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """See `Executor`."""
        try:
            return self.store.put(data, suffix=suffix)
        except OSError as error:
            raise no_space(error) from None

    def claim(self, key: str) -> None:
        """See `Executor`."""
        self.store.claim(key)

    def get(self, key: str) -> bytearray:
        """See `Executor`."""
        return self.store.get(key)

    def drop(self, key: str) -> None:
        """See `Executor`."""
        self.store.drop(key)

    def wait_for_builders(self) -> float:
        """See `Executor`."""
        started = time.perf_counter()
        self._builders.wait_until_ready()
        return time.perf_counter() - started

    def build(self, modules: Sequence[tuple[Any, str]], *, arguments: Sequence[Argument] | None = None) -> list[Built]:
        """See `Executor`."""
        tvm = import_tvm()
        known = None if arguments is None else [asdict(argument) for argument in arguments]
        requests = [
            Request(
                "build",
                {"module": tvm.ir.save_json(mod), "target": target, "arguments": known},
                self._build_timeout_secs,
            )
            for mod, target in modules
        ]
        built = [Built() for _ in requests]
        for index, answer in self._builders.map(requests):
            built[index] = self._built(answer)
        return built

    def _built(self, answer: Answer) -> Built:
        if not isinstance(answer, Failure):
            self.claim(answer["code"])
            return Built(Kernel(answer["code"], answer["signature"]), answer["build_secs"])
        if answer.kind == "crash":
            # "crash" is for programs that die when they run; this one never came to that.
            answer = replace(answer, kind="build", message=f"the compiler died: {answer.message}")
        return Built(failure=answer)

    def open_reference(self) -> Pool:
        """See `Executor`."""
        return Pool(1, WorkerOptions("reference", str(self.store.folder), self.num_threads).entry)

    def wait_for_runners(self, workload: Preparation | None) -> None:
        """See `Executor`."""
        self._runners.wait_until_ready(workload)

    def run(self, requests: Iterable[Request], workload: Preparation | None) -> Iterator[tuple[int, Answer]]:
        """See `Executor`."""
        return self._runners.map(requests, workload)

    def close(self) -> None:
        """See `Executor`."""
        for pool in self._pools:
            pool.close()
        if "_scratch" in vars(self):
            self._scratch.close()

    @cached_property
    def _scratch(self) -> Scratch:
        return Scratch(self._scratch_dir)

    @cached_property
    def store(self) -> Store:
        """What its processes share."""
        return Store(self._scratch.new_folder())

    @cached_property
    def _builders(self) -> Pool:
        return Pool(self._num_builders, WorkerOptions("builder", str(self.store.folder)).entry)

    @cached_property
    def _runners(self) -> Pool:
        flush_bytes = bytes_to_flush() if self.flushes_cache else 0
        # What empties the caches starts TVM's threads, which do not survive a fork.
        forks = not flush_bytes
        folder = str(self.store.folder)
        options = WorkerOptions("runner", folder, self.num_threads, self._memory_limit_bytes, flush_bytes, forks)
        return Pool(1, options.entry)

    @property
    def _pools(self) -> list[Pool]:
        """The pools that have started, that of runners first."""
        return [vars(self)[name] for name in ("_runners", "_builders") if name in vars(self)]


def bytes_to_flush() -> int:
    """Returns how much memory must be read to empty this machine's caches: twice what they hold."""
    caches = read_cpu().caches
    return max(2 * (caches.l3_bytes + caches.l2_bytes), _LEAST_FLUSH_BYTES)

"""The worker processes of measuring: builders make libraries, runners run them, references say what is right."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil

from reasoning_compiler.core.processes.fork_server import CAN_FORK, serve_in_forks
from reasoning_compiler.core.processes.serving import announce, limit, serve
from reasoning_compiler.core.processes.worker import Entry
from reasoning_compiler.machine.cgroup import memory_limit_bytes
from reasoning_compiler.machine.toolchain import use_threads
from reasoning_compiler.measure.workers.store import Store

# LLVM keeps some memory of every build: a builder that has grown by this much is replaced.
_MAX_BUILDER_GROWTH_BYTES = 1 << 30
# Of the memory that is free; so an allocation without end fails before the system has to choose whom to end.
_MEMORY_SHARE = 0.9
# Libraries that numpy may bring start threads of their own, one for each core; a worker has no use for any.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
# What TVM imports, where it is installed, and what its schedules need to tensorize: seconds for what no worker uses.
_UNUSED_MODULES = ("torch", "tvm.s_tir.tensor_intrin")


@dataclass(frozen=True)
class WorkerOptions:
    """What kind of worker a process becomes.

    Args:
        role: whether it builds libraries, runs them, or says what they must compute.
        store: the folder of the `Store` that it shares with its executor.
        num_threads: threads of TVM's pool in it, ≥ 1.
        memory_limit_bytes: the most memory that it may take for its data; None for most of what is free.
        flush_bytes: see `Runner`.
        forks: whether programs run in forks of it, where the system allows that.
    """

    role: Literal["builder", "runner", "reference"]
    store: str
    num_threads: int = 1
    memory_limit_bytes: int | None = None
    flush_bytes: int = 0
    forks: bool = False

    @property
    def entry(self) -> Entry:
        """What such a process calls."""
        return Entry(f"{__name__}:main", (asdict(self),), self.role, _ONE_THREAD, cwd="/")


def main(request_fd: int, reply_fd: int, options: dict[str, Any]) -> None:
    """Runs the worker."""
    sys.modules.update(dict.fromkeys(_UNUSED_MODULES))
    gc.disable()  # importing TVM makes hundreds of thousands of objects, and none of them is garbage
    chosen = WorkerOptions(**options)
    _limit_memory(chosen.memory_limit_bytes)
    use_threads(chosen.num_threads)
    store = Store(Path(chosen.store))
    if chosen.role == "builder":
        from reasoning_compiler.measure.workers.builder import Builder

        gc.enable()
        announce(reply_fd)
        actions, growth_bytes = Builder(store).actions, _MAX_BUILDER_GROWTH_BYTES
        serve(actions, request_fd=request_fd, reply_fd=reply_fd, max_growth_bytes=growth_bytes)
        return
    if chosen.role == "reference":
        from reasoning_compiler.measure.verification.reference_worker import ReferenceWorker

        gc.enable()
        announce(reply_fd)
        serve(ReferenceWorker(store).actions, request_fd=request_fd, reply_fd=reply_fd)
        return
    from reasoning_compiler.measure.workers.runner import Runner

    # Collections stay off: one in the middle of a timing is noise.
    forks = chosen.forks and CAN_FORK
    said = partial(limit, reply_fd), partial(announce, reply_fd)
    runner = Runner(store, *said, flush_bytes=chosen.flush_bytes, forks=forks)
    announce(reply_fd)
    if forks:
        may_fork, on_fork = (lambda: runner.prepared.may_fork), runner.prepared.renew_outputs
        serve_in_forks(runner.actions, request_fd=request_fd, reply_fd=reply_fd, may_fork=may_fork, on_fork=on_fork)
    else:
        serve(runner.actions, request_fd=request_fd, reply_fd=reply_fd)


def _limit_memory(num_bytes: int | None) -> None:
    with suppress(OSError):
        # Where memory runs out all the same, the system is to end the kernel under test and not the search.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if num_bytes is None:
        limits = (psutil.virtual_memory().available, memory_limit_bytes())
        num_bytes = int(_MEMORY_SHARE * min(limit for limit in limits if limit is not None))
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))

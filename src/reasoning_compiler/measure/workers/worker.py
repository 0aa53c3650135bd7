"""The worker process: takes requests from a pipe, does them one by one, and answers into another.

Started by pool.py as `python -m reasoning_compiler.measure.workers.worker REQUEST_FD REPLY_FD LIFELINE_FD OPTIONS`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from reasoning_compiler.core.parent_death import follow_the_parent
from reasoning_compiler.machine.cgroup import memory_limit_bytes
from reasoning_compiler.machine.toolchain import use_threads
from reasoning_compiler.measure.workers.fork_server import CAN_FORK, nurse
from reasoning_compiler.measure.workers.messages import send
from reasoning_compiler.measure.workers.serving import limit, serve

# LLVM keeps some memory of every build: a builder that has grown by this much is replaced.
_MAX_BUILDER_GROWTH_BYTES = 1 << 30
# Of the memory that is free; so an allocation without end fails before the system has to choose whom to end.
_MEMORY_SHARE = 0.9


def _limit_memory(num_bytes: int | None) -> None:
    with suppress(OSError):
        # Where memory runs out all the same, the system is to end the kernel under test and not the search.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if num_bytes is None:
        limits = (psutil.virtual_memory().available, memory_limit_bytes())
        num_bytes = int(_MEMORY_SHARE * min(limit for limit in limits if limit is not None))
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))


def main() -> None:
    """Runs the worker."""
    gc.disable()  # importing TVM makes hundreds of thousands of objects, and none of them is garbage
    request_fd, reply_fd, lifeline_fd = map(int, sys.argv[1:4])
    options = json.loads(sys.argv[4])
    for fd in (request_fd, reply_fd):
        os.set_inheritable(fd, False)
    follow_the_parent(lifeline_fd)
    _limit_memory(options["memory_limit_bytes"])
    use_threads(options["num_threads"])
    if options["role"] == "builder":
        from reasoning_compiler.measure.workers.builder import build

        gc.enable()
        send(reply_fd, {"pid": os.getpid()})
        growth_bytes = _MAX_BUILDER_GROWTH_BYTES
        serve({"build": build}, request_fd=request_fd, reply_fd=reply_fd, max_growth_bytes=growth_bytes)
        return
    from reasoning_compiler.measure.workers.runner import Runner

    # Collections stay off: one in the middle of a timing is noise.
    forks = options["forks"] and CAN_FORK
    runner = Runner(partial(limit, reply_fd), flush_bytes=options["flush_bytes"], forks=forks)
    if forks:
        nurse(
            runner.actions,
            request_fd=request_fd,
            reply_fd=reply_fd,
            may_fork=lambda: runner.may_fork,
            on_birth=runner.renew_outputs,
        )
        return
    send(reply_fd, {"pid": os.getpid()})
    serve(runner.actions, request_fd=request_fd, reply_fd=reply_fd)


if __name__ == "__main__":
    main()

"""A worker that forks: what takes long to start is done once, and a worker that died is back in milliseconds.

The process that the pool has started prepares data, starts no thread and runs no kernel. For the first request it forks
a child, which answers this one and all that follow until it dies; then comes the next child, with the same data in its
memory, which nobody has written to: pages that a child writes are its own.

    pool ── requests ──►  fork server  ── fork ──►  child
    pool  ◄─────────────────────────────  answers  ───┘

TVM's thread pool does not survive a fork, so only a child may start it.
"""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from reasoning_compiler.core.processes.child import follow_parent, kill_group
from reasoning_compiler.core.processes.messages import receive, send
from reasoning_compiler.core.processes.serving import PREPARE, Action, answer, serve

_NUMBER_BYTES = 8

CAN_FORK = sys.platform == "linux"
"""Whether a process that has loaded large libraries can go on in a fork; macOS' own do not allow it."""


def serve_in_forks(
    actions: dict[str, Action],
    *,
    request_fd: int,
    reply_fd: int,
    may_fork: Callable[[], bool] = lambda: True,
    on_fork: Callable[[], None] = lambda: None,
) -> None:
    """Answers requests until there are no more: `prepare` in this process, all others in a child.

    The pool ends the child before it asks for another preparation.

    Args:
        actions: see `serve`.
        request_fd: see `serve`.
        reply_fd: where answers go, and word of a child's start {"fork": pid} and death {"died": exit code as in
            `subprocess`, "over": number of the request that it had taken}.
        may_fork: tells, after a preparation, whether its data can be shared with a child; if not, all is done here.
        on_fork: is called in each child, first of all.
    """
    under_way = mmap.mmap(-1, _NUMBER_BYTES)  # shared with the children

    def note(number: int) -> None:
        under_way[:] = number.to_bytes(_NUMBER_BYTES, "little")

    def serve_in_child(first: dict[str, Any], death_fd: int) -> None:
        os.setpgid(0, 0)
        follow_parent(death_fd)
        note(first["number"])
        send(reply_fd, {"fork": os.getpid()})
        on_fork()
        serve(actions, request_fd=request_fd, reply_fd=reply_fd, first=first, on_request=note)

    while (request := receive(request_fd)) is not None:
        if request["action"] == PREPARE:
            send(reply_fd, answer(actions, request))
            continue
        if not may_fork():
            serve(actions, request_fd=request_fd, reply_fd=reply_fd, first=request)
            return
        death_fd, parent_fd = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(parent_fd)
            _call_and_exit(lambda first=request, fd=death_fd: serve_in_child(first, fd))
        os.close(death_fd)
        _, status = os.waitpid(child, 0)
        os.close(parent_fd)
        kill_group(child)  # what it has started
        over = int.from_bytes(under_way[:], "little")
        send(reply_fd, {"died": os.waitstatus_to_exitcode(status), "over": over})


def _call_and_exit(function: Callable[[], None]) -> None:
    """Calls a function in a forked child, and ends the child; does not return."""
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)

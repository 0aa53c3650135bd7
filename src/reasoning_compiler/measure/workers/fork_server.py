"""A worker that forks: what takes long to start is done once, and whoever dies of a request is born again in moments.

The process that the pool has started reads the workload, starts no thread and runs no kernel. For the first request it
forks a child, which answers this one and all that follow until it dies; then comes the next child, with the same data
in its memory, which nobody has written to: pages that a child writes are its own.

    pool ── requests ──►  the process  ── fork ──►  the child
    pool  ◄───────────────────────────  answers  ──────┘

TVM's thread pool does not live through a fork, so only a child may start it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from reasoning_compiler.measure.workers.messages import receive, send
from reasoning_compiler.measure.workers.serving import SET_UP, Action, answer, serve

_PR_SET_PDEATHSIG = 1
_NUMBER_BYTES = 8

CAN_FORK = sys.platform == "linux"
"""Whether a child can be made to end with its parent, as it must."""


def nurse(
    actions: dict[str, Action],
    *,
    request_fd: int,
    reply_fd: int,
    may_fork: Callable[[], bool] = lambda: True,
    on_birth: Callable[[], None] = lambda: None,
) -> None:
    """Answers requests until there are no more: `set_up` in this process, all others in a child.

    The pool ends the child before it asks for another set-up.

    Args:
        actions: see `serve`.
        request_fd: see `serve`.
        reply_fd: where answers go, and word of a child's birth {"child": pid} and death {"died": exit code as in
            `subprocess`, "over": number of the request that it had taken}.
        may_fork: tells, after a set-up, whether its data can be shared with a child; if not, all is done here.
        on_birth: is called in each child, first of all.
    """
    under_way = mmap.mmap(-1, _NUMBER_BYTES)  # shared with the children
    send(reply_fd, {"pid": os.getpid()})
    while (request := receive(request_fd)) is not None:
        if request["action"] == SET_UP:
            send(reply_fd, answer(actions, request))
            continue
        if not may_fork():
            serve(actions, request_fd=request_fd, reply_fd=reply_fd, first=request)
            return
        parent, child = os.getpid(), os.fork()
        if child == 0:
            _live(parent, request, actions, request_fd, reply_fd, under_way, on_birth)
        _, status = os.waitpid(child, 0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # what it has started
        over = int.from_bytes(under_way[:], "little")
        send(reply_fd, {"died": os.waitstatus_to_exitcode(status), "over": over})


def _live(
    parent: int,
    request: dict[str, Any],
    actions: dict[str, Action],
    request_fd: int,
    reply_fd: int,
    under_way: mmap.mmap,
    on_birth: Callable[[], None],
) -> None:
    """Spends a child's life, and does not return."""

    def note(number: int) -> None:
        under_way[:] = number.to_bytes(_NUMBER_BYTES, "little")

    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.setpgid(0, 0)
            note(request["number"])
            send(reply_fd, {"child": os.getpid()})
            on_birth()
            serve(actions, request_fd=request_fd, reply_fd=reply_fd, first=request, on_request=note)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)

"""Ending with the process that started us, however it ends: a pipe whose closing is the signal."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress


def follow_the_parent(lifeline_fd: int) -> None:
    """Makes the system end this process when the parent's end of the lifeline closes, however the parent ends.

    A process that waits would also see another pipe close, but a busy one may be deep in a kernel that never returns.
    SIGIO ends a process by default, and nobody writes into the lifeline, so closing is all it can tell. (Linux'
    PR_SET_PDEATHSIG would follow the parent's *thread*, and end us when a thread that started us returns.)

    Args:
        lifeline_fd: the end of a pipe that can be read; the parent holds the other.
    """
    os.set_inheritable(lifeline_fd, False)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if os.read(lifeline_fd, 1) == b"":
            sys.exit(0)  # the parent was gone before the signal was armed

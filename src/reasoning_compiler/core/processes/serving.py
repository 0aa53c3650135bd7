"""The worker's end: answering requests one by one, whatever they ask for."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasoning_compiler.core.processes.messages import receive, send
from reasoning_compiler.core.records import Record, plain, read_all
from reasoning_compiler.core.refused import Refused

_MESSAGE_CHARS = 500
_MAX_LEAKED_FDS = 64

PREPARE = "prepare"
"""The action that reads what later requests need; see `Preparation`."""

Action = Callable[..., dict[str, Any] | Record]
"""What a worker can be asked for: keyword arguments in, made of JSON by its annotations, an answer out."""


def serve(
    actions: dict[str, Action],
    *,
    request_fd: int,
    reply_fd: int,
    max_growth_bytes: int | None = None,
    first: dict[str, Any] | None = None,
    on_request: Callable[[int], None] = lambda number: None,
) -> None:
    """Answers requests until there are no more.

    Args:
        actions: what can be asked for, by name.
        request_fd: where requests come from.
        reply_fd: where answers go, each with the number of its request.
        max_growth_bytes: the process retires once it has grown by this much; None if it may grow.
        first: a request that has been received already.
        on_request: is called with the number of each request before it is looked at.
    """
    pid = os.getpid()
    fds_at_start, bytes_at_start = _num_fds(), _resident_bytes()
    request = first if first is not None else receive(request_fd)
    while request is not None:
        on_request(request["number"])
        reply = answer(actions, request)
        if os.getpid() != pid:
            os._exit(1)  # the kernel has forked, and this is not the worker
        grown = max_growth_bytes is not None and _resident_bytes() > bytes_at_start + max_growth_bytes
        if grown or _num_fds() > fds_at_start + _MAX_LEAKED_FDS:
            reply["retire"] = True
        send(reply_fd, reply)
        request = receive(request_fd)


def answer(actions: dict[str, Action], request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request, with its number."""
    try:
        action = actions[request["action"]]
        reply = plain(action(**read_all(action, request["payload"])))
    except Refused as refusal:
        failure = {"kind": refusal.kind, "message": str(refusal)[:_MESSAGE_CHARS]}
        reply = {"failure": failure, "retire": refusal.retire}
    return reply | {"number": request["number"]}


def announce(reply_fd: int, **facts: Any) -> None:
    """Tells the parent that this process has started, or something about it that holds while it lives.

    Args:
        reply_fd: where answers go.
        facts: what to tell; nothing for the start.
    """
    send(reply_fd, {"facts": facts} if facts else {"pid": os.getpid()})


def limit(reply_fd: int, secs: float | None, why: str = "", *, answer: dict[str, Any] | None = None) -> None:
    """Asks the parent to end this process in so many seconds from now; None to leave it at the request's timeout.

    Args:
        reply_fd: where answers go.
        secs: how long the next step may take.
        why: what the parent is to say then, of a failure.
        answer: what it is to take for the answer then; None where that is a failure.
    """
    send(reply_fd, {"limit_secs": secs, "why": why, "instead": answer})


def one_line(error: BaseException) -> str:
    """Returns what an exception says, in one line: the last, since TVM's messages begin with a backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) if len(lines) <= 3 else lines[-1]
    return f"{type(error).__name__}: {text}"[:_MESSAGE_CHARS] if text else type(error).__name__


def _num_fds() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return 0  # not Linux
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # all are taken, so there is none to count them with


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0

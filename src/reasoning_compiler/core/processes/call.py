"""Calling one function in a fresh Python process, which may crash or hang without harm to the caller."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.child import resolve
from reasoning_compiler.core.processes.messages import send
from reasoning_compiler.core.processes.worker import Entry, Worker, exchange


class ChildError(Exception):
    """The child process failed; the text says how: by which signal, after what time, or its last words."""


def call_in_child(function: str, *args: Any, timeout_secs: float) -> Any:
    """Returns what a function returns when a fresh Python process calls it.

    Args:
        function: its module and name, as in "package.module:function".
        args: values that JSON can carry, as must be the result.
        timeout_secs: the child is killed when it takes longer.

    Raises:
        ChildError: it raised, crashed, hung, or could not be started.
    """
    entry = Entry(f"{__name__}:_reply", (function, args))
    try:
        worker = Worker(entry, start_timeout_secs=timeout_secs)
    except OSError as error:
        raise ChildError(f"Python could not be started: {error}") from None
    try:
        while (outcome := worker.take_outcome()) is None:
            exchange([worker])
    finally:
        worker.kill()
    if isinstance(outcome, Failure):
        raise ChildError(outcome.message)
    if "error" in outcome:
        raise ChildError(outcome["error"])
    return outcome["result"]


def _reply(request_fd: int, reply_fd: int, function: str, args: list[Any]) -> None:
    try:
        reply = {"result": resolve(function)(*args)}
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0]}
    send(reply_fd, reply)

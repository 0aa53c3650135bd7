"""A worker as its parent sees it: a child process that answers requests, one at a time, or fails to.

    parent                  worker (serving.py)
    requests  ───────────►  JSON messages (messages.py)
    replies   ◄───────────

A worker may do its work in a fork of itself (fork_server.py). Then only the fork has to be replaced when it dies.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from reasoning_compiler.core.measurements import Failure, FailureKind
from reasoning_compiler.core.processes.child import Child, kill_group, read_some
from reasoning_compiler.core.processes.messages import Decoder, GarbledError, encode

Answer = dict[str, Any] | Failure
"""What becomes of a request: the worker's answer, or why there is none."""

_START_TIMEOUT_SECS = 120.0
_END_TIMEOUT_SECS = 10.0
# A worker's death closes its pipes, which wakes us, unless a process that it started holds them open.
_POLL_SECS = 0.2


@dataclass(frozen=True)
class Entry:
    """What a worker process calls.

    Args:
        function: its module and name, as in "package.module:function"; it is called with the descriptors of requests
            and replies, then with `args`.
        args: further values that JSON can carry.
        role: what kind of worker it is, for people.
        environment: variables that differ from ours.
        cwd: its working directory; None for ours.
    """

    function: str
    args: Sequence[Any] = ()
    role: str = "worker"
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True)
class Request:
    """Something for a worker to do.

    Args:
        action: the name of the worker's function.
        payload: its keyword arguments; anything that JSON and records can hold.
        timeout_secs: after this time the worker is killed and the request fails.
    """

    action: str
    payload: dict[str, Any]
    timeout_secs: float


class _Limit(NamedTuple):
    """When a worker must be done, and what is said, or taken for its answer, where it is not."""

    at: float  # of the monotonic clock
    why: str
    instead: dict[str, Any] | None = None


State = Literal["starting", "preparing", "idle", "busy", "ending"]
""""ending": its fork has been killed, and the worker has not noticed yet."""


class Worker:
    """One worker process, from its start to its death.

    Args:
        entry: what it calls.
        start_timeout_secs: the longest that it may take to start.
    """

    def __init__(self, entry: Entry, *, start_timeout_secs: float = _START_TIMEOUT_SECS) -> None:
        request_read, self._request_fd = os.pipe()
        self._reply_fd, reply_write = os.pipe()
        theirs = (request_read, reply_write)
        try:
            self._process = Child(
                entry.function, *theirs, *entry.args, fds=theirs, cwd=entry.cwd, environment=entry.environment
            )
        except OSError:
            os.close(self._request_fd)
            os.close(self._reply_fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self._request_fd, self._reply_fd):
            os.set_blocking(fd, False)
        self.state: State = "starting"
        self.prepared: frozenset[str] = frozenset()
        self.facts: dict[str, Any] = {}
        self.retires = False
        self.started_at = time.monotonic()
        self._outcome: Answer | None = None
        self._unsent = b""
        self._number = 0  # of the last request
        self._fork: int | None = None  # its process id
        self._decoder = Decoder()
        self._is_closed = False
        self._allow(start_timeout_secs)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_fork(self) -> bool:
        """Whether it does its work in a fork of itself, which can be ended alone."""
        return self._fork is not None

    @property
    def is_dead(self) -> bool:
        return self._process.poll() is not None

    def begin(self, request: Request, *, state: State = "busy") -> None:
        """Hands the worker a request; `take_outcome` has the answer once there is one."""
        self.state = state
        self._process.tail = b""
        self._number += 1
        self._unsent = encode({"action": request.action, "payload": request.payload, "number": self._number})
        self._allow(request.timeout_secs)

    def take_outcome(self) -> Answer | None:
        """Returns what the request, or the start, has come to, and makes the worker idle; None while it goes on."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None and self.state != "ending":
            self.state = "idle"
        return outcome

    def end_fork(self) -> None:
        """Ends the fork; the worker is idle again when it has said so."""
        assert self._fork is not None
        kill_group(self._fork)
        self.state, self._fork, self.retires = "ending", None, False
        self._allow(_END_TIMEOUT_SECS)

    def give_up(self) -> None:
        """Ends the process because nobody wants its answer any more."""
        self.kill()
        self.state = "idle"

    def kill(self) -> None:
        """Ends the process and whatever it started. May be called again."""
        if self._is_closed:
            return
        self._is_closed = self.retires = True
        if self._fork is not None:
            kill_group(self._fork)
        self._fork = None
        self._process.kill()
        os.close(self._request_fd)
        os.close(self._reply_fd)

    # -- what happens to it -----------------------------------------------------------------------------------------

    def _send_more(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            self._unsent = self._unsent[os.write(self._request_fd, self._unsent) :]

    def _read_reply(self) -> None:
        try:
            messages = self._decoder.feed(read_some(self._reply_fd))
        except GarbledError as error:
            self._die("crash", f"its answer was garbled: {error}")
            return
        for message in messages:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "fork" in message:
            self._fork = message["fork"]
        elif "died" in message:
            self._take_death(message["died"], over=message["over"])
        elif self.state == "ending":
            return  # it comes too late
        elif "limit_secs" in message:
            self._limit = self._limit_from(message)
        elif "facts" in message:
            self.facts |= message["facts"]
        elif message.pop("number", self._number) == self._number:
            self.retires |= message.pop("retire", False)
            self.prepared = frozenset(message.pop("prepared", self.prepared))
            failure = message.get("failure")
            self._outcome = Failure(**failure) if failure else message

    def _look_for_death(self) -> None:
        """Notes a failure where the process has ended without an answer, or has run out of time."""
        if self._outcome is not None:
            return
        code = self._process.poll()
        is_late = time.monotonic() >= self._limit.at
        if self.state == "ending":
            if code is not None or is_late:
                self.give_up()
        elif code is not None:
            self._read_reply()
            if self._outcome is None:
                self._die("crash", self._process.describe_exit(code))
        elif is_late:
            _, why, instead = self._limit
            if self.has_fork:
                self.end_fork()
            else:
                self.kill()
            self._outcome = Failure("timeout", why) if instead is None else instead

    def _allow(self, secs: float) -> None:
        """Sets the time by which the worker must be done, and what is said where it is not."""
        self._request_limit = self._limit = _Limit(time.monotonic() + secs, f"no answer within {secs:.3g} s")

    def _limit_from(self, message: dict[str, Any]) -> _Limit:
        """Returns the limit that the worker asks for its present step: never a later one than the request's own."""
        if message["limit_secs"] is None:
            return self._request_limit
        own = _Limit(time.monotonic() + message["limit_secs"], message["why"], message["instead"])
        return min(self._request_limit, own, key=lambda limit: limit.at)

    def _take_death(self, code: int, *, over: int) -> None:
        """Takes note that the fork has died, and that the request that it had taken will not be answered."""
        self._fork = None
        if self.state == "ending":
            self.state = "idle"
        elif over == self._number and self._outcome is None:
            self._outcome = Failure("crash", self._process.describe_exit(code))

    def _die(self, kind: FailureKind, message: str) -> None:
        self._outcome = Failure(kind, message)
        self.kill()


def exchange(workers: Sequence[Worker]) -> None:
    """Waits until one of these workers answers, prints, dies or runs out of time, and takes note of it."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker._reply_fd, selectors.EVENT_READ, worker._read_reply)
            selector.register(worker._process.output_fd, selectors.EVENT_READ, worker._process.read_output)
            if worker._unsent:
                selector.register(worker._request_fd, selectors.EVENT_WRITE, worker._send_more)
        until = min((worker._limit.at for worker in workers), default=float("inf"))
        for key, _ in selector.select(max(0.0, min(until - time.monotonic(), _POLL_SECS))):
            key.data()
    for worker in workers:
        worker._look_for_death()

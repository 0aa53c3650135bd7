"""Worker processes that live long and may die: each request still gets an answer or a failure.

A worker is `python -m reasoning_compiler.measure.workers.worker`, never a fork of ours: that would copy our threads'
locks. It is its own session, so Ctrl-C reaches only us, and it ends when we end, however we end (see
lifeline.py). A runner does its work in a child, which is all that has to be replaced when it dies (see nursery.py).

    ours                    worker
    requests  ───────────►  fd      JSON messages (messages.py)
    replies   ◄───────────  fd
    lifeline  ───────────►  fd      nothing is ever written; its closing is the signal
    output    ◄───────────  1, 2    what it prints: forgotten but for the last bytes, so it cannot flood us
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import reasoning_compiler.measure
from reasoning_compiler.core.errors import ReasoningCompilerError
from reasoning_compiler.core.measurements import Failure, FailureKind
from reasoning_compiler.measure.workers.messages import Decoder, GarbledError, encode

_START_TIMEOUT_SECS = 120.0
_END_TIMEOUT_SECS = 10.0
_MAX_START_FAILURES = 3
# A worker's death closes its pipes, which wakes us, unless a process that it started holds them open.
_LOOK_AGAIN_SECS = 0.2
_TAIL_BYTES = 2000
_READ_BYTES = 1 << 16
# Libraries that numpy may bring start threads of their own, one for each core; a worker has no use for any.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


@dataclass(frozen=True)
class WorkerOptions:
    """What kind of worker a process becomes.

    Args:
        role: whether it builds libraries or runs them.
        num_threads: threads of TVM's pool in it, ≥ 1.
        memory_limit_bytes: the most memory that it may take for its data; None for most of what is free.
        flush_bytes: see `Runner`.
        forks: whether all but the set-up is done in a child, where the system has what that takes.
    """

    role: Literal["builder", "runner"]
    num_threads: int = 1
    memory_limit_bytes: int | None = None
    flush_bytes: int = 0
    forks: bool = False


@dataclass(frozen=True)
class Request:
    """Something for a worker to do.

    Args:
        action: the name of the worker's function.
        payload: its keyword arguments; anything that JSON can hold.
        timeout_secs: after this time the worker is killed and the request fails.
    """

    action: str
    payload: dict[str, Any]
    timeout_secs: float


class Pool:
    """Workers of one kind, started at once and in the background.

    Args:
        num_workers: processes, ≥ 1.
        options: what they are.
    """

    def __init__(self, num_workers: int, options: WorkerOptions) -> None:
        self._options = options
        self._set_up: Request | None = None
        self._start_failures = 0
        self._workers = [_Worker(options) for _ in range(num_workers)]

    @property
    def pids(self) -> list[int]:
        """The process ids of the present workers."""
        return [worker.process.pid for worker in self._workers]

    def set_up(self, request: Request) -> None:
        """Makes every worker, and every later one that replaces it, do `request` before anything else.

        Raises:
            ReasoningCompilerError: a worker cannot do it.
        """
        self._set_up = request
        for worker in self._workers:
            worker.is_set_up = False
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Returns once every worker can take a request.

        Raises:
            ReasoningCompilerError: workers do not start.
        """
        self._replace_the_dead()
        while not all(worker.is_free for worker in self._workers):
            for _ in self._step():
                pass

    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, dict[str, Any] | Failure]]:
        """Yields (index, answer or failure) of each request, as they come.

        A worker that dies or does not answer in time is replaced; so is, at the next request, one whose request
        is given up because the caller stops iterating.

        Raises:
            ReasoningCompilerError: workers do not start.
        """
        waiting = deque(enumerate(requests))
        running: dict[_Worker, int] = {}
        try:
            while waiting or running:
                self._replace_the_dead()
                for worker in self._workers:
                    if waiting and worker.is_free:
                        index, request = waiting.popleft()
                        running[worker] = index
                        worker.begin(request)
                for worker, outcome in self._step():
                    yield running.pop(worker), outcome
        finally:
            for worker in running:
                worker.give_up()

    def ask(self, request: Request) -> dict[str, Any] | Failure:
        """Returns the answer to one request, or its failure."""
        ((_, outcome),) = self.map([request])
        return outcome

    def close(self) -> None:
        """Ends all workers. May be called again."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _step(self) -> Iterator[tuple[_Worker, dict[str, Any] | Failure]]:
        """Waits until something happens, and yields the outcome of every request that has ended."""
        for worker in self._workers:
            if worker.state == "idle" and not worker.is_set_up and self._set_up is not None:
                if worker.has_child:
                    worker.end_child()
                else:
                    worker.begin(self._set_up, state="setting up")
            elif worker.state == "idle":
                worker.is_set_up = True
        _exchange([worker for worker in self._workers if worker.state != "idle"])
        for i, worker in enumerate(self._workers):
            state, outcome = worker.state, worker.take_outcome()
            if outcome is None:
                continue
            failed = isinstance(outcome, Failure)
            if worker.retires:
                self._renew(i)
            if state in ("busy", "ending"):
                yield worker, outcome
            elif failed:
                self._note_start_failure(state, outcome)
            else:
                worker.is_set_up = state == "setting up"
                if worker.is_set_up or self._set_up is None:
                    self._start_failures = 0

    def _replace_the_dead(self) -> None:
        """Replaces workers that have died between two requests, which costs nobody anything."""
        for i, worker in enumerate(self._workers):
            if worker.state == "idle" and worker.process.poll() is not None:
                self._replace(i)

    def _renew(self, i: int) -> None:
        """Puts something fresh in the place of a worker that may be damaged: of its child only, where it has one."""
        if self._workers[i].has_child:
            self._workers[i].end_child()
        else:
            self._replace(i)

    def _replace(self, i: int) -> None:
        self._workers[i].kill()
        self._workers[i] = _Worker(self._options)

    def _note_start_failure(self, state: str, failure: Failure) -> None:
        self._start_failures += 1
        if self._start_failures >= _MAX_START_FAILURES:
            raise ReasoningCompilerError(
                f"the {self._options.role} process failed {state} ({failure.kind}: {failure.message}): "
                "run `reasonc doctor` to see what is wrong with this installation"
            )


class _Limit(NamedTuple):
    """When a worker must be done, and what is said or taken for its answer where it is not."""

    at: float  # of the monotonic clock
    why: str
    instead: dict[str, Any] | None = None


State = Literal["starting", "setting up", "idle", "busy", "ending"]  # "ending": its child


@dataclass(eq=False)
class _Worker:
    """One worker process, from its start to its death."""

    options: WorkerOptions
    state: State = "starting"
    is_set_up: bool = False
    retires: bool = False
    _outcome: dict[str, Any] | Failure | None = None
    _unsent: bytes = b""
    _tail: bytes = b""
    _number: int = 0  # of the last request
    _child: int | None = None  # its process id
    _decoder: Decoder = field(default_factory=Decoder)

    def __post_init__(self) -> None:
        request_read, self.request_fd = os.pipe()
        self.reply_fd, reply_write = os.pipe()
        lifeline_read, self._lifeline_fd = os.pipe()
        self.output_fd, output_write = os.pipe()
        theirs = (request_read, reply_write, lifeline_read)
        command = [sys.executable, "-m", "reasoning_compiler.measure.workers.worker", *map(str, theirs)]
        self.process = subprocess.Popen(
            [*command, json.dumps(asdict(self.options))],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            pass_fds=theirs,
            start_new_session=True,
            cwd="/",  # Python looks for modules in the present folder first, and the user's may have any name
            env={**os.environ, "PYTHONPATH": _python_path(), **_ONE_THREAD},
        )
        for fd in (*theirs, output_write):
            os.close(fd)
        for fd in (self.request_fd, self.reply_fd, self.output_fd):
            os.set_blocking(fd, False)
        self._allow(_START_TIMEOUT_SECS)

    @property
    def is_free(self) -> bool:
        return self.state == "idle" and self.is_set_up

    @property
    def has_child(self) -> bool:
        return self._child is not None

    @property
    def wants_to_send(self) -> bool:
        return bool(self._unsent)

    @property
    def secs_left(self) -> float:
        return self._limit.at - time.monotonic()

    def begin(self, request: Request, *, state: State = "busy") -> None:
        """Hands the worker a request; `take_outcome` has the answer once there is one."""
        self.state = state
        self._tail = b""
        self._number += 1
        self._unsent = encode({"action": request.action, "payload": request.payload, "number": self._number})
        self._allow(request.timeout_secs)

    def take_outcome(self) -> dict[str, Any] | Failure | None:
        """Returns what the request has come to and makes the worker idle; None while it is not done."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None and self.state != "ending":
            self.state = "idle"
        return outcome

    def send_more(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            self._unsent = self._unsent[os.write(self.request_fd, self._unsent) :]

    def read_output(self) -> None:
        self._tail = (self._tail + _read_some(self.output_fd))[-_TAIL_BYTES:]

    def read_reply(self) -> None:
        try:
            messages = self._decoder.feed(_read_some(self.reply_fd))
        except GarbledError as error:
            self._die("crash", f"its answer was garbled: {error}")
            return
        for message in messages:
            if "child" in message:
                self._child = message["child"]
            elif "died" in message:
                self._take_death(message["died"], over=message["over"])
            elif self.state == "ending":
                continue  # it comes too late
            elif "limit_secs" in message:
                self._limit = self._limit_from(message)
            elif message.pop("number", self._number) == self._number:
                self.retires |= message.pop("retire", False)
                failure = message.get("failure")
                self._outcome = Failure(**failure) if failure else message

    def look_for_death(self) -> None:
        """Notes a failure where the process has ended without an answer, or has run out of time."""
        if self._outcome is not None:
            return
        code = self.process.poll()
        if self.state == "ending" and (code is not None or self.secs_left <= 0):
            self.give_up()
            return
        if code is not None:
            self.read_reply()
            self.read_output()
            if self._outcome is None:
                self._die("crash", _describe_exit(code, self._tail))
        elif self.secs_left <= 0:
            _, why, instead = self._limit
            if self.has_child:
                self.end_child()
            else:
                self.kill()
            self._outcome = Failure("timeout", why) if instead is None else instead

    def end_child(self) -> None:
        """Ends the child; the worker can do something else when it has said so."""
        assert self._child is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        self.state, self._child, self.retires = "ending", None, False
        self._allow(_END_TIMEOUT_SECS)

    def give_up(self) -> None:
        """Ends the process because nobody wants its answer any more."""
        self.kill()
        self.state = "idle"

    def kill(self) -> None:
        """Ends the process and whatever it started, and gives its descriptors back. May be called again."""
        if self._lifeline_fd < 0:
            return
        self.retires = True
        for group in (self.process.pid, self._child):
            if group is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
        self._child = None
        self.process.wait()
        for name in ("request_fd", "reply_fd", "output_fd", "_lifeline_fd"):
            os.close(getattr(self, name))
            setattr(self, name, -1)

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
        """Takes note that the child has died, and that the request that it had taken will not be answered."""
        self._child = None
        if self.state == "ending":
            self.state = "idle"
        elif over == self._number and self._outcome is None:
            self.read_output()
            self._outcome = Failure("crash", _describe_exit(code, self._tail))

    def _die(self, kind: FailureKind, message: str) -> None:
        self._outcome = Failure(kind, message)
        self.kill()


def _exchange(workers: list[_Worker]) -> None:
    """Waits until a worker answers, prints, dies or runs out of time, and takes note of it."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.reply_fd, selectors.EVENT_READ, worker.read_reply)
            selector.register(worker.output_fd, selectors.EVENT_READ, worker.read_output)
            if worker.wants_to_send:
                selector.register(worker.request_fd, selectors.EVENT_WRITE, worker.send_more)
        secs = min((worker.secs_left for worker in workers), default=0.0)
        for key, _ in selector.select(max(0.0, min(secs, _LOOK_AGAIN_SECS))):
            key.data()
    for worker in workers:
        worker.look_for_death()


def _python_path() -> str:
    """Returns where a worker finds this package, however this process has found it."""
    own = str(Path(reasoning_compiler.measure.__file__).parents[2])
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join([own, *map(os.path.abspath, given)])


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except (BlockingIOError, OSError):
        return b""


def _describe_exit(code: int, tail: bytes) -> str:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("File ")]  # TVM's backtrace names no source
    return f"{how}: {lines[-1][:200]}" if lines else how

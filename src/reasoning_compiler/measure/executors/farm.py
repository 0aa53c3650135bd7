"""A pool of devices: as workers/pool.py, but each worker process holds a session with a device of TVM's tracker.

    ours                      ours, may die                 the device
    Farm ── a Seat (thread) ── worker (measure/workers/worker.py) ── server's session
                               every call that may hang      what runs programs

A seat takes a request only while it holds a device. A device that is lost costs nobody anything: the request goes to
another seat, and the seat looks for a device until the farm is closed, so one that comes back is used again. Which of
the two was at fault when a session ends, the device or the program, is told by whether the device still answers.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from reasoning_compiler.core.errors import DeviceError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.executors.tracker import Address, Devices
from reasoning_compiler.measure.workers.pool import Pool, Request, WorkerOptions

PATIENCE_SECS = 60.0
"""How long to wait for a device when there is none left."""

_SET_UP_SECS = 600.0  # a workload's data may be large and the network slow
# A server ends a session after this time, whatever is being run: on TVM's own server nothing else frees a device from
# a program that hangs. It is renewed early enough for the longest request.
_SESSION_SECS = 1800.0
_RENEW_SECS = 1000.0
_LOOK_AGAIN_SECS = 1.0
_MAX_TRIES = 3


class Farm:
    """The devices behind a tracker, each a worker that takes one request at a time.

    Args:
        devices: which.
        num_threads: threads that a program may use there.

    Raises:
        DeviceError: there is no such device.
    """

    def __init__(self, devices: Devices, num_threads: int) -> None:
        self.devices = devices
        self.num_threads = num_threads
        self.changed = threading.Condition()
        self.closing = False
        self.set_up_request: Request | None = None
        self._rounds: list[_Round] = []  # one may begin while another is still iterated over
        self._notices: list[str] = []
        self._lost: set[Address] = set()
        self._known: set[Address] = set()
        self._error: Exception | None = None
        self._seats = [_Seat(self, number) for number in range(devices.count())]
        for seat in self._seats:
            seat.start()

    @property
    def num_seats(self) -> int:
        """How many devices may be at work at once."""
        return len(self._seats)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [pid for seat in self._seats for pid in seat.pids]

    @property
    def notices(self) -> tuple[str, ...]:
        """Which devices came and which were lost, a line each."""
        with self.changed:
            return tuple(self._notices)

    def set_up(self, request: Request) -> None:
        """Makes every device do `request` before anything else."""
        with self.changed:
            self.set_up_request = replace(request, timeout_secs=_SET_UP_SECS)
            self.changed.notify_all()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Returns once a device can take a request. Raises DeviceError where none can for a while."""
        self._wait(lambda: any(seat.holds_device for seat in self._seats))

    def map(self, requests: Iterable[Request]) -> Iterator[tuple[int, dict[str, Any] | Failure]]:
        """Yields (index, answer or failure) of each request, as they come; each is taken when a device is free for it.

        Raises:
            DeviceError: all devices are gone for a while.
        """
        work = _Round(enumerate(requests))
        with self.changed:
            self._rounds.append(work)
            self.changed.notify_all()
        try:
            while True:
                self._wait(lambda: bool(work.outcomes) or work.is_done)
                with self.changed:
                    if not work.outcomes:
                        return
                    outcome = work.outcomes.popleft()
                yield outcome
        finally:
            with self.changed:
                self._rounds.remove(work)
            for seat in self._seats:
                seat.give_up(work)

    def ask(self, request: Request) -> dict[str, Any] | Failure:
        """Returns the answer to one request, or its failure. Raises DeviceError as `map`."""
        ((_, outcome),) = self.map([request])
        return outcome

    def close(self) -> None:
        """Ends all sessions and workers. May be called again."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for seat in self._seats:
            seat.end()

    # -- for the seats ----------------------------------------------------------------------------------------------

    def take(self, *, version: Request | None, until: float) -> _Job | None:
        """Returns something to do, waiting for it; None where the set-up is no longer `version`, or we close.

        Args:
            version: the set-up that the device has done.
            until: the time of the monotonic clock when its session must be renewed: None is returned then.
        """
        with self.changed:
            while not self.closing and self.set_up_request is version:
                for work in reversed(self._rounds):
                    job = work.take()
                    if job is not None:
                        return job
                if not self.changed.wait(until - time.monotonic()):
                    return None
        return None

    def finish(self, job: _Job, outcome: dict[str, Any] | Failure) -> None:
        """Takes the outcome of a job."""
        with self.changed:
            job.work.finish(job, outcome)
            self.changed.notify_all()

    def give_back(self, job: _Job, device: Address, why: str) -> None:
        """Takes a job back whose device was lost, for another; after some tries it has failed."""
        self.note_lost(device, why)
        with self.changed:
            job.tries += 1
            if job.tries < _MAX_TRIES:
                job.work.again.append(job)
            else:
                why = f"{job.tries} devices were lost while it ran, the last with: {why}"
                job.work.finish(job, Failure("device", why))
            self.changed.notify_all()

    def note_seated(self, device: Address) -> None:
        """Tells the user of a device that is new, or back."""
        with self.changed:
            if device in self._lost:
                self._notices.append(f"the device {device} is back")
            elif device not in self._known:
                self._notices.append(f"measuring on the device {device}")
            self._lost.discard(device)
            self._known.add(device)
            self.changed.notify_all()

    def note_lost(self, device: Address, why: str) -> None:
        """Tells the user, once, of a device that cannot be used."""
        with self.changed:
            if device not in self._lost:
                self._notices.append(f"the device {device} is lost and goes unused until it is back: {why}")
            self._lost.add(device)

    def note_error(self, error: Exception) -> None:
        """Takes an error that ends everything; `map` raises it."""
        with self.changed:
            self._error = error
            self.changed.notify_all()

    def pause(self) -> None:
        """Waits a moment, less where we close."""
        with self.changed:
            if not self.closing:
                self.changed.wait(_LOOK_AGAIN_SECS)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        """Waits until something is so. Raises DeviceError where there has been no device for a while."""
        last_held = time.monotonic()
        with self.changed:
            while not is_so():
                if self._error is not None:
                    raise self._error
                if any(seat.is_alive_with_device for seat in self._seats):
                    last_held = time.monotonic()
                elif time.monotonic() - last_held > PATIENCE_SECS:
                    raise self._all_gone()
                self.changed.wait(_LOOK_AGAIN_SECS)

    def _all_gone(self) -> DeviceError:
        said = f"; {self._notices[-1]}" if self._notices else ", they are busy or do not answer"
        return DeviceError(
            f"for {PATIENCE_SECS:.0f} s no device could be had as `{self.devices.key}` from the tracker "
            f"{self.devices.tracker}{said}; start one with `reasonc device serve`, then go on with `reasonc resume`"
        )


@dataclass(eq=False)
class _Job:
    """A request that a device is to answer, and how often one was lost over it."""

    work: _Round
    index: int
    request: Request
    tries: int = 0


class _Round:
    """The requests of one `map`, from the first that is taken to the last outcome."""

    def __init__(self, requests: Iterator[tuple[int, Request]]) -> None:
        self._requests = requests
        self._num_running = 0
        self._has_more = True
        self.again: deque[_Job] = deque()
        self.outcomes: deque[tuple[int, dict[str, Any] | Failure]] = deque()

    @property
    def is_done(self) -> bool:
        return not self._has_more and not self.again and not self._num_running

    def take(self) -> _Job | None:
        if self.again:
            return self.again.popleft()
        following = next(self._requests, None)
        if following is None:
            self._has_more = False
            return None
        self._num_running += 1
        return _Job(self, *following)

    def finish(self, job: _Job, outcome: dict[str, Any] | Failure) -> None:
        self._num_running -= 1
        self.outcomes.append((job.index, outcome))


class _Seat(threading.Thread):
    """One worker process, the device that it holds, and the thread that hands it requests."""

    def __init__(self, farm: Farm, number: int) -> None:
        super().__init__(name=f"device seat {number}", daemon=True)
        self._farm = farm
        self._pool: Pool | None = None
        self._device: Address | None = None
        self._worker: list[int] = []  # the process that holds the session
        self._version: Request | None = None  # the set-up that it has done
        self._renew_at = 0.0
        self._job: _Job | None = None
        self.is_alive_with_device = False

    @property
    def pids(self) -> list[int]:
        return self._pool.pids if self._pool is not None else []

    @property
    def holds_device(self) -> bool:
        """Whether it could take a request now."""
        return self.is_alive_with_device and self._version is self._farm.set_up_request

    def run(self) -> None:
        """Serves the farm until it is closed."""
        self._pool = Pool(1, WorkerOptions("runner"))
        try:
            while not self._farm.closing:
                if self._farm.set_up_request is None or not self._sit_down():
                    self._farm.pause()
                    continue
                job = self._farm.take(version=self._version, until=self._renew_at)
                if job is not None:
                    self._do(job)
        except Exception as error:  # the worker does not start, or a fault of ours: whoever waits is to know
            if not self._farm.closing:
                self._farm.note_error(error)
        finally:
            self.is_alive_with_device = False
            self._pool.close()

    def give_up(self, work: _Round) -> None:
        """Ends the worker where it is at work for a caller who has gone."""
        if self._job is not None and self._job.work is work:
            self._kill()

    def end(self) -> None:
        """Ends the thread and its worker."""
        while self.is_alive():
            self._kill()
            self.join(0.1)

    def _kill(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _sit_down(self) -> bool:
        """Returns whether we hold a device that has done the present set-up, after trying for one."""
        assert self._pool is not None
        lease = None
        request = version = self._farm.set_up_request
        assert version is not None and request is not None
        if self._device is None or self._pool.pids != self._worker or time.monotonic() >= self._renew_at:
            self._leave()
            self._pool.wait_until_ready()  # a device waits for its client for a few seconds only
            try:
                lease = self._farm.devices.lease()
            except DeviceError:
                return False  # a tracker may come back too
            if lease is None:
                return False
            self._device = lease.device
            described = {
                "host": lease.device.host,
                "port": lease.device.port,
                "match_key": lease.match_key,
                "session_secs": _SESSION_SECS,
                "num_threads": self._farm.num_threads,
            }
            request = replace(version, payload=version.payload | {"device": described})
            self._renew_at = time.monotonic() + _RENEW_SECS
        elif self._version is version:
            return True
        self.is_alive_with_device = True
        outcome = None
        try:
            outcome = self._pool.ask(request)
        finally:
            if lease is not None and not isinstance(outcome, dict):
                lease.hand_back()
        if isinstance(outcome, Failure):
            if not self._farm.closing:
                self._farm.note_lost(self._device, outcome.message)
            self._leave()
            return False
        self._worker, self._version = self._pool.pids, version
        self._farm.note_seated(self._device)
        return True

    def _leave(self) -> None:
        """Ends the session, where there is one."""
        if self._device is not None and self.pids == self._worker:
            self._kill()
        self._device, self._version, self.is_alive_with_device = None, None, False

    def _do(self, job: _Job) -> None:
        assert self._pool is not None and self._device is not None
        self._job = job
        outcome = self._pool.ask(job.request)
        self._job = None
        doubtful = isinstance(outcome, Failure) and outcome.kind in ("crash", "timeout", "device")
        if doubtful and not self._farm.closing and (outcome.kind == "device" or not self._device.answers()):
            self._farm.give_back(job, self._device, outcome.message)
            self._leave()
            return
        if self._pool.pids != self._worker:
            self._leave()
        self._farm.finish(job, outcome)

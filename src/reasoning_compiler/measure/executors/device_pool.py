"""A pool whose workers hold a session with a device of TVM's tracker each.

    ours          ours, may die                               the device
    DevicePool ── worker (measure/workers/worker.py) ──────── server's session
                  takes a device when it prepares,            what runs programs
                  and makes every call that may hang

When a device is lost, its request goes to another one, and its worker looks for a device as long as there is work: one
that comes back is used again. When a session ends early, the device is at fault if it no longer answers, else the
program.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reasoning_compiler.core.errors import DeviceError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.pool import Job, Pool, Preparation
from reasoning_compiler.core.processes.worker import Answer, Entry, Request, Worker
from reasoning_compiler.measure.executors.tracker import Address, Devices

PATIENCE_SECS = 60.0
"""How long to wait for a device when there is none left."""

_PREPARE_SECS = 600.0  # a workload's data may be large and the network slow
# A server ends a session after this time, whatever is being run: on TVM's own server nothing else frees a device from
# a program that hangs. A worker is renewed early enough for the longest request.
_SESSION_SECS = 1800.0
_RENEW_SECS = 1000.0
_RETRY_SECS = 1.0
_MAX_TRIES = 3


class DevicePool(Pool):
    """See `Pool`.

    Args:
        devices: which.
        num_workers: how many may be at work at once.
        entry: what the workers call; they are runners.
        num_threads: threads that a program may use on a device.
    """

    def __init__(self, devices: Devices, num_workers: int, entry: Entry, *, num_threads: int) -> None:
        super().__init__(num_workers, entry)
        self.notices: list[str] = []
        self._devices = devices
        self._how = {
            "tracker": str(devices.tracker),
            "key": devices.key,
            "session_secs": _SESSION_SECS,
            "num_threads": num_threads,
        }
        self._retry_at: dict[Worker, float] = {}
        self._lost: set[str] = set()
        self._known: set[str] = set()
        self._held_at = 0.0

    def wait_until_ready(self, needs: Preparation | None = None) -> None:
        """Returns once a device can take a request. Raises DeviceError where none can for a while."""
        self._held_at = time.monotonic()
        while True:
            self._replace_the_spent()
            if any([worker.state == "busy" or self._is_ready(worker, needs) for worker in self._workers]):
                return
            self._step()

    def map(self, requests: Iterable[Request], needs: Preparation | None = None) -> Iterator[tuple[int, Answer]]:
        """See `Pool`. Raises DeviceError where all devices are gone for a while."""
        self._held_at = time.monotonic()
        return super().map(requests, needs)

    def _step(self) -> None:
        super()._step()
        if any("device" in worker.facts for worker in self._workers):
            self._held_at = time.monotonic()
        elif time.monotonic() - self._held_at > PATIENCE_SECS:
            said = f"; {self.notices[-1]}" if self.notices else ", they are busy or do not answer"
            raise DeviceError(
                f"for {PATIENCE_SECS:.0f} s no device could be had as `{self._devices.key}` from the tracker "
                f"{self._devices.tracker}{said}; start one with `reasonc device serve`, then go on with "
                "`reasonc resume`"
            )

    def _can_work(self, worker: Worker) -> bool:
        return time.monotonic() >= self._retry_at.get(worker, 0.0)

    def _is_spent(self, worker: Worker) -> bool:
        is_old = "device" in worker.facts and time.monotonic() - worker.started_at > _RENEW_SECS
        return is_old or super()._is_spent(worker)

    def _prepare(self, worker: Worker, needs: Preparation) -> None:
        payload = needs.request.payload | {"devices": self._how}
        worker.begin(replace(needs.request, payload=payload, timeout_secs=_PREPARE_SECS), state="preparing")

    def _note_prepared(self, worker: Worker) -> None:
        device = worker.facts["device"]
        if device in self._lost:
            self.notices.append(f"the device {device} is back")
        elif device not in self._known:
            self.notices.append(f"measuring on the device {device}")
        self._lost.discard(device)
        self._known.add(device)

    def _note_unprepared(self, worker: Worker, failure: Failure) -> None:
        if "device" in worker.facts:
            self._give_up_device(worker, failure.message)
        elif failure.kind == "device":
            self._retry_at[worker] = time.monotonic() + _RETRY_SECS
        else:
            super()._note_unprepared(worker, failure)

    def _settle(self, worker: Worker, job: Job, outcome: Answer) -> None:
        doubtful = isinstance(outcome, Failure) and outcome.kind in ("crash", "timeout", "device")
        if not doubtful or (outcome.kind != "device" and self._answers(worker)):
            super()._settle(worker, job, outcome)
            return
        self._give_up_device(worker, outcome.message)
        job.tries += 1
        if job.tries < _MAX_TRIES:
            job.work.put_back(job)
        else:
            why = f"{job.tries} devices were lost while it ran, the last with: {outcome.message}"
            super()._settle(worker, job, Failure("device", why))

    def _answers(self, worker: Worker) -> bool:
        return Address.parse(worker.facts["device"], name="device").answers()

    def _give_up_device(self, worker: Worker, why: str) -> None:
        """Tells the user, once, of a device that cannot be used, and lets another worker look for one."""
        device = worker.facts["device"]
        if device not in self._lost:
            self.notices.append(f"the device {device} is lost and goes unused until it is back: {why}")
        self._lost.add(device)
        worker.retires = True

    def _replace(self, worker: Worker) -> None:
        at = self._workers.index(worker)
        super()._replace(worker)
        if self._retry_at.pop(worker, None) is not None or worker.facts.get("device") in self._lost:
            self._retry_at[self._workers[at]] = time.monotonic() + _RETRY_SECS

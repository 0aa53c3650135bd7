"""How busy other programs, and other guests of the same host, keep this machine."""

from __future__ import annotations

import time

import psutil

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class OtherLoad:
    """The load of others since this was made, as the operating system counts it."""

    def __init__(self) -> None:
        self._start, self._busy_secs = time.monotonic(), _others_secs()

    def share(self) -> float:
        """Returns the share of all CPUs' time that others took, or that the host gave to other guests."""
        elapsed = time.monotonic() - self._start
        return max(0.0, _others_secs() - self._busy_secs) / (elapsed * (psutil.cpu_count() or 1))


def _others_secs() -> float:
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in _BUSY) - time.process_time()

"""Where the time of a run goes: a phase timer whose stages may be nested, each second counted once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Seconds by stage. A stage inside another stops the outer one's clock while it lasts.

    Only what happens in the thread that made the timer counts: the others' time is not the run's.
    """

    def __init__(self) -> None:
        self._secs: dict[str, float] = {}
        self._running: list[str] = []
        self._since = time.perf_counter()
        self._owner = threading.get_ident()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time until the block's end, or of a decorated function's calls, inner stages excepted."""
        if threading.get_ident() != self._owner:
            yield
            return
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def move(self, secs: float, *, source: str, to: str) -> None:
        """Counts seconds as another stage's than the one that they were counted as."""
        if threading.get_ident() == self._owner:
            self._secs[source] = self._secs.get(source, 0.0) - secs
            self._secs[to] = self._secs.get(to, 0.0) + secs

    def take(self) -> dict[str, float]:
        """Returns the seconds by stage since the last call, and starts again from zero."""
        self._switch()
        taken, self._secs = self._secs, {}
        return taken

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self._secs[name] = self._secs.get(name, 0.0) + now - self._since
        self._since = now

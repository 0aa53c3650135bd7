"""One workload's share of an executor's store."""

from __future__ import annotations

from reasoning_compiler.core.processes.pool import Pool
from reasoning_compiler.measure.executors.local import LocalExecutor


class Share:
    """What one workload has put into an executor's store, to be dropped all at once.

    Args:
        executor: whose store.
    """

    def __init__(self, executor: LocalExecutor) -> None:
        self.num_threads = executor.num_threads
        self._executor = executor
        self._keys: list[str] = []

    def open_reference(self) -> Pool:
        """See `LocalExecutor`."""
        return self._executor.open_reference()

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """See `LocalExecutor`."""
        key = self._executor.put(data, suffix=suffix)
        self._keys.append(key)
        return key

    def claim(self, key: str) -> None:
        """See `Store`."""
        self._executor.store.claim(key)
        self._keys.append(key)

    def get(self, key: str) -> bytearray:
        """See `Store`."""
        return self._executor.store.get(key)

    def drop(self) -> None:
        """Drops all of it. May be called again."""
        while self._keys:
            self._executor.store.drop(self._keys.pop())

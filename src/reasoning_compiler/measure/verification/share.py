"""One workload's share of an executor's store."""

from __future__ import annotations

from reasoning_compiler.measure.executors.local import LocalExecutor


class Share:
    """What one workload has put into an executor's store, to be dropped all at once.

    Args:
        executor: whose store.
    """

    def __init__(self, executor: LocalExecutor) -> None:
        self.executor = executor
        self._keys: list[str] = []

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """See `LocalExecutor`."""
        key = self.executor.put(data, suffix=suffix)
        self._keys.append(key)
        return key

    def claim(self, key: str) -> None:
        """See `Store`."""
        self.executor.store.claim(key)
        self._keys.append(key)

    def get(self, key: str) -> bytearray:
        """See `Store`."""
        return self.executor.store.get(key)

    def drop(self) -> None:
        """Drops all of it. May be called again."""
        while self._keys:
            self.executor.store.drop(self._keys.pop())

"""Bytes by the hash of what they are: how data and code get to the processes that need them.

Messages between processes carry keys alone. Where a process runs on another machine, its executor brings it the bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from pathlib import Path


class Store:
    """A folder of files that are named by a hash of what they hold; several processes may share it.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._num_uses: Counter[str] = Counter()
        self._lock = threading.Lock()  # a workload's data are put by a thread of their own

    def put(self, data: bytes | memoryview, *, suffix: str = "") -> str:
        """Returns the key of some bytes, which are now in the store.

        Args:
            data: the bytes.
            suffix: of the file's name, as ".so"; a part of the key.

        Raises:
            OSError: it cannot be written.
        """
        key = hashlib.sha256(data).hexdigest()[:32] + suffix
        self.claim(key)
        path = self.path(key)
        if not path.exists():
            part = path.with_name(f"{key}.{os.getpid()}.{threading.get_ident()}")
            part.write_bytes(data)
            part.replace(path)
        return key

    def claim(self, key: str) -> None:
        """Keeps what another process has put into the store until it is dropped here."""
        with self._lock:
            self._num_uses[key] += 1

    def get(self, key: str) -> bytearray:
        """Returns a copy of the bytes of a key."""
        with self.path(key).open("rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
        return data

    def path(self, key: str) -> Path:
        """Returns the file that holds the bytes of a key."""
        return self.folder / key

    def drop(self, key: str) -> None:
        """Removes the bytes of a key, once this was called as often as they were put or claimed here."""
        with self._lock:
            self._num_uses[key] -= 1
            if self._num_uses[key] <= 0:
                del self._num_uses[key]
                self.path(key).unlink(missing_ok=True)

"""A device farm on loopback for the tests: TVM's own tracker, and servers that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import reasoning_compiler
from reasoning_compiler.core.errors import DeviceError
from reasoning_compiler.measure.executors.tracker import Address, Devices

KEY = "board"


def free_port() -> int:
    """Returns a port on which nothing listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """One `reasonc device serve` in a process group of its own; `log` is what it has said."""

    def __init__(self, folder: Path, tracker: Address, *, key: str = KEY) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._arguments = ["--port", str(self.address.port), "--tracker", str(tracker), "--key", key, "--threads", "1"]
        self._log = folder / f"server-{self.address.port}.log"
        self.process = self.start()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it, again if it was killed."""
        source = str(Path(reasoning_compiler.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "reasoning_compiler", "device", "serve", *self._arguments]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True, env=environment)
        return self.process

    def kill(self) -> None:
        """Ends it at once, with the session that it serves, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_for(devices: Devices, count: int, *, secs: float = 30.0) -> None:
    """Returns once so many devices have registered."""
    deadline = time.monotonic() + secs
    while time.monotonic() < deadline:
        with suppress(DeviceError):
            if devices.count() == count:
                return
        time.sleep(0.1)
    raise AssertionError(f"there are not {count} devices after {secs} s")

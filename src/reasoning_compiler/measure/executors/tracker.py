"""Devices behind TVM's RPC tracker: which there are, and asking for one of them.

The tracker is a plain server of short JSON messages, so nothing here needs a process that may die: every answer is
waited for with a limit.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.core.errors import DeviceError, UsageError

_ANSWER_SECS = 5.0
_PROBE_SECS = 3.0
_CLOSING_SECS = 0.5
_SERVER = "server:"


@dataclass(frozen=True)
class Address:
    """A host and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, name: str) -> Address:
        """Returns the address in HOST:PORT.

        Args:
            text: what the user has given.
            name: what it was given as, for the error.

        Raises:
            UsageError: it is no address.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"`{name}` is {text!r}; it must be HOST:PORT, as 127.0.0.1:9190")
        return cls(host, int(port))

    def answers(self) -> bool:
        """Returns whether a server listens there, which waits for the client to begin."""
        try:
            sock = socket.create_connection((self.host, self.port), timeout=_PROBE_SECS)
        except OSError:
            return False
        # An SSH tunnel takes every connection, and closes it where nothing is at its other end.
        with sock:
            sock.settimeout(_CLOSING_SECS)
            try:
                return sock.recv(1) != b""
            except TimeoutError:
                return True
            except OSError:
                return False


@dataclass(frozen=True)
class Lease:
    """The right to connect to a device, once."""

    device: Address
    match_key: str

    def hand_back(self) -> None:
        """Gives the device to others at once, where it was not used; else it would wait for us for some seconds."""
        from tvm.rpc import base

        key = f"client:{self.match_key}".encode()
        with (
            suppress(OSError),
            socket.create_connection((self.device.host, self.device.port), timeout=_PROBE_SECS) as sock,
        ):
            sock.sendall(struct.pack("<ii", base.RPC_MAGIC, len(key)) + key)


@dataclass(frozen=True)
class Devices:
    """The devices that a tracker has under a key; all of one key are taken for equal.

    Args:
        tracker: where the tracker is.
        key: under which they have registered.
    """

    tracker: Address
    key: str

    @classmethod
    def parse(cls, rpc: str, key: str) -> Devices:
        """Returns the devices of HOST:PORT and a key. Raises UsageError where these are none."""
        devices = cls(Address.parse(rpc, name="rpc"), key)
        devices.require_key()
        return devices

    def require_key(self) -> None:
        """Raises UsageError where the key cannot be one."""
        if not self.key or any(letter.isspace() or letter == ":" for letter in self.key):
            raise UsageError(f"`key` is {self.key!r}; it must name a kind of device, without spaces and colons")

    def count(self) -> int:
        """Returns how many devices have registered, busy ones too.

        Raises:
            DeviceError: there is none, or no tracker.
        """
        keys = [str(each.get("key", "")).removeprefix(_SERVER) for each in self._summary()["server_info"]]
        if self.key in keys:
            return keys.count(self.key)
        others = ", ".join(f"{key} ({keys.count(key)})" for key in sorted(set(keys))) or "no device at all"
        raise DeviceError(
            f"no device has registered as `{self.key}` at the tracker {self.tracker}, which has {others}: start one "
            f"with `reasonc device serve --tracker {self.tracker} --key {self.key}`"
        )

    def lease(self) -> Lease | None:
        """Returns a device that is free and now waits for us; None where none is free.

        Raises:
            DeviceError: there is no tracker.
        """
        if not self._summary()["queue_info"].get(self.key, {}).get("free"):
            return None
        try:
            with _talk(self.tracker) as ask:
                _, (host, port, match_key) = ask("REQUEST", self.key, "", 1)
        except TimeoutError:
            return None  # somebody else was faster
        except (OSError, ValueError) as error:
            raise self._no_tracker(error) from None
        return Lease(Address(host, port), match_key)

    def _summary(self) -> dict[str, Any]:
        try:
            with _talk(self.tracker) as ask:
                return ask("SUMMARY")[1]
        except (OSError, ValueError) as error:
            raise self._no_tracker(error) from None

    def _no_tracker(self, error: Exception) -> DeviceError:
        why = getattr(error, "strerror", None) or str(error)
        return DeviceError(
            f"no tracker answers at {self.tracker} ({why}): look at `--rpc`, or start one with "
            "`python -m tvm.exec.rpc_tracker --host 127.0.0.1`"
        )


@contextmanager
def _talk(tracker: Address) -> Iterator[Any]:
    """Yields a function that sends a tracker one request and returns its answer. Raises OSError and ValueError."""
    from tvm.rpc import base

    with socket.create_connection((tracker.host, tracker.port), timeout=_ANSWER_SECS) as sock:
        magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
        sock.sendall(magic)
        if base.recvall(sock, len(magic)) != magic:
            raise ValueError("what listens there is no TVM tracker")

        def ask(code: str, *arguments: Any) -> Any:
            base.sendjson(sock, [getattr(base.TrackerCode, code), *arguments])
            return base.recvjson(sock)

        yield ask

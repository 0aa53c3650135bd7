"""Messages between a process and its workers: JSON, each behind its length in eight bytes."""

from __future__ import annotations

import json
import os
from typing import Any

from reasoning_compiler.core.records import plain

MAX_BYTES = 64 << 20
"""Longer messages are taken for garbage: what is large travels in files."""

_LENGTH_BYTES = 8


class GarbledError(Exception):
    """What came through a pipe is no message."""


def encode(message: dict[str, Any]) -> bytes:
    """Returns the bytes of a message, which may hold records."""
    body = json.dumps(message, separators=(",", ":"), default=plain).encode()
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Decoder:
    """Puts messages together from the pieces in which a pipe delivers them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Returns the messages that `piece` completes, in order.

        Raises:
            GarbledError: these are no messages.
        """
        self._buffer += piece
        messages = []
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if end > MAX_BYTES:
                raise GarbledError(f"a message of {end} bytes")
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_LENGTH_BYTES:end])))
            del self._buffer[:end]
        return messages


def receive(fd: int) -> dict[str, Any] | None:
    """Returns the next message from a pipe, waiting for it; None where the other end has closed it."""
    header = _read(fd, _LENGTH_BYTES)
    if len(header) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(header, "big")
    body = _read(fd, length)
    return _parse(body) if len(body) == length else None


def send(fd: int, message: dict[str, Any]) -> None:
    """Writes a message into a pipe, waiting until it is written."""
    data = memoryview(encode(message))
    while data:
        data = data[os.write(fd, data) :]


def _read(fd: int, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        piece = os.read(fd, num_bytes - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise GarbledError(str(error)) from None
    if not isinstance(message, dict):
        raise GarbledError(f"a {type(message).__name__} instead of an object")
    return message

"""A device's end of measuring from elsewhere: TVM's RPC server, made to outlive the programs that it runs.

TVM's own server (tvm/rpc/server.py) stops listening once a program crashes, keeps a program that hangs until the
session's time is up although nobody waits for it any more, and gives up on a tracker that is away. Its protocol and
its sessions are used here as they are; what goes on around a session is ours.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.processes.serving import one_line
from reasoning_compiler.machine.toolchain import use_threads
from reasoning_compiler.measure.executors.tracker import Address

_LOOK_SECS = 0.25
_RETRY_SECS = 2.0
_CONNECT_SECS = 10.0
# A client that connects and says nothing would keep all others waiting.
_HANDSHAKE_SECS = 10.0
# A fork has TVM imported already. Python's own default changes with the system and its version.
_PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
_HANGUP = getattr(select, "POLLRDHUP", 0)  # Linux alone can tell it also while there is something left to read


def listen(address: Address) -> socket.socket:
    """Returns a socket that listens on an address. Raises UsageError where that is not possible."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(1)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"`port` is {address.port} on {address.host}, where nothing can listen: {why}") from None
    return sock


def serve(sock: socket.socket, *, key: str, tracker: Address | None, num_threads: int) -> NoReturn:
    """Serves one session after the other until it is interrupted (KeyboardInterrupt).

    Call it in the main thread of a process that has not run TVM's kernels.

    Args:
        sock: where it listens, from `listen`.
        key: the name of this kind of device.
        tracker: where to register; None not to.
        num_threads: the most threads that a program may use.
    """
    use_threads(num_threads)
    from tvm.rpc import base, server

    base.connect_with_retry = _connect_patiently
    server._serving = _serve_session
    socket.setdefaulttimeout(_HANDSHAKE_SECS)
    port = sock.getsockname()[1]
    registers_at = (tracker.host, tracker.port) if tracker is not None else None
    while True:
        try:
            server._listen_loop(sock, port, key, registers_at, None, None)
        except Exception as error:  # a port scanner's garbage, a tracker that is none: not the end of a device
            _logger().warning("%s: %s; trying again in %g s", type(error).__name__, error, _RETRY_SECS)
            time.sleep(_RETRY_SECS)


def _connect_patiently(address: tuple[str, int], *_: Any) -> socket.socket:
    """Returns a connection to the tracker, however long it is away."""
    said = ""
    while True:
        try:
            return socket.create_connection(address, timeout=_CONNECT_SECS)
        except OSError as error:
            if said != str(error):
                said = str(error)
                _logger().warning("no tracker at %s:%d (%s); trying every %g s", *address, said, _RETRY_SECS)
            time.sleep(_RETRY_SECS)


def _serve_session(sock: socket.socket, address: Any, options: dict[str, float], libraries: None) -> None:
    """Serves one client, in a process of its own that ends with the client, with its time, or with a program's crash.

    Args:
        sock: the connection.
        address: the client's.
        options: "timeout" in seconds, where the client has set one.
        libraries: to be loaded before; there are none.
    """
    from tvm.support import utils

    sock.setblocking(True)
    folder = utils.tempdir()
    process = _PROCESSES.Process(target=_session, args=(sock, folder))
    process.start()
    _logger().info("session of %s begins", address[0])
    ends_at = time.monotonic() + options.get("timeout", float("inf"))
    try:
        while process.is_alive() and time.monotonic() < ends_at and not _is_closed(sock):
            process.join(_LOOK_SECS)
        why = "ends"
        if process.is_alive():
            process.join(_LOOK_SECS)  # the client has said goodbye, and it ends by itself
            why = "is ended: its client has gone, or its time is up" if process.is_alive() else why
        elif process.exitcode:
            why = f"was ended by the program that it ran ({_exit_text(process.exitcode)})"
        _logger().info("session of %s %s", address[0], why)
    finally:
        _end(process)
        folder.remove()
        sock.close()


def _session(sock: socket.socket, folder: Any) -> None:
    """What the process of a session does."""
    from tvm.rpc import server

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder.path)
    # Else the port and the tracker would take a server that was killed for alive as long as this session lasts.
    for fd in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):
            if fd > 2 and fd != sock.fileno() and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)
    with suppress(OSError):
        # Where memory runs out, the system is to end the program under test and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        server._serve_loop(sock, None, folder)
    except Exception as error:  # of the connection; those of programs are the client's to know
        _logger().info("the connection broke: %s", one_line(error))


def _is_closed(sock: socket.socket) -> bool:
    """Returns whether the other end has closed; what it has sent is left for the session to read."""
    if _HANGUP:
        poll = select.poll()
        poll.register(sock, _HANGUP)
        return bool(poll.poll(0))
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """Ends a session's process and what the programs in it have started."""
    started: Sequence[psutil.Process] = ()
    if process.is_alive():
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid).children(recursive=True)
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.join()


def _exit_text(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _logger() -> logging.Logger:
    return logging.getLogger("RPCServer")  # TVM's; it writes to stderr

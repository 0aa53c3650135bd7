"""One child process: it ends when we end, and whatever it started ends with it.

Every process of this package that may crash, hang or be killed is a `Child`: workers, a single call in a fresh
interpreter, and the command that the watcher runs.

    parent                     child
    parent-death pipe  ─────►  nothing is ever written; its closing is the signal
    output             ◄─────  stdout and stderr, of which the last bytes are kept (or the parent's own)
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

_TAIL_BYTES = 2000
_READ_BYTES = 1 << 16
# The child takes this process' import path before it imports anything that the working directory could shadow.
_CODE = """
import sys
sys.path[:] = sys.argv[1].split({separator!r})
from reasoning_compiler.core.processes.child import main
main(*sys.argv[2:])
"""


class Child:
    """A fresh Python process that calls one function. A context manager, which kills it at the end.

    It leads a session of its own, so Ctrl-C reaches only the parent, and one signal ends the whole group.

    Args:
        function: its module and name, as in "package.module:function".
        args: values that JSON can carry.
        fds: descriptors that the child inherits, under the same numbers.
        keep_output: whether the last bytes that it prints are kept in `tail`; if not, it prints where we do.
        cwd: its working directory; None for ours.
        environment: variables that differ from ours.
    """

    def __init__(
        self,
        function: str,
        *args: Any,
        fds: Sequence[int] = (),
        keep_output: bool = True,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.tail = b""
        death_fd, self._parent_fd = os.pipe()
        self.output_fd, output_fd = os.pipe() if keep_output else (-1, -1)
        inherited = (death_fd, *fds)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        start = (path, function, json.dumps(args), *map(str, inherited))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(separator=os.pathsep), *start],
            stdin=subprocess.DEVNULL if keep_output else None,
            stdout=output_fd if keep_output else None,
            stderr=output_fd if keep_output else None,
            pass_fds=inherited,
            start_new_session=True,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid
        for fd in (death_fd, output_fd):
            if fd >= 0:
                os.close(fd)
        if keep_output:
            os.set_blocking(self.output_fd, False)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, as in `subprocess`; None while it runs."""
        return self._process.poll()

    def wait(self, secs: float) -> int | None:
        """Returns the exit code as soon as there is one, or None after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(secs)
        return None

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process, and not to those that it started."""
        self._process.send_signal(number)

    def read_output(self) -> None:
        """Adds what it has printed to `tail`."""
        self.tail = (self.tail + read_some(self.output_fd))[-_TAIL_BYTES:]

    def describe_exit(self, code: int) -> str:
        """Returns how a process with this exit code ended, and the last line that was printed."""
        self.read_output()
        how = f"killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        lines = [line.strip() for line in self.tail.decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("File ")]  # TVM's backtrace names no source
        return f"{how}: {lines[-1][:200]}" if lines else how

    def kill(self) -> None:
        """Ends the process and all that it started, and closes our descriptors. May be called again."""
        if self._parent_fd < 0:
            return
        kill_group(self.pid)
        self._process.wait()
        for fd in (self._parent_fd, self.output_fd):
            if fd >= 0:
                os.close(fd)
        self._parent_fd = -1


def main(function: str, args: str, death_fd: str, *fds: str) -> None:
    """Does, in the child, what `Child` was asked for."""
    follow_parent(int(death_fd))
    for fd in map(int, fds):
        os.set_inheritable(fd, False)
    resolve(function)(*json.loads(args))


def resolve(function: str) -> Callable[..., Any]:
    """Returns the function that "package.module:function" names."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def follow_parent(fd: int) -> None:
    """Makes the system end this process when the parent's end of a parent-death pipe closes, however the parent ends.

    A thread that waits for it would not do: the process may be deep in a kernel that never returns. SIGIO ends a
    process by default, and nobody writes into the pipe, so closing is all that it can tell. (Linux' PR_SET_PDEATHSIG
    follows the parent's *thread*, and would end us when the thread that started us returns.)

    Args:
        fd: the end of the pipe that can be read; the parent holds the other.
    """
    os.set_inheritable(fd, False)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if os.read(fd, 1) == b"":
            sys.exit(0)  # the parent was gone before the signal was armed


def kill_group(pid: int) -> None:
    """Ends a process that leads a group, and the whole group, where they still exist."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def signal_name(number: int) -> str:
    """Returns the name of a signal, as "SIGSEGV"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_some(fd: int) -> bytes:
    """Returns what a non-blocking descriptor holds now; empty where there is nothing."""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""

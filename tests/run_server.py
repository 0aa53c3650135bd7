"""A process that has TVM imported and forks a run for each line of JSON on its standard input.

    {"folder": "...", "samples": 8, "kill_at": 17}

tunes a small GEMM into the folder with a fake instrument, or goes on with the run that is there. `kill_at` ends the
process by SIGKILL at so manieth a step of what it writes: before, within or after a write of the journal, or between
the renames of `best/`. The answers are the run's process id and, when it has ended, its wait status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import xgboost  # noqa: F401

import reasoning_compiler as rc
from fake_instrument import FakeInstrument
from reasoning_compiler.journal import journal as journal_module
from reasoning_compiler.machine import detect, import_tvm
from reasoning_compiler.measure import instrument
from reasoning_compiler.session import opening  # noqa: F401

SETTINGS = {"batch": 3}
WORKLOAD = "gemm[64,64,64]"


class Killer:
    """Kills this process at a step of writing."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self) -> bool:
        """Counts a step and returns whether it is the last."""
        self._left -= 1
        return self._left == 0

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(self, real: Callable[..., int], fd: int, data: bytes) -> int:
        """Writes, unless this process dies before, within or after it."""
        if self.step():
            self.die()
        if self.step():
            real(fd, data[: len(data) // 2])
            self.die()
        written = real(fd, data)
        if self.step():
            self.die()
        return written

    def rename(self, real: Callable[..., Any], path: Path, to: Path) -> Any:
        """Renames, unless this process dies before it."""
        if self.step():
            self.die()
        return real(path, to)


def run(job: dict[str, Any]) -> None:
    instrument.Instrument = FakeInstrument  # type: ignore[misc]
    if job.get("kill_at"):
        killer = Killer(job["kill_at"])
        journal_module.os.write = partial(killer.write, os.write)
        real = Path.rename
        Path.rename = lambda path, to: killer.rename(real, path, to)  # type: ignore[assignment, method-assign]
    folder = Path(job["folder"])
    if (folder / "journal.jsonl").exists() and b"\n" in (folder / "journal.jsonl").read_bytes():
        rc.resume(folder)
    else:
        rc.tune(WORKLOAD, out=folder, samples=job["samples"], seed=job.get("seed", 0), **SETTINGS)


def main() -> None:
    import_tvm()
    detect()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                run(json.loads(line))
            except KeyboardInterrupt:
                os._exit(130)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()

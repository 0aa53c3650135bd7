"""An instrument with an executor of its own, for tests of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.executors.rpc import RpcExecutor
from reasoning_compiler.measure.executors.tracker import Devices
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.workload import Workload


@contextmanager
def measuring(
    workload: Workload,
    target: Any,
    *,
    num_threads: int,
    devices: Devices | None = None,
    num_build_workers: int | None = None,
    memory_limit_bytes: int | None = None,
    flush_cache: bool = False,
    scratch_dir: Path | None = None,
    **options: Any,
) -> Iterator[Instrument]:
    """Yields an instrument with an executor of its own, which is closed with it."""
    given = {"num_threads": num_threads, "num_build_workers": num_build_workers, "scratch_dir": scratch_dir}
    if devices is not None:
        executor = RpcExecutor(devices, **given)
    else:
        executor = LocalExecutor(**given, memory_limit_bytes=memory_limit_bytes, flush_cache=flush_cache)
    with executor, Instrument(workload, target, executor, **options) as instrument:
        yield instrument

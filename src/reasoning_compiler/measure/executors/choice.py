"""The executor of a command: devices where it names some, else this machine."""

from __future__ import annotations

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.executors.tracker import Devices


def open_executor(
    *,
    num_threads: int,
    devices: Devices | None = None,
    num_build_workers: int | None = None,
    flush_cache: bool = False,
) -> LocalExecutor:
    """Returns where programs are built and run; close it in the end.

    Args:
        num_threads: threads that a program may use.
        devices: where programs run; None for this machine.
        num_build_workers: see `LocalExecutor`.
        flush_cache: whether each timing begins with cold caches; not on devices.

    Raises:
        DeviceError: there is no such device.
        UsageError: caches cannot be flushed on devices.
    """
    if devices is None:
        return LocalExecutor(num_threads=num_threads, num_build_workers=num_build_workers, flush_cache=flush_cache)
    if flush_cache:
        raise UsageError("`flush_cache` empties this machine's caches, and programs run on devices: leave it out")
    from reasoning_compiler.measure.executors.rpc import RpcExecutor

    return RpcExecutor(devices, num_threads=num_threads, num_build_workers=num_build_workers)

"""Building here and running on the devices behind TVM's RPC tracker, one program at a time on each."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.measure.executors.device_pool import DevicePool
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.executors.tracker import Devices
from reasoning_compiler.measure.workers.worker import WorkerOptions


class RpcExecutor(LocalExecutor):
    """See `LocalExecutor`. Each device is driven by a worker process on this machine, which brings it what it needs.

    Args:
        devices: where programs run.
        num_threads: threads that a program may use there.
        num_build_workers: see `LocalExecutor`.
        scratch_dir: see `LocalExecutor`.

    Raises:
        DeviceError: there is no such device; later also, whenever all have been gone for a while.
    """

    def __init__(
        self,
        devices: Devices,
        *,
        num_threads: int,
        num_build_workers: int | None = None,
        scratch_dir: Path | None = None,
    ) -> None:
        super().__init__(num_threads=num_threads, num_build_workers=num_build_workers, scratch_dir=scratch_dir)
        self.num_runners = devices.count()
        self._devices = devices

    @property
    def notices(self) -> tuple[str, ...]:
        """Which devices came and which were lost, a line each."""
        return tuple(self.runners.notices)

    @cached_property
    def runners(self) -> DevicePool:
        """See `LocalExecutor`."""
        entry = WorkerOptions("runner", str(self.store.folder)).entry
        return DevicePool(self._devices, self.num_runners, entry, num_threads=self.num_threads)


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
    return RpcExecutor(devices, num_threads=num_threads, num_build_workers=num_build_workers)

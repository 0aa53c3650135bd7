"""Where libraries run: in this process, or on a device behind TVM's RPC."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from reasoning_compiler.core.errors import DeviceError
from reasoning_compiler.core.processes.serving import one_line
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.measure.executors.tracker import Devices, Lease

# A round trip over a network is no part of a kernel's time; beside a run this long it does not count.
_LONG_SECS = 0.1
_PINGS = 5
_FASTEST_CORES = 1


class LocalRuntime:
    """This process."""

    def device(self, target: str) -> Any:
        """Returns the TVM device of a target (JSON text)."""
        return tvm.runtime.device(_device_kind(target), 0)

    def load(self, library: Path) -> tuple[Any, bytes | None]:
        """Returns a library's module, and the library itself where it was linked by a device: here, None."""
        # TVM would keep it for the life of this process, with all its predecessors.
        return tvm_ffi.load_module(str(library), keep_module_alive=False), None

    def first_secs(self, module: Any, tensors: Sequence[Any], device: Any) -> float:
        """Returns the seconds of the first run of a module's `main`."""
        return self.run_secs(module, tensors, device, 1)

    def run_secs(self, module: Any, tensors: Sequence[Any], device: Any, number: int) -> float:
        """Returns the seconds of one run of a module's `main`, the mean of `number` in a row."""
        main = module["main"]
        started = time.perf_counter()
        for _ in range(number):
            main(*tensors)
        device.sync()
        return (time.perf_counter() - started) / number


class RemoteRuntime:
    """A device behind TVM's RPC, in one session with its server.

    Args:
        lease: the right to connect to it.
        session_secs: the server ends the session after so long, whatever is being run.
        num_threads: threads that a program may use.

    Raises:
        Refused: "device" where there is no session, or not so many threads.
    """

    def __init__(self, lease: Lease, *, session_secs: float, num_threads: int) -> None:
        from tvm import rpc

        self._num_loaded = 0
        try:
            device = lease.device
            self._session = rpc.connect(device.host, device.port, lease.match_key, session_timeout=session_secs)
            self._count_threads = self._session.get_function("runtime.NumThreads")
            self._session.get_function("runtime.config_threadpool")(_FASTEST_CORES, num_threads)
            given = int(self._count_threads())
            self._round_trip_secs = min(_seconds(self._count_threads) for _ in range(_PINGS))
        except Exception as error:  # whatever a network and another machine's software may say
            lease.hand_back()
            raise Refused("device", one_line(error), retire=True) from None
        if given != num_threads:
            raise Refused(
                "device",
                f"it gives programs {given} threads, and they are to use {num_threads}: "
                f"give it `--threads {num_threads}`, or tune with `--threads {given}`",
                retire=True,
            )

    @classmethod
    def take(
        cls, *, tracker: str, key: str, session_secs: float, num_threads: int, announce: Callable[..., None]
    ) -> RemoteRuntime:
        """Returns a device that was free.

        Args:
            tracker: the tracker's HOST:PORT.
            key: under which its devices have registered.
            session_secs: see `RemoteRuntime`.
            num_threads: see `RemoteRuntime`.
            announce: is told `device`, its HOST:PORT, before anything is asked of it.

        Raises:
            Refused: "device" where there is none, or it does not answer.
        """
        try:
            lease = Devices.parse(tracker, key).lease()
        except DeviceError as error:
            raise Refused("device", str(error)) from None
        if lease is None:
            raise Refused("device", "no device is free")
        announce(device=str(lease.device))
        return cls(lease, session_secs=session_secs, num_threads=num_threads)

    def device(self, target: str) -> Any:
        """See `LocalRuntime`."""
        return self._session.device(_device_kind(target), 0)

    def load(self, library: Path) -> tuple[Any, bytes | None]:
        """See `LocalRuntime`. What could only be compiled here, to an object, is linked there.

        Raises:
            Refused: "device" where the session has ended meanwhile; "build" where it cannot be linked there.
        """
        try:
            self._count_threads()
        except Exception as error:
            raise Refused("device", f"its session has ended: {one_line(error)}", retire=True) from None
        self._num_loaded += 1
        # The file of a library that is loaded must not be written again.
        name, linked = f"kernel{self._num_loaded}{library.suffix}", None
        self._session.upload(bytearray(library.read_bytes()), name)
        if library.suffix == ".o":
            try:
                linked = bytes(self._session.download_linked_module(name))
            except Exception as error:
                raise Refused("build", f"the device cannot link it, it needs a C compiler: {one_line(error)}") from None
            self._session.remove(name)
            name += ".so"
        module = self._session.load_module(name)
        self._session.remove(name)
        return module, linked

    def first_secs(self, module: Any, tensors: Sequence[Any], device: Any) -> float:
        """See `LocalRuntime`."""
        secs = self._run(lambda: _seconds(lambda: (module["main"](*tensors), device.sync()))) - self._round_trip_secs
        return secs if secs > _LONG_SECS else self.run_secs(module, tensors, device, 1)

    def run_secs(self, module: Any, tensors: Sequence[Any], device: Any, number: int) -> float:
        """Returns the seconds of one run as the device's own clock says; it runs once more before it counts."""
        return self._run(lambda: module.time_evaluator("main", device, number=number)(*tensors).results[0])

    def _run(self, call: Callable[[], float]) -> float:
        try:
            return float(call())
        except Exception as error:
            try:
                self._count_threads()
                why = one_line(error)
            except Exception:
                why = "the process that ran it on the device has died"
            raise Refused("crash", why, retire=True) from None


Runtime = LocalRuntime | RemoteRuntime


def _device_kind(target: str) -> str:
    kind = json.loads(target)["kind"]
    return "cpu" if kind in ("llvm", "c") else kind


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started

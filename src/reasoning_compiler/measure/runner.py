"""Running libraries on a workload's data: what the runner process does."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from reasoning_compiler.measure.racing import Race, runs_per_timing, verdict
from reasoning_compiler.measure.serving import Refused, one_line
from reasoning_compiler.measure.signature import Signature, read_signature
from reasoning_compiler.measure.tensors import numpy_dtype, read_array, write_array
from reasoning_compiler.measure.verify import Expected, poison
from reasoning_compiler.records import Argument


@dataclass
class _Session:
    """A workload's data on the device, used by one library after the other.

    Args:
        arguments: the kernel's arguments.
        device: where the tensors are.
        tensors: one per argument, weights unpacked.
        expected: what the outputs must be, in order; empty where nothing is known.
    """

    arguments: tuple[Argument, ...]
    device: Any
    tensors: list[Any]
    expected: list[Expected] = field(default_factory=list)

    @property
    def outputs(self) -> list[Any]:
        return [t for t, a in zip(self.tensors, self.arguments, strict=True) if a.role == "output"]

    def spoil_outputs(self) -> None:
        """Fills the outputs with what no kernel computes."""
        for tensor in self.outputs:
            view = _host_view(tensor)
            if view is not None:
                view[...] = poison(view.dtype)
            else:
                dtype = numpy_dtype(str(tensor.dtype))
                tensor.copyfrom(np.full(tuple(tensor.shape), poison(dtype), dtype))

    def verify(self) -> None:
        """Raises Refused where an output is not what it must be."""
        for tensor, expected in zip(self.outputs, self.expected, strict=True):
            view = _host_view(tensor)
            failure = expected.why_not(view if view is not None else tensor.numpy())
            if failure is not None:
                # What has computed wrong may have written anywhere, also into the inputs of the next.
                raise Refused(failure.kind, failure.message, retire=True)


_session: _Session | None = None


def set_up(
    *,
    arguments: list[dict[str, Any]],
    target: str,
    input_files: list[str] | None,
    expected_files: list[str] | None,
    rtol: float,
    atol: float,
) -> dict[str, Any]:
    """Reads the workload that the following requests run.

    Args:
        arguments: the `Argument`s of the kernel.
        target: the TVM target as JSON text; says on which kind of device.
        input_files: the elements of each argument that is no output, in order; None for random ones.
        expected_files: the elements of each output, in order; None where nothing is known.
        rtol: see verify.py.
        atol: see verify.py.
    """
    global _session
    known = tuple(Argument(**(a | {"shape": tuple(a["shape"])})) for a in arguments)
    _session = None  # the old data go before the new come
    _session = _new_session(known, target, input_files)
    outputs = [argument for argument in known if argument.role == "output"]
    for argument, path in zip(outputs, expected_files or [], strict=expected_files is not None):
        values = read_array(Path(path), argument.shape, argument.dtype)
        _session.expected.append(Expected.of(argument.name, values, rtol=rtol, atol=atol))
    return {}


def run(*, library: str, race: dict[str, Any], verify: bool, save_outputs: list[str] | None = None) -> dict[str, Any]:
    """Times a library, as long as it can still win, and verifies it.

    The first run is verified, timed, and decides whether there are more; after the last timing the outputs are verified
    again, for what goes wrong only sometimes.

    Args:
        library: the shared library, with its signature beside it.
        race: the `Race`.
        verify: whether to compare the outputs with what is expected.
        save_outputs: files to write the outputs of the first run into.

    Returns:
        {"latencies_secs": …, "cut": …, "verified": …, "run_secs": …, "verify_secs": …}

    Raises:
        Refused: "wrong_result", "nonfinite", or "crash" where TVM itself refuses to run it.
    """
    started = time.perf_counter()
    rules = Race(**race)
    kernel = _load(Path(library))
    session = kernel.session
    verify_secs = 0.0
    session.spoil_outputs()
    first_secs = kernel.time(1)
    for tensor, path in zip(session.outputs, save_outputs or [], strict=save_outputs is not None):
        write_array(Path(path), tensor.numpy())
    if verify:
        verify_secs += _timed(session.verify)
    latencies: list[float] = []
    while (said := verdict(rules, first_secs, latencies)) == "again":
        number = runs_per_timing(rules, min([first_secs, *latencies]))
        latencies.append(kernel.time(number))
    if verify and latencies:
        verify_secs += _timed(session.verify)
    return {
        "latencies_secs": latencies or [first_secs],
        "cut": said == "cut",
        "verified": verify,
        "verify_secs": verify_secs,
        "run_secs": time.perf_counter() - started,
    }


def compare(
    *, libraries: list[str], rounds: int, budget_secs: float, min_timing_secs: float, verify: bool
) -> dict[str, Any]:
    """Times libraries against each other: in every round each is timed once, every other round in reverse.

    Args:
        libraries: shared libraries of the same workload.
        rounds: timings of each.
        budget_secs: no further round starts when this much time has been spent.
        min_timing_secs: see `Race`.
        verify: whether to compare the outputs with what is expected.

    Returns:
        {"latencies_secs": one list per library, "run_secs": …}

    Raises:
        Refused: as `run`, for the first library that fails.
    """
    started = time.perf_counter()
    rules = Race(min_timing_secs=min_timing_secs)
    kernels = [_load(Path(library)) for library in libraries]
    numbers = []
    for kernel in kernels:
        kernel.session.spoil_outputs()
        first_secs = kernel.time(1)
        if verify:
            kernel.session.verify()
        if first_secs < min_timing_secs:
            first_secs = kernel.time(runs_per_timing(rules, first_secs))
        numbers.append(runs_per_timing(rules, first_secs))
    latencies: list[list[float]] = [[] for _ in kernels]
    begun = time.perf_counter()
    for round_number in range(rounds):
        if round_number and time.perf_counter() - begun > budget_secs:
            break
        order = range(len(kernels)) if round_number % 2 == 0 else reversed(range(len(kernels)))
        for i in order:
            latencies[i].append(kernels[i].time(numbers[i]))
    return {"latencies_secs": latencies, "run_secs": time.perf_counter() - started}


@dataclass(frozen=True)
class _Kernel:
    """A loaded library with its arguments, weights packed."""

    module: Any
    main: Callable[..., Any]
    tensors: Sequence[Any]
    session: _Session

    def time(self, number: int) -> float:
        """Returns the seconds of one run, as the mean of `number` of them."""
        main, tensors, device = self.main, self.tensors, self.session.device
        try:
            started = time.perf_counter()
            for _ in range(number):
                main(*tensors)
            device.sync()
            return (time.perf_counter() - started) / number
        except Exception as error:  # TVM's runtime refuses arguments, or runs out of memory
            raise Refused("crash", one_line(error), retire=True) from None


def _load(library: Path) -> _Kernel:
    signature = read_signature(library)
    session = _session if _session is not None else _new_session_for(signature)
    try:
        # Kept alive it would stay for the life of this process, with all its predecessors.
        module = tvm_ffi.load_module(str(library), keep_module_alive=False)
        tensors = []
        for argument, tensor in zip(signature.arguments, session.tensors, strict=True):
            if argument.packer is not None:
                packed = tvm.runtime.empty(argument.packed_shape, argument.packed_dtype, session.device)
                module[argument.packer](tensor, packed)
                tensor = packed
            tensors.append(tensor)
        session.device.sync()
        return _Kernel(module, module["main"], tensors, session)
    except Exception as error:
        raise Refused("crash", one_line(error), retire=True) from None


def _new_session(arguments: tuple[Argument, ...], target: str, input_files: list[str] | None) -> _Session:
    device = tvm.runtime.device(_device_kind(target), 0)
    files = iter(input_files or [])
    fill = tvm.get_global_func("tvm.contrib.random.random_fill_for_measure")
    tensors = []
    for argument in arguments:
        tensor = tvm.runtime.empty(argument.shape, argument.dtype, device)
        if argument.role != "output" and input_files is not None:
            tensor.copyfrom(read_array(Path(next(files)), argument.shape, argument.dtype))
        elif argument.role != "output":
            fill(tensor)
        tensors.append(tensor)
    return _Session(arguments, device, tensors)


def _new_session_for(signature: Signature) -> _Session:
    """Returns a session with random data, for a library of which nothing but its signature is known."""
    arguments = tuple(Argument(a.name, a.shape, a.dtype, a.role) for a in signature.arguments)
    return _new_session(arguments, signature.target, None)


def _device_kind(target: str) -> str:
    kind = json.loads(target)["kind"]
    return "cpu" if kind in ("llvm", "c") else kind


def _host_view(tensor: Any) -> np.ndarray | None:
    """Returns the tensor's own memory as an array, None where numpy cannot see it."""
    if tensor.device.dlpack_device_type() != tvm.runtime.cpu().dlpack_device_type():
        return None
    try:
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):
        return None  # bfloat16 and the 8-bit floats


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


# A collection in the middle of a timing is noise; this process makes no cycles to speak of.
gc.disable()

ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"set_up": set_up, "run": run, "compare": compare}

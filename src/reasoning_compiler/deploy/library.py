"""A tuned kernel as a file: `NAME.so`, a plain TVM library, and `NAME.json`, which says how it is called.

TVM alone is enough to use it (`loading_code` shows how); `load` does the same with checks.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reasoning_compiler.codegen.signature import KernelArgument, Signature, read_signature, signature_path
from reasoning_compiler.core.errors import ReasoningCompilerError, UsageError
from reasoning_compiler.core.whole_files import checksum, write_together
from reasoning_compiler.machine.toolchain import use_threads
from reasoning_compiler.workload.workload import numpy_dtype

if TYPE_CHECKING:
    from reasoning_compiler.core.measurements import Measurement
    from reasoning_compiler.measure.executors.tracker import Devices


def save(
    artifact: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    about: Mapping[str, str | int | float] | None = None,
) -> Path:
    """Returns the path of a library saved for use; its signature is saved beside it, with the suffix `.json`.

    Each file appears whole or not at all, and the signature holds the library's checksum: after a kill between the
    two, `load` refuses what does not belong together.

    Args:
        artifact: a library that the instrument has built, with its signature beside it.
        path: where to; a library that was saved there before is replaced.
        about: what else to keep with it, such as the workload's name; `num_threads` is used by
            `loading_code`.

    Raises:
        UsageError: `path` ends in `.json`, is a folder, cannot be written, or there is another file there.
    """
    artifact, path = Path(artifact), Path(path)
    if path.suffix == ".json":
        raise UsageError(f"`path` is {path}, but its signature goes there: choose a name that ends in .so")
    if path.is_dir():
        raise UsageError(f"`path` is {path}, a folder: name a file in it, as {path / 'kernel.so'}")
    try:
        for taken in (path, signature_path(path)):
            if taken.exists() and not _is_ours(path):
                raise UsageError(f"`{taken}` exists and is no library that was saved here: choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_together(library_files(artifact, path, about=about or {}))
    except OSError as error:
        raise UsageError(f"`path` is {path}, which cannot be written ({error}): choose another folder") from None
    return path


def library_files(artifact: Path, path: Path, *, about: Mapping[str, str | int | float]) -> dict[Path, bytes]:
    """Returns what to write to have a built library at `path`: itself, and the signature with its checksum."""
    code = artifact.read_bytes()
    described = read_signature(artifact).to_json() | {"about": dict(about), "sha256": checksum(code)}
    return {path: code, signature_path(path): (json.dumps(described, indent=1) + "\n").encode()}


def load(path: str | os.PathLike[str], *, num_threads: int | None = None) -> TunedKernel:
    """Returns the kernel in a saved library, ready to be called.

    Args:
        path: the library; its signature must lie beside it.
        num_threads: threads that it may use; None for as many as it was tuned with. Where kernels have
            already run in this thread, it is too late to choose, and TVM's present number stays.

    Raises:
        UsageError: there is no such library, it has no signature or that of another one, or TVM cannot load it.
    """
    kernel = TunedKernel(path)
    num_threads = num_threads or _about(Path(path)).get("num_threads")
    if isinstance(num_threads, int):
        with suppress(UsageError):
            use_threads(num_threads)
    return kernel


class TunedKernel:
    """A kernel from a library, called with arrays and returning arrays.

    A constant weight is packed when it is first seen, and kept packed as long as calls pass the same array
    object; to change a weight, pass another array. Not for use by several threads at once.

    Args:
        path: the library.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"`path` is {path}, which is not a file: `reasonc export RUN --out lib.so` makes one")
        self.signature: Signature = read_signature(path)
        import tvm

        self._tvm = tvm
        try:
            self._module = tvm.runtime.load_module(str(path.resolve()))
        except Exception as error:
            raise UsageError(f"`path` is {path}, which TVM cannot load: {str(error).splitlines()[-1]}") from None
        kind = json.loads(self.signature.target)["kind"]
        self._device = tvm.runtime.device("cpu" if kind in ("llvm", "c") else kind, 0)
        self._main = self._module["main"]
        self._tensors = [self._empty(a.shape, a.dtype) for a in self.signature.arguments]
        self._packed = [
            tensor if argument.packer is None else self._empty(argument.packed_shape, argument.packed_dtype)
            for argument, tensor in zip(self.signature.arguments, self._tensors, strict=True)
        ]
        # The objects of the last call: as long as we hold one, no other object can have its identity.
        self._weights: dict[int, Any] = {}

    @property
    def inputs(self) -> tuple[KernelArgument, ...]:
        """What a call takes, in order: the kernel's arguments without its outputs."""
        return tuple(argument for argument in self.signature.arguments if argument.role != "output")

    def __call__(self, *arrays: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Returns the output as an array, or all outputs as a tuple of arrays where there are several.

        Args:
            arrays: numpy arrays or TVM tensors, one per element of `inputs`, in order.

        Raises:
            UsageError: an array is missing, or has another shape or dtype than the kernel's.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(argument.name for argument in self.inputs)
            raise UsageError(f"the kernel takes {len(self.inputs)} arrays ({names}), not {len(arrays)}")
        given = iter(arrays)
        for index, argument in enumerate(self.signature.arguments):
            if argument.role != "output":
                self._accept(index, argument, next(given))
        self._main(*self._packed)
        self._device.sync()
        outputs = [
            tensor.numpy()
            for argument, tensor in zip(self.signature.arguments, self._packed, strict=True)
            if argument.role == "output"
        ]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _accept(self, index: int, argument: KernelArgument, array: Any) -> None:
        """Takes one array of a call over into the kernel's own tensor, packed where that is needed."""
        if argument.role == "weight" and self._weights.get(index) is array:
            return
        if not isinstance(array, np.ndarray | self._tvm.runtime.Tensor):
            kind = type(array).__name__
            raise UsageError(f"`{argument.name}` must be a numpy array or a TVM tensor, not {kind}")
        shape, dtype = tuple(int(extent) for extent in array.shape), str(array.dtype)
        if shape != argument.shape or dtype != argument.dtype:
            raise UsageError(
                f"`{argument.name}` has shape {shape} and dtype {dtype}; "
                f"the kernel takes {argument.shape} and {argument.dtype}"
            )
        tensor = self._tensors[index]
        tensor.copyfrom(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)
        if argument.packer is not None:
            self._module[argument.packer](tensor, self._packed[index])
        if argument.role == "weight":
            self._weights[index] = array

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._tvm.runtime.empty(shape, dtype, self._device)


def loading_code(path: str | os.PathLike[str]) -> str:
    """Returns a Python program that runs a saved library with nothing but TVM and numpy.

    Args:
        path: the library; its signature must lie beside it.

    Raises:
        UsageError: there is no signature.
    """
    path = Path(path)
    arguments = read_signature(path).arguments
    about = _about(path)
    names = _identifiers([argument.name for argument in arguments])
    lines = ["import os", ""]
    if "num_threads" in about:
        num_threads = about["num_threads"]
        lines += [
            "# TVM would take half of the cores.",
            f'os.environ.setdefault("TVM_NUM_THREADS", "{num_threads}")',
        ]
    if any(numpy_dtype(argument.dtype).kind == "V" for argument in arguments):
        lines += ["import ml_dtypes  # numpy's dtypes of such names"]
    lines += [
        "import numpy as np",
        "import tvm",
        "",
        f"library = tvm.runtime.load_module({str(path.resolve())!r})",
        "rng = np.random.default_rng(0)",
    ]
    passed = list(names)
    for i, (argument, name) in enumerate(zip(arguments, names, strict=True)):
        if argument.role == "output":
            lines += [f'{name} = tvm.runtime.empty({argument.shape}, "{argument.dtype}")']
            continue
        # An integer may be an index, and nothing else is inside every range.
        source = "np.zeros" if numpy_dtype(argument.dtype).kind in "iub" else "rng.standard_normal"
        values = f'{source}({argument.shape}).astype("{argument.dtype}")'
        lines += [f"{name} = tvm.runtime.tensor({values})  # your {argument.role}"]
        if argument.packer is not None:
            passed[i] = f"{name}_packed"
            lines += [
                f'{passed[i]} = tvm.runtime.empty({argument.packed_shape}, "{argument.packed_dtype}")',
                f'library["{argument.packer}"]({name}, {passed[i]})  # once per weight',
            ]
    lines += [f'library["main"]({", ".join(passed)})  # as often as you like']
    lines += [
        f"print({name}.numpy())" for argument, name in zip(arguments, names, strict=True) if argument.role == "output"
    ]
    return "\n".join(lines) + "\n"


def time_against_untuned(
    library: str | os.PathLike[str],
    workload: Any,
    *,
    num_threads: int,
    seed: int = 0,
    rounds: int = 10,
    budget_secs: float = 30.0,
    flush_cache: bool = False,
    devices: Devices | None = None,
) -> tuple[Measurement, Measurement]:
    """Returns (tuned, untuned) measurements, made in turns in a fresh process, outputs verified.

    Args:
        library: a saved library of the workload.
        workload: what it computes.
        num_threads: threads that both may use.
        seed: of the inputs.
        rounds: timings of each.
        budget_secs: no further round starts when this much time has been spent.
        flush_cache: whether each timing begins with cold caches.
        devices: where to; None for this machine.

    Raises:
        DeviceError: no device can be had.
        UsageError: the library is of another workload.
        ReasoningCompilerError: the untuned program does not run.
    """
    from reasoning_compiler.measure.executors.rpc import open_executor
    from reasoning_compiler.measure.instrument import Instrument

    library = Path(library)
    signature = read_signature(library)
    wanted = [(a.name, a.shape, a.dtype, a.role) for a in workload.arguments]
    if [(a.name, a.shape, a.dtype, a.role) for a in signature.arguments] != wanted:
        raise UsageError(f"`library` is {library}, whose arguments are not those of the workload: export it again")
    with (
        open_executor(
            num_threads=num_threads, devices=devices, num_build_workers=1, flush_cache=flush_cache
        ) as executor,
        Instrument(workload, signature.target, executor, seed=seed) as instrument,
    ):
        untuned = instrument.measure_untuned()
        if untuned.artifact is None:
            failure = untuned.measurement.failure
            raise ReasoningCompilerError(f"the untuned program does not run: {failure}")
        tuned, again = instrument.confirm([library, untuned.artifact], rounds=rounds, budget_secs=budget_secs)
        return tuned, again


def _about(path: Path) -> dict[str, Any]:
    """Returns what `save` was told about a library."""
    return json.loads(signature_path(path).read_text()).get("about", {})


def _is_ours(path: Path) -> bool:
    """Tells whether a library was saved at a path: its signature is there, whatever became of the library."""
    try:
        return "arguments" in json.loads(signature_path(path).read_text())
    except (OSError, ValueError, TypeError):
        return False


def _identifiers(names: list[str]) -> list[str]:
    """Returns names that Python takes for variables, each different."""
    made: list[str] = []
    for name in names:
        identifier = re.sub(r"\W", "_", name)
        if not identifier or identifier[0].isdigit() or identifier in ("library", "rng", "np", "tvm", "os"):
            identifier = f"t_{identifier}"
        while identifier in made:
            identifier += "_"
        made.append(identifier)
    return made

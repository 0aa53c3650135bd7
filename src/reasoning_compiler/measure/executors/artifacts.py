"""Kernels as files: what an executor holds, saved for others to use, and files brought to an executor."""

from __future__ import annotations

from pathlib import Path

from reasoning_compiler.codegen.signature import Signature, read_signature, write_signature
from reasoning_compiler.measure.executors.protocol import Executor, Kernel


def write_artifact(executor: Executor, kernel: Kernel, folder: Path, *, linked: str | None = None) -> Path:
    """Returns the library of a kernel, in a new folder with its signature beside it.

    Args:
        executor: holds the kernel.
        kernel: what to write.
        folder: where to; it is empty. Raises OSError where it cannot be written.
        linked: the key of the library that a device has linked of the kernel's object; that lies beside it then.
    """
    library = folder / "kernel.so"
    library.with_suffix(Path(kernel.code).suffix).write_bytes(executor.get(kernel.code))
    if linked is not None:
        library.write_bytes(executor.get(linked))
    write_signature(library, Signature.from_json(kernel.signature))
    return library


def read_artifact(executor: Executor, library: Path) -> Kernel:
    """Returns the kernel of a library, which the executor holds until it is dropped.

    Raises:
        OSError: there is no such file.
        UsageError: it has no signature beside it.
    """
    object_file = library.with_suffix(".o")
    file = object_file if object_file.exists() else library
    return Kernel(executor.put(file.read_bytes(), suffix=file.suffix), read_signature(library).to_json())

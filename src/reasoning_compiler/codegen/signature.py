"""What a library must be called with, kept as JSON beside it: `kernel.so` has its `kernel.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_compiler.core.arguments import Argument, ArgumentRole
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import Record
from reasoning_compiler.core.whole_files import checksum

FORMAT = 1


@dataclass(frozen=True)
class KernelArgument(Record):
    """One argument of a built kernel: as its user passes it, and as `main` takes it.

    Args:
        name: the argument's name in the kernel.
        shape: its shape, as the user passes it.
        dtype: its dtype, as the user passes it.
        role: what it is for.
        packer: the library's function (as passed, as taken) that lays it out; None where `main` takes it as
            passed.
        packed_shape: its shape as `main` takes it; equal to `shape` without a packer.
        packed_dtype: its dtype as `main` takes it; equal to `dtype` without a packer.
        layout: what the packer does: equal for equal layouts; empty without a packer, or where it is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: ArgumentRole
    packer: str | None
    packed_shape: tuple[int, ...]
    packed_dtype: str
    layout: str = ""


@dataclass(frozen=True)
class Signature(Record):
    """How a library's `main` is called.

    Args:
        arguments: in `main`'s order.
        target: the TVM target that it was built for, as JSON text.
        pipeline: the `PIPELINE_VERSION` of its code; 0 for libraries from before there were versions.
    """

    arguments: tuple[KernelArgument, ...]
    target: str
    pipeline: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **super().to_json()}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Signature:
        if obj.get("format") != FORMAT:
            raise UsageError(f"`format` of a library's signature is {obj.get('format')!r}; known: {FORMAT}")
        return super().from_json({name: obj[name] for name in ("arguments", "target", "pipeline") if name in obj})

    @classmethod
    def of(cls, packed: Any, arguments: Sequence[Argument], *, target: str, pipeline: int) -> Signature:
        """Returns the signature of a kernel, of which some arguments are packed.

        Args:
            packed: the `Packed` kernel.
            arguments: the arguments as the user passes them.
            target: the TVM target as JSON text.
            pipeline: the `PIPELINE_VERSION`.
        """
        built = []
        params = packed.kernel["main"].params
        for index, (argument, param) in enumerate(zip(arguments, params, strict=True)):
            packer = packed.packers.get(index)
            built.append(
                KernelArgument(
                    argument.name,
                    argument.shape,
                    argument.dtype,
                    argument.role,
                    str(packer.attrs["global_symbol"]) if packer is not None else None,
                    tuple(int(extent) for extent in param.shape),
                    str(param.dtype),
                    packed.layout(index),
                )
            )
        return cls(tuple(built), target, pipeline)


def arguments_of(mod: Any) -> tuple[Argument, ...]:
    """Returns the arguments of an IRModule's `main`, of which the last is taken for the output."""
    params = list(mod["main"].params)
    return tuple(
        Argument(
            str(param.name),
            tuple(int(extent) for extent in param.shape),
            str(param.dtype),
            "output" if index == len(params) - 1 else "input",
        )
        for index, param in enumerate(params)
    )


def signature_path(library: Path) -> Path:
    """Returns where the signature of a library lies: beside it, with the suffix `.json`."""
    return library.with_suffix(".json")


def read_signature(library: Path) -> Signature:
    """Returns the signature of a library.

    Raises:
        UsageError: there is none beside it, it cannot be read, or it is of another library.
    """
    path = signature_path(library)
    try:
        obj = json.loads(path.read_text())
        if "sha256" in obj and obj["sha256"] != checksum(library.read_bytes()):
            raise UsageError(f"`{path}` and `{library.name}` do not belong together: save the library again")
        return Signature.from_json(obj)
    except OSError as error:
        raise UsageError(f"`{path}` must say how `{library.name}` is called, and: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"`{path}` is damaged ({error}): save the library again") from None


def write_signature(library: Path, signature: Signature) -> None:
    """Writes the signature of a library beside it."""
    signature_path(library).write_text(json.dumps(signature.to_json(), indent=1) + "\n")

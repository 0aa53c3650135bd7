"""Kernels as executors hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reasoning_compiler.core.measurements import Failure


@dataclass(frozen=True)
class Kernel:
    """Machine code that an executor holds.

    Args:
        code: its key; ".so" at the end is for a library, ".o" for an object that is linked where it is run.
        signature: see `codegen.Signature.to_json`.
    """

    code: str
    signature: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns what a runner reads."""
        return asdict(self)


@dataclass(frozen=True)
class Built:
    """A kernel, or why there is none.

    Args:
        kernel: held by the executor until it is dropped; None where it does not exist.
        build_secs: time to generate and link the code.
        failure: why it does not exist; None where it does.
    """

    kernel: Kernel | None = None
    build_secs: float = 0.0
    failure: Failure | None = None

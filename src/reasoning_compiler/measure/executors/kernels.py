"""Kernels as executors hold them, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning_compiler.codegen.signature import Signature
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.records import Record


@dataclass(frozen=True)
class Kernel(Record):
    """Machine code that an executor holds.

    Args:
        code: its key; ".so" at the end is for a library, ".o" for an object that is linked where it is run.
        signature: how it is called.
    """

    code: str
    signature: Signature


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


@dataclass(frozen=True)
class Ran(Record):
    """What became of a kernel in a runner.

    Args:
        measurement: latencies or a failure.
        verify_secs: the part of its `run_secs` that verification took.
        timed_secs: the part in which the program itself ran, or packed its weights.
        linked: the key of its library, where a device has linked it.
    """

    measurement: Measurement
    verify_secs: float = 0.0
    timed_secs: float = 0.0
    linked: str | None = None

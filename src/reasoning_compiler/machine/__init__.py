"""What a program runs on: this machine as measured, others as published, and the toolchain for them."""

from __future__ import annotations

from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.machine.toolchain import import_tvm, quiet_logging, use_threads

__all__ = ["import_tvm", "num_physical_cores", "quiet_logging", "use_threads"]

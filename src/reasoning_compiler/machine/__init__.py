"""What a program runs on: this machine as measured, others as published, and the toolchain for them."""

from __future__ import annotations

from reasoning_compiler.machine.cores import chosen_threads, num_physical_cores
from reasoning_compiler.machine.fingerprint import differences, fingerprint
from reasoning_compiler.machine.presets import PRESET_NOTES, PRESETS, preset
from reasoning_compiler.machine.probe import cache_dir, detect
from reasoning_compiler.machine.targets import tvm_target, with_target
from reasoning_compiler.machine.toolchain import import_tvm, quiet_logging, use_threads, why_not_tvm

__all__ = [
    "PRESETS",
    "PRESET_NOTES",
    "cache_dir",
    "chosen_threads",
    "detect",
    "differences",
    "fingerprint",
    "import_tvm",
    "num_physical_cores",
    "preset",
    "quiet_logging",
    "tvm_target",
    "use_threads",
    "why_not_tvm",
    "with_target",
]

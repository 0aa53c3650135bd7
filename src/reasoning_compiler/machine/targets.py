"""The TVM target of a machine, and the vector unit that LLVM's features describe."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.machine.toolchain import import_tvm

if TYPE_CHECKING:
    import tvm

# Prefixes of LLVM's names of instruction-set extensions. Its other features are how to tune for the CPU.
_EXTENSIONS = (
    *("sse", "ssse", "avx", "fma", "f16c", "amx", "bmi", "movbe", "adx", "popcnt", "lzcnt"),
    *("gfni", "aes", "vaes", "sha", "pclmul", "vpclmul"),
    *("neon", "dotprod", "fullfp16", "fp16fml", "bf16", "i8mm", "sve", "sme"),
    *("lse", "rdm", "crc", "v8", "v9"),
)

# A hypervisor may hide these although LLVM infers them from the CPU's model; using one then ends the process.
_CAN_BE_HIDDEN = ("avx", "fma", "f16c", "amx", "vaes", "vpclmul", "gfni")


class VectorUnit(NamedTuple):
    """A CPU's vector instruction set: its name, bytes of a register, and number of registers."""

    isa: str
    vector_bytes: int
    num_registers: int


def tvm_target(machine: Machine) -> tvm.target.Target:
    """Returns the TVM target of a machine.

    Raises:
        UsageError: TVM is missing or of a wrong version.
    """
    return import_tvm().target.Target(json.loads(machine.target))


def with_target(machine: Machine, text: str) -> Machine:
    """Returns the machine with another TVM target, one whose programs it can run, and the target's features.

    Args:
        machine: this machine, or a preset.
        text: a target as JSON, as `{"kind": "llvm", "mcpu": "x86-64-v3"}`, or one that TVM knows by name.

    Raises:
        UsageError: TVM does not know the target or cannot build for it, or its programs do not run here.
    """
    tvm = import_tvm()
    try:
        given = json.loads(text) if text.lstrip().startswith("{") else text
        target = tvm.target.Target(given)
        wanted = json.loads(str(target))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UsageError(f"`target` is {text!r}, which TVM does not take ({reason[0][:200]}); try `llvm`") from None
    kind = wanted["kind"]
    if tvm.get_global_func(f"target.build.{kind}", allow_missing=True) is None:
        raise UsageError(f"`target` is of kind {kind!r}, for which this TVM cannot build; use kind llvm")
    if kind != "llvm":
        raise UsageError(f"`target` is of kind {kind!r}; programs are measured on CPUs: use kind llvm")
    arch, own = _arch(wanted), _arch(json.loads(machine.target))
    if arch != own:
        raise UsageError(
            f"`target` is for {arch}, and {machine.name} is {own} and cannot run its programs; "
            "for a device of another kind give `--machine` too"
        )
    plain = {k: v for k, v in wanted.items() if k not in ("tag", "keys")}
    made = plain | {"num-cores": machine.num_cores}
    features = sorted(name for name in _llvm_features(made) if _is_extension(name))
    return replace(machine, target=json.dumps(made), features=tuple(features))


def is_native(target: str) -> bool:
    """Returns whether this machine's own linker makes libraries for a TVM target (JSON text)."""
    described = json.loads(target)
    system = str(described.get("mtriple", "")).partition("-")[2]
    ours = ("apple", "darwin", "macos") if sys.platform == "darwin" else (sys.platform,)
    return _arch(described) == _arch({}) and (not system or any(name in system for name in ours))


def _arch(target: dict[str, Any]) -> str:
    """Returns the architecture of a target, this machine's own where it names none."""
    arch = str(target.get("mtriple", "")).split("-")[0].lower() or platform.machine().lower()
    if arch in ("x86_64", "amd64"):
        return "x86_64"
    return "aarch64" if arch.startswith(("aarch64", "arm64")) else arch


def vector_unit(features: Iterable[str]) -> VectorUnit:
    """Returns the widest vector unit among LLVM's `features` that TVM's fixed-length vectors use."""
    features = set(features)
    if "avx512f" in features:
        return VectorUnit("avx512", 64, 32)
    if "avx2" in features:
        return VectorUnit("avx2", 32, 16)
    if "avx" in features:
        return VectorUnit("avx", 32, 16)
    if "sse2" in features:
        return VectorUnit("sse", 16, 16)
    if "neon" in features:
        return VectorUnit("neon", 16, 32)
    return VectorUnit("unknown", 16, 16)


def target_vector_unit(target: tvm.target.Target) -> VectorUnit:
    """Returns the vector unit of the CPU that an LLVM target names."""
    from tvm.target.codegen import llvm_get_cpu_features

    return vector_unit(str(name) for name in llvm_get_cpu_features(target))


def host_target(num_cores: int, os_features: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the target (what TVM's `Target` takes) for this machine's own CPU, and its features, sorted.

    Args:
        num_cores: physical cores to plan for.
        os_features: extensions that the operating system reports, by LLVM's names; empty if it reports none.
    """
    from tvm.target.codegen import llvm_get_system_cpu

    target = {"kind": "llvm", "mcpu": str(llvm_get_system_cpu()), "num-cores": num_cores}
    return complete_target(target, os_features)


def complete_target(target: dict[str, Any], os_features: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns `target` with the attributes ("mattr") that it needs, and its features, sorted.

    Three corrections: what the CPU has though LLVM does not know its model is added; what LLVM expects of the
    model but the operating system does not report is removed; and where LLVM would use half of the 512-bit
    registers in loops that it vectorizes itself (Intel's CPUs), it is told to use them whole.
    """
    os_features = {name for name in os_features if _is_extension(name)}
    llvm_features = _llvm_features(target)
    attributes = []
    if target["mcpu"] in ("", "generic"):
        attributes += [f"+{name}" for name in sorted(os_features - llvm_features)]
    if os_features:
        hidden = (name for name in llvm_features - os_features if name.startswith(_CAN_BE_HIDDEN))
        attributes += [f"-{name}" for name in sorted(hidden)]
    if "prefer-256-bit" in llvm_features and "-avx512f" not in attributes:
        attributes.append("-prefer-256-bit")
    if attributes:
        target = target | {"mattr": attributes}
    return target, sorted(name for name in _llvm_features(target) if _is_extension(name))


def _llvm_features(target: dict[str, Any]) -> set[str]:
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_features

    return {str(name) for name in llvm_get_cpu_features(Target(target))}


def _is_extension(name: str) -> bool:
    return name.startswith(_EXTENSIONS)

"""What the operating system says about the CPU: its name, its instruction sets, its caches."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reasoning_compiler.machine.cgroup import read_text
from reasoning_compiler.machine.cores import allowed_cpus, one_cpu_per_core

_KIB = 1024
_CPU_DIR = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")

_ARCH_PRCTL, _ARCH_GET_XCOMP_SUPP = 158, 0x1021  # of x86-64
_XFEATURE_MASK_XTILE_DATA = 1 << 18

_SAME_NAME = (
    *("fma", "f16c", "bmi2", "movbe", "adx", "popcnt", "gfni", "aes", "vaes", "vpclmulqdq"),
    *("sve", "sve2", "bf16", "i8mm"),
)
_LLVM_NAME = {flag: flag for flag in _SAME_NAME} | {
    "abm": "lzcnt",
    "bmi1": "bmi",
    "pni": "sse3",
    "avx512_vbmi2": "avx512vbmi2",
    "pclmulqdq": "pclmul",
    # Arm, as in the "Features" line
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "atomics": "lse",
    "asimdrdm": "rdm",
    "crc32": "crc",
}


_IDENTITY = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)


@dataclass(frozen=True)
class Caches:
    """Cache sizes: first level (data) and second level of one core, and the last level, 0 for none."""

    l1_bytes: int = 32 * _KIB
    l2_bytes: int = 512 * _KIB
    l3_bytes: int = 8 * _KIB * _KIB
    line_bytes: int = 64


@dataclass(frozen=True)
class Cpu:
    """One CPU as its operating system describes it.

    Args:
        name: the model's name; empty where the system does not tell, as Linux on Arm.
        identity: a hash of all that tells this CPU from others: maker, family, model, stepping and flags.
        features: instruction-set extensions by LLVM's names; empty where the system does not tell.
        caches: its caches, as far as this process' cores reach them.
    """

    name: str
    identity: str
    features: frozenset[str]
    caches: Caches


def read_cpu() -> Cpu:
    """Returns the CPU of this machine. What cannot be read is empty, or a common value for a cache size."""
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
        return Cpu(name, _hash(name, platform.machine()), frozenset(), _darwin_caches())
    fields = _first_processor(read_text(_CPUINFO))
    name = fields.get("model name", "")
    flags = fields.get("flags") or fields.get("Features") or ""
    identity = _hash(platform.machine(), *(fields.get(key, "") for key in _IDENTITY))
    features = frozenset(filter(None, map(llvm_feature, flags.split())))
    if any(feature.startswith("amx") for feature in features) and not _gives_tiles():
        features = frozenset(feature for feature in features if not feature.startswith("amx"))
    return Cpu(name, identity, features, linux_caches(allowed_cpus() or [0]))


def _gives_tiles(syscall: Callable[..., int] | None = None) -> bool:
    """Returns whether Linux saves the tile registers of AMX, so that processes may have them; since 5.16 it can."""
    supported = ctypes.c_uint64(0)
    syscall = syscall or ctypes.CDLL(None).syscall
    answer = syscall(_ARCH_PRCTL, _ARCH_GET_XCOMP_SUPP, ctypes.byref(supported))
    return answer == 0 and bool(supported.value & _XFEATURE_MASK_XTILE_DATA)


def llvm_feature(flag: str) -> str | None:
    """Returns LLVM's name of a flag in /proc/cpuinfo, or None if it is no extension that compilers use."""
    if flag.startswith(("avx", "sse", "ssse", "amx")):
        joined = flag.replace("amx_", "amx-").replace("sse4_", "sse4.")
        return joined.replace("_", "")
    return _LLVM_NAME.get(flag)


def linux_caches(cpus: list[int], *, cpu_dir: Path = _CPU_DIR) -> Caches:
    """Returns the caches that the logical CPUs `cpus` reach.

    A second-level cache that several cores share counts with a core's share; the last level counts with all
    of its instances (a package of chiplets has several).
    """
    l1 = l2 = l3 = line = 0
    seen = set()
    for cpu in cpus:
        for index in sorted((cpu_dir / f"cpu{cpu}" / "cache").glob("index*")):
            level, kind = read_text(index / "level"), read_text(index / "type")
            size, sharers = _size_bytes(read_text(index / "size")), read_text(index / "shared_cpu_list")
            if kind == "Instruction" or size == 0:
                continue
            line = line or int(read_text(index / "coherency_line_size") or 0)
            if level == "1":
                l1 = l1 or size
            elif level == "2":
                l2 = l2 or size // max(1, len(one_cpu_per_core(_cpu_list(sharers), cpu_dir=cpu_dir)))
            elif level == "3" and sharers not in seen:
                seen.add(sharers)
                l3 += size
    if not l1:
        return Caches()
    return Caches(l1, l2 or l1, l3, line or 64)


def _darwin_caches() -> Caches:
    def number(*names: str) -> int:
        return next((int(text) for text in map(_sysctl, names) if text.isdigit()), 0)

    l1 = number("hw.perflevel0.l1dcachesize", "hw.l1dcachesize")
    l2 = number("hw.perflevel0.l2cachesize", "hw.l2cachesize") // (number("hw.perflevel0.cpusperl2") or 1)
    if not l1:
        return Caches()
    return Caches(l1, l2 or l1, number("hw.l3cachesize"), number("hw.cachelinesize") or 64)


def _first_processor(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_list(text: str) -> list[int]:
    """Returns the numbers in a list as Linux writes it: "0-3,8"."""
    ranges = [part.partition("-") for part in text.split(",") if part]
    return [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]


def _size_bytes(text: str) -> int:
    factor = {"K": _KIB, "M": _KIB * _KIB, "G": _KIB**3}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * factor if digits.isdigit() else 0


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

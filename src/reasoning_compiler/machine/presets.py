"""The paper's five platforms and one with AMX, by published figures, to compile for them or plan without having them.

Peaks are cores × clock × multiply-adds per cycle × float32 lanes × 2, at the clock that all cores sustain;
bandwidth is channels × transfer rate × bytes. No program quite reaches either. The paper names two of the
platforms only by their family; `PRESET_NOTES` says which member stands for it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from reasoning_compiler.core.costs import typical_costs
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.machine.targets import VectorUnit

_AVX2 = VectorUnit("avx2", 32, 16)
_AVX512 = VectorUnit("avx512", 64, 32)
_NEON = VectorUnit("neon", 16, 32)
_LINUX, _LINUX_ON_ARM, _MACOS = "x86_64-linux-gnu", "aarch64-linux-gnu", "arm64-apple-macos"
_X86 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma")
_AVX512_AND_AMX = (
    *("amx-bf16", "amx-int8", "amx-tile"),
    *("avx512bf16", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512fp16", "avx512vl", "avx512vnni", "avxvnni"),
)
_NEOVERSE = ("dotprod", "fullfp16", "lse", "neon")
_APPLE = ("bf16", "dotprod", "fullfp16", "i8mm", "lse", "neon")


class _Published(NamedTuple):
    """What is published of a machine.

    Args:
        unit: its vector unit.
        num_cores: physical ones.
        clock_ghz: that all of them sustain.
        fma_per_cycle: multiply-adds of a core.
        caches: KiB of the first and second level of a core, MiB of the last one.
        bandwidth_gb_per_sec: of its memory.
        triple: LLVM's name of its system.
        cpu: LLVM's name of the CPU.
        features: its extensions, by LLVM's names.
        cache_line_bytes: of all its caches.
        attributes: of its target.
    """

    unit: VectorUnit
    num_cores: int
    clock_ghz: float
    fma_per_cycle: int
    caches: tuple[int, int, int]
    bandwidth_gb_per_sec: float
    triple: str
    cpu: str
    features: tuple[str, ...]
    cache_line_bytes: int = 64
    attributes: tuple[str, ...] = ()

    def machine(self, name: str) -> Machine:
        """Returns the machine, under a name."""
        target = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "num-cores": self.num_cores}
        flops_per_cycle = self.fma_per_cycle * (self.unit.vector_bytes // 4) * 2
        l1_kib, l2_kib, l3_mib = self.caches
        return Machine(
            name=name,
            num_cores=self.num_cores,
            isa=self.unit.isa,
            vector_bytes=self.unit.vector_bytes,
            num_vector_registers=self.unit.num_registers,
            fma_per_cycle=self.fma_per_cycle,
            l1_bytes=l1_kib << 10,
            l2_bytes=l2_kib << 10,
            l3_bytes=l3_mib << 20,
            cache_line_bytes=self.cache_line_bytes,
            peak_flops=self.num_cores * self.clock_ghz * 1e9 * flops_per_cycle,
            bandwidth_bytes_per_sec=self.bandwidth_gb_per_sec * 1e9,
            target=json.dumps(target | ({"mattr": list(self.attributes)} if self.attributes else {})),
            costs=typical_costs(self.unit.isa),
            features=tuple(sorted(self.features)),
        )


_PUBLISHED = {
    # 8 × DDR4-3200
    "graviton2": _Published(_NEON, 64, 2.5, 2, (64, 1024, 32), 204.8, _LINUX_ON_ARM, "neoverse-n1", _NEOVERSE),
    # 8 × DDR4-3200
    "epyc-7r13": _Published(_AVX2, 48, 3.6, 2, (32, 512, 192), 204.8, _LINUX, "znver3", _X86),
    # 256 bits of LPDDR5-6400
    "m2-pro": _Published(_NEON, 8, 3.5, 4, (128, 4096, 24), 200.0, _MACOS, "apple-m2", _APPLE, 128),
    # 2 × DDR4-2666
    "core-i9": _Published(_AVX2, 8, 4.7, 2, (32, 256, 16), 42.7, _LINUX, "skylake", _X86),
    # 2 × DDR4-2133
    "xeon-e3": _Published(_AVX2, 4, 3.5, 2, (32, 256, 8), 34.1, _LINUX, "skylake", _X86),
    # 8 × DDR5-4800
    "xeon-8480": _Published(
        _AVX512,
        56,
        3.0,
        2,
        (48, 2048, 105),
        307.2,
        _LINUX,
        "sapphirerapids",
        _X86 + _AVX512_AND_AMX,
        attributes=("-prefer-256-bit",),
    ),
}

PRESETS: Mapping[str, Machine] = MappingProxyType({name: row.machine(name) for name, row in _PUBLISHED.items()})
"""Machines by name, the paper's platforms first."""

PRESET_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "graviton2": "AWS Graviton2 (Neoverse N1, 64 cores at 2.5 GHz), a whole machine (m6g.metal)",
        "epyc-7r13": "AMD EPYC 7R13 (Zen 3, 48 cores, 3.6 GHz on all), one whole socket",
        "m2-pro": "Apple M2 Pro with 12 cores, the 8 fast ones alone (3.5 GHz), without its matrix unit",
        "core-i9": "assumed to be the Core i9-9900K (8 cores, 4.7 GHz on all); the paper does not say",
        "xeon-e3": "assumed to be the Xeon E3-1240 v5 (4 cores at 3.5 GHz); the paper does not say",
        "xeon-8480": "Intel Xeon Platinum 8480+ (Sapphire Rapids, 56 cores, 3.0 GHz on all), one socket, for AMX",
    }
)
"""What exactly each preset stands for, in one line."""


def preset(name: str) -> Machine:
    """Returns the machine of a name.

    Raises:
        UsageError: there is none of this name.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.4)
    known = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(PRESETS)}"
    raise UsageError(f"`machine` {name!r} is not a preset: {known}")

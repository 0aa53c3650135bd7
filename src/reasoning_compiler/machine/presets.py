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

from reasoning_compiler.core.costs import typical_costs
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.machine.targets import VectorUnit

_KIB, _MIB = 1 << 10, 1 << 20
_GIGA = 1e9

_AVX2 = VectorUnit("avx2", 32, 16)
_AVX512 = VectorUnit("avx512", 64, 32)
_NEON = VectorUnit("neon", 16, 32)
_X86_FEATURES = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma")
_AMX_FEATURES = ("amx-bf16", "amx-int8", "amx-tile")
_AVX512_FEATURES = ("avx512bf16", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512fp16", "avx512vl", "avx512vnni")


def _machine(
    name: str,
    unit: VectorUnit,
    *,
    num_cores: int,
    clock_ghz: float,
    fma_per_cycle: int,
    caches_bytes: tuple[int, int, int],
    bandwidth_gb_per_sec: float,
    triple: str,
    cpu: str,
    features: tuple[str, ...],
    cache_line_bytes: int = 64,
    attributes: tuple[str, ...] = (),
) -> Machine:
    target = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": num_cores}
    lanes = unit.vector_bytes // 4
    l1, l2, l3 = caches_bytes
    return Machine(
        name=name,
        num_cores=num_cores,
        isa=unit.isa,
        vector_bytes=unit.vector_bytes,
        num_vector_registers=unit.num_registers,
        fma_per_cycle=fma_per_cycle,
        l1_bytes=l1,
        l2_bytes=l2,
        l3_bytes=l3,
        cache_line_bytes=cache_line_bytes,
        peak_flops=num_cores * clock_ghz * _GIGA * fma_per_cycle * lanes * 2,
        bandwidth_bytes_per_sec=bandwidth_gb_per_sec * _GIGA,
        target=json.dumps(target | ({"mattr": list(attributes)} if attributes else {})),
        costs=typical_costs(unit.isa),
        features=features,
    )


_MACHINES = (
    _machine(
        "graviton2",
        _NEON,
        num_cores=64,
        clock_ghz=2.5,
        fma_per_cycle=2,
        caches_bytes=(64 * _KIB, 1 * _MIB, 32 * _MIB),
        bandwidth_gb_per_sec=204.8,  # 8 × DDR4-3200
        triple="aarch64-linux-gnu",
        cpu="neoverse-n1",
        features=("dotprod", "fullfp16", "lse", "neon"),
    ),
    _machine(
        "epyc-7r13",
        _AVX2,
        num_cores=48,
        clock_ghz=3.6,
        fma_per_cycle=2,
        caches_bytes=(32 * _KIB, 512 * _KIB, 192 * _MIB),
        bandwidth_gb_per_sec=204.8,  # 8 × DDR4-3200
        triple="x86_64-linux-gnu",
        cpu="znver3",
        features=_X86_FEATURES,
    ),
    _machine(
        "m2-pro",
        _NEON,
        num_cores=8,
        clock_ghz=3.5,
        fma_per_cycle=4,
        caches_bytes=(128 * _KIB, 4 * _MIB, 24 * _MIB),
        bandwidth_gb_per_sec=200.0,  # 256 bits of LPDDR5-6400
        triple="arm64-apple-macos",
        cpu="apple-m2",
        features=("bf16", "dotprod", "fullfp16", "i8mm", "lse", "neon"),
        cache_line_bytes=128,
    ),
    _machine(
        "core-i9",
        _AVX2,
        num_cores=8,
        clock_ghz=4.7,
        fma_per_cycle=2,
        caches_bytes=(32 * _KIB, 256 * _KIB, 16 * _MIB),
        bandwidth_gb_per_sec=42.7,  # 2 × DDR4-2666
        triple="x86_64-linux-gnu",
        cpu="skylake",
        features=_X86_FEATURES,
    ),
    _machine(
        "xeon-e3",
        _AVX2,
        num_cores=4,
        clock_ghz=3.5,
        fma_per_cycle=2,
        caches_bytes=(32 * _KIB, 256 * _KIB, 8 * _MIB),
        bandwidth_gb_per_sec=34.1,  # 2 × DDR4-2133
        triple="x86_64-linux-gnu",
        cpu="skylake",
        features=_X86_FEATURES,
    ),
    _machine(
        "xeon-8480",
        _AVX512,
        num_cores=56,
        clock_ghz=3.0,
        fma_per_cycle=2,
        caches_bytes=(48 * _KIB, 2 * _MIB, 105 * _MIB),
        bandwidth_gb_per_sec=307.2,  # 8 × DDR5-4800
        triple="x86_64-linux-gnu",
        cpu="sapphirerapids",
        features=tuple(sorted((*_X86_FEATURES, *_AMX_FEATURES, *_AVX512_FEATURES, "avxvnni"))),
        attributes=("-prefer-256-bit",),
    ),
)

PRESETS: Mapping[str, Machine] = MappingProxyType({machine.name: machine for machine in _MACHINES})
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

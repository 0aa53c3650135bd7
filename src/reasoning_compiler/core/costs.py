"""What loads, pages, threads and calls cost: measured once on this machine, typical of their class for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from reasoning_compiler.core.records import Record


@dataclass(frozen=True)
class Level(Record):
    """One cache level, as a core sees it while every core works on data of its own.

    Args:
        latency_cycles: of a load whose address comes from the load before it.
        read_bytes_per_cycle: into registers, in order of address.
        update_bytes_per_cycle: read, changed and written back; both directions count.
    """

    latency_cycles: float
    read_bytes_per_cycle: float
    update_bytes_per_cycle: float


@dataclass(frozen=True)
class Costs(Record):
    """The cost model's constants. Cycles are of one core, at the clock of the machine's peak.

    Args:
        l1: first-level data cache.
        l2: second-level cache.
        l3: last-level cache.
        memory_latency_cycles: of a dependent load from main memory, address translation included.
        memory_update: bandwidth of reading and writing back, both directions counted, relative to reading.
        lone_bytes_per_cycle: read from memory in order by one core while the others rest.
        side_by_side: time to read from memory in four streams at once, relative to one stream per core.
        exposed: share that shows of the shorter one of arithmetic and data transfer; never measured.
        fma_latency_cycles: until a multiply-add may use the result of another.
        near_page_cycles: extra time of a load in another page, where data and translation are in the core's caches.
        far_page_cycles: extra time to read two lines of a page far away in memory: translation and a stream that no
            prefetcher follows.
        split_cycles: extra time of a vector load that crosses a cache line.
        gather_cycles: per element of a vector that is loaded with a stride.
        call_cycles: of a scalar function of the C library, as `expf`.
        region_secs: to start a parallel region and wait for its end.
        typical: names of the fields that were not measured.
    """

    l1: Level
    l2: Level
    l3: Level
    memory_latency_cycles: float
    memory_update: float
    lone_bytes_per_cycle: float
    side_by_side: float
    exposed: float
    fma_latency_cycles: float
    near_page_cycles: float
    far_page_cycles: float
    split_cycles: float
    gather_cycles: float
    call_cycles: float
    region_secs: float
    typical: tuple[str, ...] = ()


LEVELS = ("l1", "l2", "l3")
_FIGURES = tuple(field.name for field in fields(Costs) if field.name != "typical")

# Typical of the class, in round numbers. Load-to-use latencies of L1, L2 and (Zen 3) L3 are those of the makers'
# guides; rates are the published widths of the paths, less what streams of loads do not sustain; L3 of server meshes
# and memory vary between products, and no guide gives them.
_CACHES = {
    # Ice Lake servers and later: Intel 64 and IA-32 Architectures Optimization Reference Manual
    "avx512": (Level(5, 128, 128), Level(14, 48, 40), Level(70, 12, 10), 330, 6.0),
    # Zen 3, near Skylake's clients: AMD, Software Optimization Guide for Family 19h Processors
    "avx2": (Level(4, 64, 64), Level(13, 32, 28), Level(46, 20, 16), 300, 7.0),
    # Neoverse N1: Arm, Neoverse N1 Software Optimization Guide and Technical Reference Manual
    "neon": (Level(4, 32, 32), Level(11, 16, 16), Level(80, 10, 8), 260, 8.0),
}

_PAGE_WALK_CYCLES = 26  # two dependent loads of page tables from the second-level cache
_LINES_AWAITED = 12  # by a core at once: its fill buffers

_ASSUMED: dict[str, float] = {
    # One bus carries both directions.
    "memory_update": 1.0,
    # A prefetcher stops at the end of a page. While one of several streams waits there, the others go on.
    "side_by_side": 0.9,
    # Between 0, where all transfers overlap with arithmetic, and 1, where none does. Streams in order would measure
    # the best case only, and a program's loads are less regular.
    "exposed": 0.25,
    "fma_latency_cycles": 4,
    # A translation from the second-level TLB.
    "near_page_cycles": 7,
    # A second access to the cache.
    "split_cycles": 1,
    # A load, and its share of the shuffles that put elements into a vector.
    "gather_cycles": 1.5,
    "call_cycles": 12,
    # TVM's pool of threads, which spin for a while when they have no work.
    "region_secs": 4e-6,
}
"""What stands for figures that were not measured, whatever the machine. These are assumptions."""

_PLAUSIBLE = {
    "l1": ((3, 6), (16, 200), (16, 200)),
    "l2": ((8, 30), (8, 130), (8, 130)),
    "l3": ((25, 200), (2, 70), (2, 70)),
    "memory_latency_cycles": (120, 1500),
    "memory_update": (0.4, 1.0),
    "lone_bytes_per_cycle": (1, 40),
    "side_by_side": (0.5, 1.0),
    "fma_latency_cycles": (3, 6),
    "near_page_cycles": (0, 40),
    "far_page_cycles": (0, 600),
    "split_cycles": (0, 10),
    "gather_cycles": (0.25, 8),
    "call_cycles": (3, 60),
    "region_secs": (2e-7, 1e-4),
}
"""The least and the most that a measurement may say, for each number of a level; beyond it measured something else."""


def typical_costs(isa: str) -> Costs:
    """Returns costs of the class of machines that have a vector instruction set: estimates, in round numbers.

    Args:
        isa: as `Machine.isa`; one without figures of its own has those of AVX2.
    """
    l1, l2, l3, memory_latency_cycles, lone_bytes_per_cycle = _CACHES.get(isa, _CACHES["avx2"])
    return Costs(
        l1,
        l2,
        l3,
        memory_latency_cycles,
        lone_bytes_per_cycle=lone_bytes_per_cycle,
        # Two lines that no prefetcher brings share the latency with the others that are awaited (Little's law).
        far_page_cycles=_PAGE_WALK_CYCLES + 2 * memory_latency_cycles / _LINES_AWAITED,
        typical=_FIGURES,
        **_ASSUMED,
    )


def costs_of(measured: Mapping[str, Any], isa: str) -> Costs:
    """Returns measured costs, with typical ones in place of what is missing or implausible.

    Args:
        measured: some fields of `Costs`, levels as lists.
        isa: as `Machine.isa`.
    """
    kept = {name: value for name, value in measured.items() if _is_plausible(name, value)}
    values = {name: Level(*value) if name in LEVELS else value for name, value in kept.items()}
    return replace(typical_costs(isa), **values, typical=tuple(name for name in _FIGURES if name not in kept))


def _is_plausible(name: str, value: Any) -> bool:
    pairs = zip(value, _PLAUSIBLE[name], strict=True) if name in LEVELS else [(value, _PLAUSIBLE[name])]
    return all(least <= number <= most for number, (least, most) in pairs)

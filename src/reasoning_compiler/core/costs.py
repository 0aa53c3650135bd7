"""What loads, pages, threads and calls cost on a machine: measured once on this one, published for others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Level:
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
class Costs:
    """The cost model's constants. Cycles are of one core, at the clock of the machine's peak.

    Args:
        l1: first-level data cache.
        l2: second-level cache.
        l3: last-level cache.
        memory_latency_cycles: of a dependent load from main memory, address translation included.
        memory_update: bandwidth of reading and writing back, both directions counted, relative to reading.
        lone_bytes_per_cycle: read from memory in order by one core while the others rest.
        side_by_side: time to read from memory in four streams at once, relative to one stream per core.
        exposed: share that shows of the shorter one of arithmetic and data transfer.
        fma_latency_cycles: until a multiply-add may use the result of another.
        near_page_cycles: extra time of a load in another page, where data and translation are in the core's caches.
        far_page_cycles: extra time to read two lines of a page far away in memory: translation and a stream that no
            prefetcher follows.
        split_cycles: extra time of a vector load that crosses a cache line.
        gather_cycles: per element of a vector that is loaded with a stride.
        call_cycles: of a scalar function of the C library, as `expf`.
        region_secs: to start a parallel region and wait for its end.
        published: names of the fields that were not measured.
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
    published: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"published": list(self.published)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Costs:
        levels = {name: Level(**obj[name]) for name in LEVELS}
        return cls(**(obj | levels | {"published": tuple(obj["published"])}))


LEVELS = ("l1", "l2", "l3")

_FACTOR = 5.0  # between plausible figures and published ones
_MAY_BE_ZERO = ("exposed", "near_page_cycles", "far_page_cycles", "split_cycles")

_CACHES = {
    # Ice Lake and Sapphire Rapids servers; Intel, "Optimization Reference Manual"; sustained rates and the mesh's
    # latency as in Alappat et al., "Performance modeling of streaming kernels …", 2022.
    "avx512": (Level(5, 128, 128), Level(14, 48, 40), Level(70, 12, 10), 330, 6.0),
    # Zen 3 and Skylake; Fog, "The microarchitecture of Intel, AMD and VIA CPUs", and AMD's optimization guide 56665.
    "avx2": (Level(4, 64, 64), Level(13, 32, 28), Level(46, 20, 16), 300, 7.0),
    # Neoverse N1; Arm, "Neoverse N1 Software Optimization Guide", and its technical reference manual.
    "neon": (Level(4, 32, 32), Level(11, 16, 16), Level(80, 10, 8), 260, 8.0),
}


def published_costs(isa: str) -> Costs:
    """Returns typical costs of machines with a vector instruction set, from their makers' manuals.

    Args:
        isa: as `Machine.isa`; one without figures of its own has those of AVX2.
    """
    l1, l2, l3, memory_latency_cycles, lone_bytes_per_cycle = _CACHES.get(isa, _CACHES["avx2"])
    # Two lines that no prefetcher brings: a page walk (26 cycles in Intel's metrics of TLB overhead), and the memory's
    # latency shared by the dozen lines that a core waits for at once (Little's law with 12 fill buffers).
    far_page_cycles = 26 + 2 * memory_latency_cycles / 12
    return Costs(
        l1,
        l2,
        l3,
        memory_latency_cycles,
        memory_update=1.0,
        lone_bytes_per_cycle=lone_bytes_per_cycle,
        side_by_side=0.9,  # a prefetcher stops at the end of a page, one of several streams does not wait for it
        exposed=0.25,
        fma_latency_cycles=4,
        near_page_cycles=7,  # a translation from the second-level TLB (Intel and AMD: 7 or 8)
        far_page_cycles=far_page_cycles,
        split_cycles=1,  # a second access to the cache
        gather_cycles=1.5,  # a load and its share of the shuffles
        call_cycles=12,
        region_secs=4e-6,  # TVM's pool of spinning threads
        published=tuple(field.name for field in fields(Costs) if field.name != "published"),
    )


def costs_of(measured: Mapping[str, Any], isa: str) -> Costs:
    """Returns measured costs, with published ones in place of what is missing or implausible.

    Args:
        measured: some fields of `Costs`, levels as lists.
        isa: as `Machine.isa`.
    """
    usual = published_costs(isa)
    values: dict[str, Any] = {}
    published = []
    for name in (field.name for field in fields(Costs) if field.name != "published"):
        value, expected = measured.get(name), getattr(usual, name)
        pairs = zip(value, astuple(expected), strict=True) if value and name in LEVELS else [(value, expected)]
        if value is not None and all(_is_plausible(v, e, may_be_zero=name in _MAY_BE_ZERO) for v, e in pairs):
            values[name] = Level(*value) if name in LEVELS else value
        else:
            values[name] = expected
            published.append(name)
    return Costs(**values, published=tuple(published))


def _is_plausible(value: float, expected: float, *, may_be_zero: bool) -> bool:
    least = 0.0 if may_be_zero else expected / _FACTOR
    return math.isfinite(value) and least <= value <= expected * _FACTOR

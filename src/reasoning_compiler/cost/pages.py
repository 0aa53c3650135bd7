"""How often a loop nest comes back to a page that the core has lost sight of.

A core keeps the translations of a few dozen pages at hand, and its prefetchers follow streams in as many; no prefetcher
crosses the end of a page. What a loop walks through with a stride of a page or more, a few lines on each, pays for each
of them (Intel, "64 and IA-32 Architectures Optimization Reference Manual", on data prefetching; Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication", 2008, on TLB misses).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.cost.cache_traffic import LevelTraffic, entered_bytes, fitting_depth, held_granules
from reasoning_compiler.ir.nest import Nest

PAGE_BYTES = 4096
PAGES_AT_HAND = 64
"""Translations in the first-level TLB: 64 from Skylake and Zen on, 48 of Neoverse N1, 96 of Golden Cove."""
STREAMS = 32
"""Pages in which the prefetchers of a core follow what comes from memory (Intel, as above)."""


def page_cycles(nest: Nest, machine: Machine, levels: Sequence[LevelTraffic]) -> float:
    """Returns the cycles of all cores together that the nest's page crossings add to streams in order.

    A stream in order needs a visit for each page of bytes. Only what is visited more often counts.

    Args:
        nest: the loops.
        machine: the CPU.
        levels: the nest's cache traffic; visits for what comes from memory are far ones.
    """
    held = [held_granules(nest, access, PAGE_BYTES) for access in nest.accesses]
    footprints = [sum(each) for each in zip(*held, strict=True)]
    if not footprints or footprints[0] <= STREAMS * PAGE_BYTES:
        return 0.0
    depths = [fitting_depth(footprints, pages * PAGE_BYTES) for pages in (PAGES_AT_HAND, STREAMS)]
    far = _visits(nest, machine, held, depths[1])
    near = far if depths[0] == depths[1] else _visits(nest, machine, held, depths[0])
    cycles = 0.0
    for index, from_memory in enumerate(levels[-1].entered):
        at_hand, in_sight = near[index], far[index]
        num_far = min(in_sight.number, from_memory / in_sight.num_bytes) if in_sight.num_bytes else 0.0
        num_near = max(0.0, at_hand.number - num_far)
        cycles += num_far * in_sight.share_left_out * machine.costs.far_page_cycles
        cycles += num_near * at_hand.share_left_out * machine.costs.near_page_cycles
    return nest.share * cycles


class _Visits(NamedTuple):
    """How often a buffer's pages are visited, and the bytes of each visit."""

    number: float
    num_bytes: float

    @property
    def share_left_out(self) -> float:
        """The share of the page that a visit leaves out, and which asks for other visits."""
        return 1 - self.num_bytes / PAGE_BYTES


def _visits(nest: Nest, machine: Machine, held: Sequence[Sequence[int]], depth: int) -> list[_Visits]:
    """Returns the visits of each access where the pages of the loops from `depth` inward stay in sight."""
    whole = max(depth - 1, 0)
    found = []
    for access, in_pages in zip(nest.accesses, held, strict=True):
        in_lines = held_granules(nest, access, machine.cache_line_bytes)[whole]
        number = entered_bytes(nest, access, depth, in_pages) / PAGE_BYTES
        found.append(_Visits(number, PAGE_BYTES * in_lines / max(1, in_pages[whole])))
    return found

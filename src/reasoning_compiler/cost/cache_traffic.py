"""What each cache level holds of a loop nest, and the bytes that come into it from the one behind.

From footprints and reuse distances, as in Li et al., "Analytical characterization and design space exploration for
optimization of CNNs", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.ir.nest import Access, Nest

_WAY_BYTES = {"L1": 4096, "L2": 65536}
"""Lines so far apart share a set. A way of a first-level cache is a page, so that finding a set needs no translation;
those of second-level caches have 64 KB in most; the last level scatters its lines."""


@dataclass(frozen=True)
class LevelTraffic:
    """What one cache level holds and what has to come into it.

    Args:
        level: "L1", "L2" or "L3".
        from_loop: the outermost loop whose whole working set the level holds ("" if not even one iteration fits).
        working_set_bytes: of that loop.
        read_bytes: moved into the level from the one behind it, over the whole nest, all cores; of what is only read.
        updated_bytes: of what is written: moved in, and back again.
        entered: bytes of each access of the nest that are moved in.
    """

    level: str
    from_loop: str
    working_set_bytes: int
    read_bytes: float
    updated_bytes: float
    entered: tuple[float, ...]

    @property
    def bytes_in(self) -> float:
        """All that is moved."""
        return self.read_bytes + self.updated_bytes


def cache_traffic(nest: Nest, machine: Machine) -> tuple[LevelTraffic, ...]:
    """Returns the traffic into each cache level over the whole nest, innermost first."""
    sizes = [("L1", machine.l1_bytes), ("L2", machine.l2_bytes)]
    if machine.l3_bytes:
        sizes.append(("L3", max(machine.l2_bytes, machine.l3_bytes // machine.num_cores)))  # of one core
    held = [held_granules(nest, access, machine.cache_line_bytes) for access in nest.accesses]
    footprints = [sum(each) for each in zip(*held, strict=True)] or [0] * (len(nest.loops) + 1)
    levels = []
    for name, size in sizes:
        depth = fitting_depth(footprints, usable_bytes(size))
        entered = []
        for access, each in zip(nest.accesses, held, strict=True):
            collision = _collision(nest, access, depth, machine, name)
            entered.append(nest.share * entered_bytes(nest, access, depth, each, collision=collision))
        written = sum(size for access, size in zip(nest.accesses, entered, strict=True) if access.writes)
        loop = nest.loops[depth].name if depth < len(nest.loops) else ""
        levels.append(LevelTraffic(name, loop, footprints[depth], sum(entered) - written, 2 * written, tuple(entered)))
    return tuple(levels)


def usable_bytes(cache_bytes: int) -> float:
    """Returns how much of a cache a nest's data can count on: all but one way of eight.

    That one is for what streams through (Low et al., "Analytical modeling is enough for high-performance BLIS", 2016).
    """
    return 7 / 8 * cache_bytes


def held_granules(nest: Nest, access: Access, granule: int) -> list[int]:
    """Returns the bytes of all lines or pages that one access touches, from each depth inward; none of registers."""
    return [0] * (len(nest.loops) + 1) if access.in_registers else nest.held_bytes(access, granule)


def fitting_depth(footprints: Sequence[int], size: float) -> int:
    """Returns the outermost depth from which everything fits into a size; the innermost of all where nothing does."""
    return next((depth for depth, bytes_ in enumerate(footprints) if bytes_ <= size), len(footprints) - 1)


def entered_bytes(
    nest: Nest, access: Access, depth: int, held_bytes: Sequence[int], *, collision: int | None = None
) -> float:
    """Returns bytes of one buffer that enter a cache that holds the working set of the loops from `depth` inward.

    What one iteration of the loop around them shares with the next, as the rest of a line or a window that slides, is
    still there.

    Args:
        nest: the loops.
        access: the buffer's.
        depth: see above.
        held_bytes: of the buffer's lines, from each depth inward.
        collision: a loop whose lines drive each other out of a few sets; whatever runs around it reads them again.
    """
    if access.in_registers or (access.shared and depth <= access.shared):
        return 0.0  # made and used while it is still there
    whole = max(depth - 1, 0) if collision is None else collision  # over this loop, each byte comes in once
    times, moved = 1, collision is not None or (whole < depth and access.moved_by(whole))
    for index in range(whole - 1, -1, -1):
        # A buffer that the loop around does not move through is still there in its next iteration; one that only every
        # so many iterations move through, as heads in a loop that is fused of heads and rows, most of the time.
        extent = nest.loops[index].extent
        pace = access.paces[index] if access.steps else 0.0
        times *= extent if moved else max(1, math.ceil(extent * min(1.0, pace)))
        moved = moved or pace > 0
    return float(held_bytes[whole] * times)


def _collision(nest: Nest, access: Access, depth: int, machine: Machine, level: str) -> int | None:
    """Returns the innermost loop from `depth` on whose lines are too many for the sets that they fall into, if any."""
    if level not in _WAY_BYTES:
        return None
    way_bytes, line = _WAY_BYTES[level], machine.cache_line_bytes
    ways = max(1, (machine.l1_bytes if level == "L1" else machine.l2_bytes) // way_bytes)
    for index in range(len(nest.loops) - 1, depth - 1, -1):
        stride = int(abs(access.stride(index)) * access.item_bytes)
        if stride >= line:
            sets = min(way_bytes // line, way_bytes // math.gcd(stride, way_bytes))
            if nest.loops[index].extent > ways * sets:
                return index
    return None

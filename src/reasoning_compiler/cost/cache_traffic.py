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

_CACHE_SHARE = 0.75  # of a cache that one nest's data can count on
CACHE_WAYS = {"L1": 8, "L2": 16}
WAY_BYTES = {"L1": 4096, "L2": 65536}  # typical: lines so far apart share a set; the last cache scatters them


@dataclass(frozen=True)
class LevelTraffic:
    """What one cache level holds and what has to come into it.

    Args:
        level: "L1", "L2" or "L3".
        from_loop: the outermost loop whose whole working set the level holds ("" if not even one iteration fits).
        working_set_bytes: of that loop.
        bytes_in: moved into the level from the one behind it, over the whole nest, all cores.
    """

    level: str
    from_loop: str
    working_set_bytes: int
    bytes_in: float


def cache_traffic(nest: Nest, machine: Machine) -> tuple[LevelTraffic, ...]:
    """Returns the traffic into each cache level over the whole nest, innermost first."""
    sizes = [("L1", machine.l1_bytes), ("L2", machine.l2_bytes)]
    if machine.l3_bytes:
        sizes.append(("L3", max(machine.l2_bytes, machine.l3_bytes // machine.num_cores)))  # of one core
    depths = range(len(nest.loops) + 1)
    nothing, line = [0] * len(depths), machine.cache_line_bytes
    held = [nothing if access.in_registers else nest.line_bytes(access, line) for access in nest.accesses]
    footprints = [sum(each[depth] for each in held) for depth in depths]
    levels = []
    for name, size in sizes:
        depth = next((d for d, f in enumerate(footprints) if f <= _CACHE_SHARE * size), len(nest.loops))
        buffers = zip(nest.accesses, held, strict=True)
        moved = nest.share * sum(_bytes_in(nest, access, depth, machine, name, each) for access, each in buffers)
        loop = nest.loops[depth].name if depth < len(nest.loops) else ""
        levels.append(LevelTraffic(name, loop, footprints[depth], moved))
    return tuple(levels)


def _bytes_in(nest: Nest, access: Access, depth: int, machine: Machine, level: str, held_bytes: Sequence[int]) -> float:
    """Returns bytes of one buffer that enter a cache that holds the working set of the loops from `depth` inward.

    What one iteration of the loop around them shares with the next, as the rest of a line or a window that slides, is
    still there, unless its lines have driven each other out of a few sets. `held_bytes` are of the buffer's lines, from
    each depth inward.
    """
    if access.in_registers or (access.shared and depth <= access.shared):
        return 0.0  # made and used while it is still there
    whole = max(depth - 1, 0)  # over this loop, each byte comes in once
    if _collides(nest, access, depth, machine, level):
        whole = depth
    times, moved = 1, whole < depth and access.moved_by(whole)
    for index in range(whole - 1, -1, -1):
        # A buffer that the loop around does not move through is still there in its next iteration; one that only every
        # so many iterations move through, as heads in a loop that is fused of heads and rows, most of the time.
        extent = nest.loops[index].extent
        pace = max((abs(dim[index]) for dim in access.steps), default=0.0)
        times *= extent if moved else max(1, math.ceil(extent * min(1.0, pace)))
        moved = moved or pace > 0
    return held_bytes[whole] * times * (2 if access.writes else 1)


def _collides(nest: Nest, access: Access, depth: int, machine: Machine, level: str) -> bool:
    """Tells whether the lines that a loop walks through with a stride are too many for the sets that they fall into."""
    if level not in CACHE_WAYS:
        return False
    way_bytes, line = WAY_BYTES[level], machine.cache_line_bytes
    for index in range(depth, len(nest.loops)):
        stride = int(abs(access.stride(index)) * access.item_bytes)
        if stride >= line:
            sets = min(way_bytes // line, way_bytes // math.gcd(stride, way_bytes))
            if nest.loops[index].extent > CACHE_WAYS[level] * sets:
                return True
    return False

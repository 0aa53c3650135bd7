"""Tile groups: the tile decisions that together tile one block, with the block's plain loop nest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reasoning_compiler.records import Decision, TileDomain
from reasoning_compiler.space.nest import Nest


@dataclass(frozen=True)
class TileGroup:
    """One block that multi-level tiling splits.

    Args:
        block: its name.
        structure: as "SSRSRS".
        nest: its loops before tiling.
        decisions: (loop name, decision name, domain) of each tiled loop, in the nest's order.
        max_jobs: the largest product of outer loops that the compiler runs in parallel.
        max_vector: the largest extent that it vectorizes.
    """

    block: str
    structure: str
    nest: Nest
    decisions: tuple[tuple[str, str, TileDomain], ...]
    max_jobs: int
    max_vector: int

    def tiled(self, factors: Mapping[str, Sequence[int]], *, unroll_limit: int) -> Nest:
        """Returns the nest with these factors by loop name, parallel and vectorized as MetaSchedule will do it."""
        nest = self.nest.tiled(self.structure, factors, unroll_limit=unroll_limit)
        loops = list(nest.loops)
        jobs = 1
        for index, loop in enumerate(loops):
            if loop.reduces or jobs > self.max_jobs:
                break
            jobs *= loop.extent
            loops[index] = replace(loop, kind="parallel")
        last = loops[-1]
        if not last.reduces and last.kind == "serial" and 1 < last.extent <= self.max_vector:
            loops[-1] = replace(last, kind="vectorized")
        return replace(nest, loops=tuple(loops))


def tile_groups(
    raw: Sequence[Nest], table: Sequence[Decision], *, max_jobs: int, max_vector: int
) -> tuple[TileGroup, ...]:
    """Returns the tile groups of a program whose tiles are all whole.

    Args:
        raw: the program's nests before the postprocessors.
        table: its decisions.
        max_jobs: see `TileGroup`.
        max_vector: see `TileGroup`.
    """
    by_name = {d.name: d for d in table if isinstance(d.domain, TileDomain)}
    groups = []
    for nest in raw:
        if not nest.tiling:
            continue
        kept = [i for i, loop in enumerate(nest.loops) if loop.name.endswith("_0")]
        loops = tuple(replace(nest.loops[i], name=nest.loops[i].name.removesuffix("_0")) for i in kept)
        accesses = tuple(
            replace(a, steps=tuple(tuple(dim[i] for i in kept) for dim in a.steps)) for a in nest.accesses
        )
        decisions = tuple(
            (loop.name, f"{nest.block}.{loop.name} tile", by_name[f"{nest.block}.{loop.name} tile"].domain)
            for loop in loops
            if f"{nest.block}.{loop.name} tile" in by_name
        )
        if len(decisions) == len(loops):
            plain = replace(nest, loops=loops, accesses=accesses, tiling="")
            groups.append(TileGroup(nest.block, nest.tiling, plain, decisions, max_jobs, max_vector))
    return tuple(groups)


"""Tile groups: the tile decisions that together tile one block, with the block's plain loop nest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import PREFETCH_BYTES, Decision, TileDomain
from reasoning_compiler.cost.sizing import Domain, Sizing
from reasoning_compiler.cost.tile_choice import TileChooser
from reasoning_compiler.ir.nest import Nest

WHOLE_REDUCTION = "SSRRS"
"""How our own rules tile: a register tile takes the whole reduction, outermost loops first."""

TileWords = Callable[[Mapping[str, int]], str]
"""Returns a sentence on a way of tiling, given the innermost factor of each loop; empty for none."""


@dataclass(frozen=True)
class TileGroup(Sizing):
    """One block that multi-level tiling splits.

    Args:
        block: its name.
        structure: as "SSRSRS".
        nest: its loops before tiling.
        decisions: (loop name, decision name, domain) of each tiled loop, in the nest's order.
        max_jobs: the largest product of outer loops that the compiler runs in parallel.
        max_vector: the largest extent that it vectorizes.
        needs: the structure choices, (decision, alternative), under which the block has these decisions.
        prefetch: the decision on how many bytes ahead its streams are prefetched; None where there is none.
        copies: what is copied in each call for this way of tiling.
        packed: the buffers of those copies that are laid out in the order in which the tiled block reads them.
        words: what the rules say that made the structure choices.
    """

    block: str
    structure: str
    nest: Nest
    decisions: tuple[tuple[str, str, TileDomain], ...]
    max_jobs: int
    max_vector: int
    needs: tuple[tuple[str, str], ...] = ()
    prefetch: Decision | None = None
    copies: tuple[Nest, ...] = ()
    packed: frozenset[str] = frozenset()
    words: tuple[TileWords, ...] = field(default=(), compare=False)

    @property
    def domains(self) -> dict[str, Domain]:
        """Those of the tile decisions."""
        return {name: domain for _, name, domain in self.decisions}

    @property
    def family(self) -> Hashable:
        """The tiling structure; with an operand packed in each call it counts as another one."""
        return self.structure, bool(self.packed)

    @property
    def prefetch_bytes(self) -> int:
        """A distance that suits most machines: some hundred nanoseconds ahead of a core's share of the bandwidth."""
        values = self.prefetch.domain.values if self.prefetch is not None else (0,)
        return int(sorted(values)[len(values) // 2])

    def on(self, machine: Machine, unrolls: Sequence[int]) -> TileChooser:
        """Returns who chooses tilings on a machine; see `Sizing`."""
        return TileChooser(self, machine, unrolls)

    def tiled(self, factors: Mapping[str, Sequence[int]], *, unroll_limit: int, prefetch_bytes: int = 0) -> Nest:
        """Returns the nest with these factors by loop name, parallel and vectorized as MetaSchedule will do it."""
        nest = self.nest.tiled(self.structure, factors, unroll_limit=unroll_limit).reading_in_order(self.packed)
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
        return replace(nest, loops=tuple(loops), prefetch_bytes=prefetch_bytes)


def tile_groups(
    raw: Sequence[Nest],
    table: Sequence[Decision],
    *,
    max_jobs: int,
    max_vector: int,
    own: Collection[str],
    packing: Collection[str] = (),
) -> tuple[TileGroup, ...]:
    """Returns the tile groups of a program whose tiles are all whole.

    Args:
        raw: the program's nests before the postprocessors.
        table: its decisions.
        max_jobs: see `TileGroup`.
        max_vector: see `TileGroup`.
        own: the kernel's own blocks; what a tiled block reads of others is a copy.
        packing: the blocks that copy an operand into the order in which it is read.
    """
    groups = []
    for nest in raw:
        if not nest.tiling:
            continue
        tiles = {f"{d.loop}_0": d for d in table if d.block == nest.block and isinstance(d.domain, TileDomain)}
        kept = [i for i, loop in enumerate(nest.loops) if loop.name.endswith("_0")]  # TVM's name for the outermost part
        if any(nest.loops[i].name not in tiles for i in kept):
            continue
        mine = [tiles[nest.loops[i].name] for i in kept]
        loops = tuple(replace(nest.loops[i], name=tile.loop) for i, tile in zip(kept, mine, strict=True))
        accesses = tuple(replace(a, steps=tuple(tuple(dim[i] for i in kept) for dim in a.steps)) for a in nest.accesses)
        decisions = tuple((tile.loop, tile.name, tile.domain) for tile in mine)
        prefetch = next((d for d in table if d.block == nest.block and d.role == PREFETCH_BYTES), None)
        read = {access.buffer for access in nest.accesses if not access.writes}
        made = [each for each in raw if each.block not in own and each.output and each.output.buffer in read]
        groups.append(
            TileGroup(
                nest.block,
                nest.tiling,
                replace(nest, loops=loops, accesses=accesses, tiling=""),
                decisions,
                max_jobs,
                max_vector,
                prefetch=prefetch,
                copies=tuple(_in_parallel(each, max_vector) for each in made),
                packed=frozenset(each.output.buffer for each in made if each.block in packing and each.output),
            )
        )
    return tuple(groups)


def _in_parallel(copy: Nest, max_vector: int) -> Nest:
    """Returns a nest as the postprocessors will leave it: the outermost loop parallel, the innermost in vectors."""
    first, *rest = copy.loops
    if rest and rest[-1].extent <= max_vector:
        rest[-1] = replace(rest[-1], kind="vectorized")
    return replace(copy, loops=(replace(first, kind="parallel"), *rest))

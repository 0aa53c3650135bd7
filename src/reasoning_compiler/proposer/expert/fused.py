"""Sizes for attention that is fused over rows, as an engineer would choose them from the machine's figures.

Two register tiles share their rows: one over keys (the scores), one over depth (the result). What counts is how many
multiply-adds each load feeds, whether a panel of keys and the block's rows of Q stay in the first-level cache, and
whether the block's scores stay in the second with the keys and values of a head. No hardware is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import ChoiceDomain, Decision, TileDomain, Value
from reasoning_compiler.cost.analysis import clock_hz
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.proposer.expert.ideas import Edits
from reasoning_compiler.proposer.expert.tiles import prime_moves
from reasoning_compiler.rules.fused_label import FUSED, MASKED

_CACHE_SHARE = 0.75
_L2_BYTES_PER_CYCLE, _L3_BYTES_PER_CYCLE = 32, 16
_LATENCY_CYCLES = 4
_LOADS_PER_CYCLE = 2
_SCORE_BUFFERS = 3  # scores, exponentials, probabilities
_LIVE_BUFFERS = 2  # of them at a time: each is made of the one before
_SCORE_PASSES = 6  # over them before the second product, which reads them once for each of its panels
_MEMORY_SHOWS = 0.5  # of the time in which scores that no cache holds come and go
_SOFTMAX_CYCLES = 20  # for one vector of scores
_ITEM_BYTES = 4


class Sizes(NamedTuple):
    """Values of the four decisions: [blocks, tiles, rows], [panels, vectors] of depth and of keys, and steps."""

    rows: tuple[int, ...]
    depth: tuple[int, ...]
    keys: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class FusedChoice:
    """Sizes, what they cost in cycles of one core for one head (more where cores idle), and why they should do well."""

    sizes: Sizes
    cycles: float
    reasoning: str


class FusedChooser:
    """Chooses sizes for one attention that is fused over rows.

    Args:
        table: of a program with that structure.
        machine: a CPU.
        heads: how often the attention is computed, each time with rows of its own; 0 if it is not known.

    Raises:
        LookupError: nothing in the table is fused over rows.
    """

    def __init__(self, table: Sequence[Decision], machine: Machine, *, heads: int = 0) -> None:
        sites = [d for d in table if d.kind == "structure" and is_fused(d.value)]
        if not sites:
            raise LookupError("nothing is fused over rows")
        self.table = tuple(table)
        self.site, self.label = sites[0].name, str(sites[0].value)
        self.block = self.site.rpartition(" ")[0]
        mine = [d for d in table if d.kind != "structure" and d.name.startswith(f"{self.block}.")]
        tiles = [d for d in mine if isinstance(d.domain, TileDomain)]
        steps = [d for d in mine if isinstance(d.domain, ChoiceDomain)]
        # In the order in which the rule takes them.
        self.decisions = (*tiles[:3], *steps[:1])
        self.names = tuple(d.name for d in self.decisions)
        self._machine, self._heads = machine, heads
        self._lanes = machine.vector_bytes // _ITEM_BYTES

    @property
    def present(self) -> Sizes:
        """The sizes of the table's program."""
        return Sizes(*(d.value for d in self.decisions))  # type: ignore[arg-type]

    def edits(self, sizes: Sizes) -> dict[str, Value]:
        """Returns the structure and these sizes by decision name."""
        return {self.site: self.label} | dict(zip(self.names, sizes, strict=True))

    def edits_beside(self, others: dict[str, Value], sizes: Sizes) -> Edits:
        """Returns edits of the start program: these sizes, with what of other values has a meaning beside them."""
        wanted = {**others, **self.edits(sizes)}
        here = [d for d in self.table if d.name in wanted and d.domain.why_not(wanted[d.name]) is None]
        return tuple((d.name, wanted[d.name]) for d in here if d.kind == "structure" or d.value != wanted[d.name])

    def ranked(self, num: int) -> list[FusedChoice]:
        """Returns up to `num` choices, the best first, no two with the same register tiles."""
        rows, depth, keys, steps = (d.domain for d in self.decisions)
        unrolled = [s for s in steps.values if isinstance(s, int) and s <= 2][-1:]  # type: ignore[union-attr]
        candidates = (
            Sizes(r, d, k, s)
            for r in _splits(rows)
            for d in _splits(depth)
            for k in _splits(keys)
            for s in unrolled
            if self._in_registers(r[-1], d[-1]) and self._in_registers(r[-1], k[-1])
        )
        best: dict[tuple[int, int, int], FusedChoice] = {}
        for sizes in candidates:
            tiles = (sizes.rows[-1], sizes.depth[-1], sizes.keys[-1])
            choice = self.judge(sizes)
            if tiles not in best or choice.cycles < best[tiles].cycles:
                best[tiles] = choice
        return sorted(best.values(), key=lambda c: (c.cycles, c.sizes))[:num]

    def neighbours(self, sizes: Sizes) -> Iterator[Sizes]:
        """Yields sizes that differ in one prime factor or in the steps."""
        for index, decision in enumerate(self.decisions):
            domain = decision.domain
            if isinstance(domain, TileDomain):
                options = (moved for moved in prime_moves(sizes[index]) if domain.why_not(moved) is None)  # type: ignore[arg-type]
            else:
                options = (v for v in domain.values if v != sizes[index])  # type: ignore[misc]
            for value in options:
                yield sizes._replace(**{Sizes._fields[index]: value})

    def judge(self, sizes: Sizes) -> FusedChoice:
        """Returns the sizes with their cost and a sentence."""
        machine, lanes = self._machine, self._lanes
        blocks, tiles, tile_rows = sizes.rows
        rows, num_rows = tiles * tile_rows, math.prod(sizes.rows)
        depth, keys = (math.prod(s) * lanes for s in (sizes.depth, sizes.keys))
        panel = sizes.keys[-1] * lanes
        share = _share(blocks, rows, keys, panel) if MASKED in self.label else 1.0

        l1_bytes = (rows * depth + panel * depth) * _ITEM_BYTES
        from_l2 = l1_bytes > _CACHE_SHARE * machine.l1_bytes
        first = self._tile(tile_rows, sizes.keys[-1], depth, from_l2=from_l2) * num_rows / tile_rows * sizes.keys[0]
        second = self._tile(tile_rows, sizes.depth[-1], keys, from_l2=True) * num_rows / tile_rows * sizes.depth[0]
        first += 0.5 * blocks * keys * depth * _ITEM_BYTES / machine.vector_bytes  # into L1, once for each block
        softmax = _SOFTMAX_CYCLES * num_rows * keys / lanes
        score_bytes = rows * keys * _ITEM_BYTES
        head_bytes = 2 * keys * depth * _ITEM_BYTES
        passes = _SCORE_PASSES + sizes.depth[0]
        softmax += blocks * passes * score_bytes * self._cycles_per_byte(_LIVE_BUFFERS * score_bytes)
        cycles = share * (first + second + softmax)
        if _SCORE_BUFFERS * score_bytes + head_bytes > _CACHE_SHARE * machine.l2_bytes:
            cycles += 0.5 * share * blocks * head_bytes / _L3_BYTES_PER_CYCLE
        jobs = (self._heads or machine.num_cores) * blocks
        cycles *= math.ceil(jobs / machine.num_cores) * machine.num_cores / jobs
        kilobytes = rows * keys * _ITEM_BYTES / 1024
        text = (
            f"Fused over blocks of {rows} rows, whose scores ({kilobytes:.0f} KB) stay in cache; "
            f"register tiles of {tile_rows} rows × {panel} keys and × {sizes.depth[-1] * lanes} of depth "
            f"keep {tile_rows * max(sizes.keys[-1], sizes.depth[-1])} of {machine.num_vector_registers} registers busy."
        )
        if MASKED in self.label:
            text += f" {1 - share:.0%} of the scores are masked and skipped."
        return FusedChoice(sizes, cycles, text)

    def _cycles_per_byte(self, held_bytes: int) -> float:
        """Returns what it costs a core to go once more through data of that size, of what its second cache lacks."""
        machine = self._machine
        bandwidth = machine.bandwidth_bytes_per_sec / machine.num_cores / clock_hz(machine)
        l3_bytes = machine.l3_bytes // machine.num_cores
        from_memory = _MEMORY_SHOWS * _lacking(held_bytes, max(l3_bytes, machine.l2_bytes)) / bandwidth
        return from_memory + (_lacking(held_bytes, machine.l2_bytes) / _L3_BYTES_PER_CYCLE if l3_bytes else 0.0)

    def _in_registers(self, rows: int, vectors: int) -> bool:
        return rows * vectors + vectors + 1 <= self._machine.num_vector_registers

    def _tile(self, rows: int, vectors: int, steps: int, *, from_l2: bool) -> float:
        """Returns the cycles of one register tile summed over so many steps."""
        machine = self._machine
        step = max(
            rows * vectors / machine.fma_per_cycle,
            (rows + vectors) / _LOADS_PER_CYCLE,
            _LATENCY_CYCLES,
            vectors * machine.vector_bytes / _L2_BYTES_PER_CYCLE if from_l2 else 0,
        )
        spilled = max(0, rows * vectors + vectors + 1 - machine.num_vector_registers)
        return steps * (step + 1.5 * spilled + 0.5) + 2 * rows * vectors


def fused_chooser(table: Sequence[Decision], groups: Sequence[TileGroup], machine: Machine) -> FusedChooser:
    """Returns who chooses the sizes of the attention that is fused in a program, however often that is computed.

    Args:
        table: of the program.
        groups: of the space.
        machine: a CPU.

    Raises:
        LookupError: nothing in the table is fused over rows.
    """
    chooser = FusedChooser(table, machine)
    group = next((g for g in groups if g.block == chooser.block), None)
    if group is None:
        return chooser
    *others, _ = (loop.extent for loop in group.nest.loops if not loop.reduces)  # the last is depth
    heads = math.prod(others) // math.prod(chooser.present.rows)
    return FusedChooser(table, machine, heads=heads)


def is_fused(value: Value) -> bool:
    """Tells whether a structure is one that is fused over rows."""
    return isinstance(value, str) and value.startswith(FUSED)


def _lacking(held_bytes: int, cache_bytes: int) -> float:
    """Returns the share of data that a cache does not hold."""
    return max(0.0, 1 - _CACHE_SHARE * cache_bytes / held_bytes)


def _share(blocks: int, rows: int, keys: int, panel: int) -> float:
    """Returns the share of the scores that is computed under a causal mask."""
    needed = (min(keys, math.ceil((block + 1) * rows / panel) * panel) for block in range(blocks))
    return sum(needed) / (blocks * keys)


def _splits(domain: TileDomain | ChoiceDomain) -> list[tuple[int, ...]]:
    """Returns all values of a tile's domain."""
    if not isinstance(domain, TileDomain):
        return []
    divisors = [d for d in range(1, domain.extent + 1) if domain.extent % d == 0]
    inner = itertools.product(divisors, repeat=domain.num_factors - 1)
    whole = ((domain.extent // math.prod(i), *i) for i in inner if domain.extent % math.prod(i) == 0)
    return [value for value in whole if domain.why_not(value) is None]

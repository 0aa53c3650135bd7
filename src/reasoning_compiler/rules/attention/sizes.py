"""Sizes for attention that is fused over rows, as an engineer would choose them from the machine's figures.

Two register tiles share their rows: one over keys (the scores), one over depth (the result). What counts is how many
multiply-adds each load feeds, whether a panel of keys and the block's rows of Q stay in the first-level cache, and
whether the block's scores stay in the second with the keys and values of a head. No hardware is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from reasoning_compiler.core.factors import divisors
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import Decision, TileDomain
from reasoning_compiler.cost.analysis import clock_hz
from reasoning_compiler.cost.cache_traffic import usable_bytes
from reasoning_compiler.cost.register_tile import LOOP_CYCLES
from reasoning_compiler.cost.sizing import Chooser, Domain, Sizing

_SCORE_BUFFERS = 3  # scores, exponentials, probabilities
_LIVE_BUFFERS = 2  # of them at a time: each is made of the one before
_SCORE_PASSES = 6  # over them before the second product, which reads them once for each of its panels
_SOFTMAX_CYCLES = 20  # for one vector of scores
_ITEM_BYTES = 4


class Sizes(NamedTuple):
    """Values of the four decisions: [blocks, tiles, rows], [panels, vectors] of depth and of keys, and steps."""

    rows: tuple[int, ...]
    depth: tuple[int, ...]
    keys: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class SizesChoice:
    """Sizes, and what they cost in cycles of one core for one head (more where cores idle).

    Args:
        sizes: of the four decisions.
        cycles: of one head.
        secs: of all heads, on all cores.
        masked: the share of the scores that a mask leaves out.
    """

    sizes: Sizes
    cycles: float
    secs: float
    masked: float
    unroll: ClassVar[int] = 0  # the rule unrolls by itself


@dataclass(frozen=True)
class RowBlocks(Sizing):
    """The decisions of one attention that is fused over rows, from the first product to the last.

    Args:
        block: the last product's.
        needs: the structure decision, and its alternative.
        decisions: on rows, depth, keys and steps.
        heads: how often the attention is computed, each time with rows of its own.
        masked: a causal mask leaves scores out.
    """

    block: str
    needs: tuple[tuple[str, str], ...]
    decisions: tuple[Decision, Decision, Decision, Decision]
    heads: int
    masked: bool
    family: ClassVar[Hashable] = "rows"
    spans: ClassVar[bool] = True

    @property
    def domains(self) -> dict[str, Domain]:
        """See `Sizing`."""
        return {decision.name: decision.domain for decision in self.decisions}

    def on(self, machine: Machine, unrolls: Sequence[int]) -> SizesChooser:
        """Returns who chooses sizes on a machine; see `Sizing`."""
        return SizesChooser(self, machine)


class SizesChooser(Chooser[SizesChoice]):
    """Chooses sizes for one attention that is fused over rows.

    Args:
        sizing: its decisions.
        machine: a CPU.
    """

    sizing: RowBlocks

    def __init__(self, sizing: RowBlocks, machine: Machine) -> None:
        super().__init__(sizing)
        self._machine = machine
        self._lanes = machine.vector_bytes // _ITEM_BYTES

    def ranked(self, num: int) -> list[SizesChoice]:
        """Returns up to `num` choices, the best first, no two with the same register tiles."""
        rows, depth, keys, steps = self.domains
        unrolled = [s for s in steps.values if isinstance(s, int) and s <= 2][-1:]  # type: ignore[union-attr]
        candidates = (
            Sizes(r, d, k, s)
            for r in _splits(rows)
            for d in _splits(depth)
            for k in _splits(keys)
            for s in unrolled
            if self._in_registers(r[-1], d[-1]) and self._in_registers(r[-1], k[-1])
        )
        best: dict[tuple[int, int, int], SizesChoice] = {}
        for sizes in candidates:
            tiles = (sizes.rows[-1], sizes.depth[-1], sizes.keys[-1])
            choice = self.judge(sizes)
            if tiles not in best or choice.cycles < best[tiles].cycles:
                best[tiles] = choice
        return sorted(best.values(), key=lambda c: (c.cycles, c.sizes))[:num]

    def judge(self, sizes: Sizes | tuple[Any, ...], unroll: int = 0) -> SizesChoice:
        """Returns the sizes with their cost, whatever the unroll limit."""
        machine, lanes, sizes = self._machine, self._lanes, Sizes(*sizes)
        blocks, tiles, tile_rows = sizes.rows
        rows, num_rows = tiles * tile_rows, math.prod(sizes.rows)
        depth, keys = (math.prod(s) * lanes for s in (sizes.depth, sizes.keys))
        panel = sizes.keys[-1] * lanes
        share = _share(blocks, rows, keys, panel) if self.sizing.masked else 1.0

        l1_bytes = (rows * depth + panel * depth) * _ITEM_BYTES
        from_l2 = l1_bytes > usable_bytes(machine.l1_bytes)
        first = self._tile(tile_rows, sizes.keys[-1], depth, from_l2=from_l2) * num_rows / tile_rows * sizes.keys[0]
        second = self._tile(tile_rows, sizes.depth[-1], keys, from_l2=True) * num_rows / tile_rows * sizes.depth[0]
        first += blocks * keys * depth * _ITEM_BYTES / machine.costs.l2.read_bytes_per_cycle * machine.costs.exposed
        softmax = _SOFTMAX_CYCLES * num_rows * keys / lanes
        score_bytes = rows * keys * _ITEM_BYTES
        head_bytes = 2 * keys * depth * _ITEM_BYTES
        passes = _SCORE_PASSES + sizes.depth[0]
        softmax += blocks * passes * score_bytes * self._cycles_per_byte(_LIVE_BUFFERS * score_bytes)
        cycles = share * (first + second + softmax)
        if _SCORE_BUFFERS * score_bytes + head_bytes > usable_bytes(machine.l2_bytes):
            cycles += machine.costs.exposed * share * blocks * head_bytes / machine.costs.l3.read_bytes_per_cycle
        jobs = self.sizing.heads * blocks
        cycles *= math.ceil(jobs / machine.num_cores) * machine.num_cores / jobs
        secs = cycles * self.sizing.heads / machine.num_cores / clock_hz(machine)
        return SizesChoice(sizes, cycles, secs, 1 - share)

    def explain(self, choice: SizesChoice) -> str:
        """Returns in a sentence or two why sizes should do well."""
        _, tiles, tile_rows = choice.sizes.rows
        rows, panel = tiles * tile_rows, choice.sizes.keys[-1] * self._lanes
        kilobytes = rows * math.prod(choice.sizes.keys) * self._lanes * _ITEM_BYTES / 1024
        vectors = max(choice.sizes.keys[-1], choice.sizes.depth[-1])
        text = (
            f"Fused over blocks of {rows} rows, so that their scores ({kilobytes:.0f} KB) stay in cache; "
            f"register tiles of {tile_rows} rows × {panel} keys and × {choice.sizes.depth[-1] * self._lanes} of depth "
            f"need {tile_rows * vectors} accumulators for {self._machine.num_vector_registers} registers."
        )
        return text + (f" {choice.masked:.0%} of the scores are masked and skipped." if self.sizing.masked else "")

    def _cycles_per_byte(self, held_bytes: int) -> float:
        """Returns what it costs a core to go once more through data of that size, of what its second cache lacks."""
        machine = self._machine
        bandwidth = (
            machine.costs.memory_update * machine.bandwidth_bytes_per_sec / machine.num_cores / clock_hz(machine)
        )
        l3_bytes = machine.l3_bytes // machine.num_cores
        from_memory = _lacking(held_bytes, max(l3_bytes, machine.l2_bytes)) / bandwidth
        from_l3 = _lacking(held_bytes, machine.l2_bytes) / machine.costs.l3.update_bytes_per_cycle if l3_bytes else 0.0
        return from_memory + from_l3

    def _in_registers(self, rows: int, vectors: int) -> bool:
        return rows * vectors + vectors + 1 <= self._machine.num_vector_registers

    def _tile(self, rows: int, vectors: int, steps: int, *, from_l2: bool) -> float:
        """Returns the cycles of one register tile summed over so many steps."""
        machine = self._machine
        costs = machine.costs
        load = machine.vector_bytes / costs.l1.read_bytes_per_cycle
        move = 2 * machine.vector_bytes / costs.l1.update_bytes_per_cycle
        step = max(
            rows * vectors / machine.fma_per_cycle,
            (rows + vectors) * load,
            costs.fma_latency_cycles,
            vectors * machine.vector_bytes / costs.l2.read_bytes_per_cycle if from_l2 else 0,
        )
        spilled = max(0, rows * vectors + vectors + 1 - machine.num_vector_registers)
        return steps * (step + move * spilled + LOOP_CYCLES) + move * rows * vectors


def _lacking(held_bytes: int, cache_bytes: int) -> float:
    """Returns the share of data that a cache does not hold."""
    return max(0.0, 1 - usable_bytes(cache_bytes) / held_bytes)


def _share(blocks: int, rows: int, keys: int, panel: int) -> float:
    """Returns the share of the scores that is computed under a causal mask."""
    needed = (min(keys, math.ceil((block + 1) * rows / panel) * panel) for block in range(blocks))
    return sum(needed) / (blocks * keys)


def _splits(domain: Domain) -> list[tuple[int, ...]]:
    """Returns all values of a tile's domain."""
    if not isinstance(domain, TileDomain):
        return []
    inner = itertools.product(divisors(domain.extent, domain.extent), repeat=domain.num_factors - 1)
    whole = ((domain.extent // math.prod(i), *i) for i in inner if domain.extent % math.prod(i) == 0)
    return [value for value in whole if domain.why_not(value) is None]

"""Tiles for one block, as an engineer would choose them: the register tile first, then what surrounds it.

The register tile decides how many multiply-adds a load feeds; the loops around it decide which cache each operand is
read from; the outermost factors decide how evenly the cores are loaded. Candidates come from that order of thought
and are refined by moving single prime factors between levels while the analysis improves. No hardware is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoning_compiler.core.factors import divisors
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import TileDomain, Value
from reasoning_compiler.cost.analysis import BlockAnalysis, analyze_block
from reasoning_compiler.cost.pages import STREAMS
from reasoning_compiler.cost.register_tile import NUM_RUNS, RUN_STEPS
from reasoning_compiler.cost.sizing import Chooser
from reasoning_compiler.ir.dots import registers_of

if TYPE_CHECKING:
    from reasoning_compiler.cost.tiling import TileGroup

Factors = tuple[tuple[int, ...], ...]  # one tuple of factors per tiled loop, in the group's order

_STARTS = 8
_MAX_ROWS_PER_LOOP = 16


@dataclass(frozen=True)
class Tiling:
    """A choice of factors for a tile group (`sizes`), and what the analysis says of it."""

    sizes: Factors
    unroll: int
    analysis: BlockAnalysis
    prefetch_bytes: int = 0
    copying_secs: float = 0.0

    @property
    def secs(self) -> float:
        return self.analysis.secs + self.copying_secs


class TileChooser(Chooser[Tiling]):
    """Ranks tilings of one group on one machine.

    Args:
        group: the block to be tiled.
        machine: a CPU.
        unrolls: the unroll limits that the program may choose, ascending.
    """

    sizing: TileGroup
    domains: tuple[TileDomain, ...]

    def __init__(self, group: TileGroup, machine: Machine, unrolls: Sequence[int]) -> None:
        super().__init__(group)
        self.machine, self.unrolls = machine, tuple(unrolls) or (0,)
        self._spatial = [i for i, loop in enumerate(group.nest.loops) if not loop.reduces]
        self._reducing = [i for i, loop in enumerate(group.nest.loops) if loop.reduces]
        self._known: dict[tuple[Factors, int], Tiling] = {}
        self._copying_secs = sum(analyze_block(nest, machine).secs for nest in group.copies)

    def judge(self, factors: Factors, unroll: int) -> Tiling:
        """Returns the tiling with its analysis; asked twice, it is computed once."""
        key = (factors, unroll)
        if key not in self._known:
            by_name = {name: f for (name, _, _), f in zip(self.sizing.decisions, factors, strict=True)}
            distances = sorted({0, self.sizing.prefetch_bytes})
            nests = (self.sizing.tiled(by_name, unroll_limit=unroll, prefetch_bytes=d) for d in distances)
            judged = (
                Tiling(factors, unroll, analyze_block(nest, self.machine), nest.prefetch_bytes, self._copying_secs)
                for nest in nests
            )
            self._known[key] = min(judged, key=lambda tiling: tiling.secs)
        return self._known[key]

    def ranked(self, num: int) -> list[Tiling]:
        """Returns up to `num` tilings, the most promising first, few of them with the same innermost factors."""
        starts = self._starts()
        climbed = itertools.chain.from_iterable(self._climb(start) for start in starts[:_STARTS])
        met = {(t.sizes, t.unroll): t for t in (*starts, *climbed)}
        best: list[Tiling] = []
        seen: dict[tuple[int, ...], int] = {}
        for tiling in sorted(met.values(), key=lambda t: (t.secs, t.sizes, t.unroll)):
            register_tile = tuple(f[-1] for f in tiling.sizes)
            if seen.get(register_tile, 0) < 1 + len(best) // 6:
                seen[register_tile] = seen.get(register_tile, 0) + 1
                best.append(tiling)
            if len(best) == num:
                break
        return best

    def values(self, tiling: Tiling) -> dict[str, Value]:
        """Returns the values of a tiling's decisions, by name, and how far ahead to prefetch."""
        values = super().values(tiling)
        if tiling.prefetch_bytes and self.sizing.prefetch is not None:
            values[self.sizing.prefetch.name] = tiling.prefetch_bytes
        return values

    def explain(self, tiling: Tiling) -> str:
        """Returns in a sentence or two why a tiling should be fast."""
        found, group, machine = tiling.analysis, self.sizing, self.machine
        inner = {loop: factors[-1] for (loop, _, _), factors in zip(group.decisions, tiling.sizes, strict=True)}
        extents: dict[str, int] = {}
        for name, extent in found.tile:
            loop = name.rpartition("_")[0]
            extents[loop] = extents.get(loop, 1) * extent
        tile = " × ".join(f"{loop} {extent}" for loop, extent in extents.items()) or "one element"
        text = f"{group.block}: register tile {tile}"
        if found.vector_lanes > 1:
            dot = group.nest.dot
            registers, kind = registers_of(machine, dot)
            text += f", {found.accumulators} accumulators for {registers} {kind} registers"
            text += "" if found.in_registers else ", loaded and stored in each iteration"
            if dot is not None:
                text += f"; {dot.name} computes {dot.products_text} products at once, "
                text += f"{dot.gain(machine):g}× the float32 rate"
        else:
            text += ", scalar"
        reducing = [(loop.name, inner[loop.name]) for loop in group.nest.loops if loop.reduces and inner[loop.name] > 1]
        if reducing:
            text += "; reduction in blocks of " + " × ".join(f"{name} {size}" for name, size in reducing)
        level = next((lv for lv in found.levels if lv.level == "L2" and lv.from_loop), None)
        if level is not None:
            text += f"; the working set of loop {level.from_loop}, {level.working_set_bytes / 1024:.0f} KB, fits in L2"
        tasks, cores = found.parallel_extent, machine.num_cores
        if tasks == 1 or cores == 1:
            text += "; on one core"
        elif tasks <= cores:
            text += f"; {tasks} parallel tasks for {cores} cores"
        else:
            text += f"; {tasks} parallel tasks, at most {math.ceil(tasks / cores)} per core"
        if found.strided:
            text += f"; strided access to {', '.join(found.strided)}"
        if tiling.prefetch_bytes:
            text += f"; prefetch {tiling.prefetch_bytes} bytes ahead"
        text = f"{text}; limited by {found.bound}."
        said = [words for tell in group.words if (words := tell(inner))]
        unsaid = [nest.block for nest in group.copies if nest.output and nest.output.buffer not in group.packed]
        return " ".join([text, *said, *([f"Each call also copies {', '.join(unsaid)}."] if unsaid else [])])

    # -- where to start -----------------------------------------------------------------------------------------

    def _starts(self) -> list[Tiling]:
        """Returns the register tiles by their own speed, each with the better of its surroundings."""
        judged = []
        for tile in self._register_tiles():
            surroundings = [self._surround(tile), self._surround(tile, panels=True), *self._in_runs(tile)]
            surroundings += [self._surround(tile, steps=STREAMS // 2)]
            tried = [self.judge(f, self._unroll_for(tile)) for f in surroundings if self.allows(f)]
            judged += [min(tried, key=lambda t: (t.secs, t.sizes))] if tried else []
        return sorted(judged, key=lambda t: (t.analysis.compute_secs, t.sizes))

    def _register_tiles(self) -> Iterable[dict[int, int]]:
        """Yields innermost factors by loop index whose accumulators use but do not exceed the vector registers."""
        if not self._spatial:
            yield {}
            return
        *rows, vector = self._spatial
        item_bytes = self.sizing.nest.output.item_bytes if self.sizing.nest.output else 4
        dot = self.sizing.nest.dot
        lanes = max(1, self.machine.vector_bytes // item_bytes) if dot is None else 1
        registers, _ = registers_of(self.machine, dot)
        widths = divisors(self.domains[vector].extent, self.domains[vector].max_innermost or 64)
        full = [w for w in widths if w % lanes == 0]
        for width in full or widths[-2:]:
            options = [divisors(self.domains[i].extent, _MAX_ROWS_PER_LOOP) for i in rows]
            for counts in itertools.product(*options):
                accumulators = math.prod(counts) * math.ceil(width / lanes)
                if accumulators <= registers - 2:
                    yield dict(zip(rows, counts, strict=True)) | {vector: width}

    def _surround(self, tile: dict[int, int], *, panels: bool = False, steps: int = 64) -> Factors:
        """Returns factors around a register tile: reductions blocked, four jobs a core, the rest next to the tile.

        Args:
            tile: the innermost factors by loop index.
            panels: the vector loop goes outside, whole: what is read along it stays while the other loops pass by.
            steps: of the innermost reduction, at most. Each may read another page; half of those in sight leave room
                for the other operands.
        """
        factors = []
        jobs = 4 * self.machine.num_cores
        vector = self._spatial[-1] if panels and self._spatial else None
        if vector is not None:
            jobs = max(1, jobs * tile[vector] // self.domains[vector].extent)
        for index, domain in enumerate(self.domains):
            levels = [1] * domain.num_factors
            if domain.num_factors == 1:
                levels[0] = domain.extent
            elif index in self._reducing:
                last = index == self._reducing[-1]
                levels[-1] = max(divisors(domain.extent, min(steps, domain.max_innermost or 64))) if last else 1
                levels[0] = domain.extent // levels[-1]
            else:
                levels[-1] = tile[index]
                rest = domain.extent // tile[index]
                levels[0] = rest if index == vector else max(divisors(rest, jobs))
                jobs = jobs if index == vector else max(1, jobs // levels[0])
                levels[-2] *= rest // levels[0]
            factors.append(tuple(levels))
        return tuple(factors)

    def _in_runs(self, tile: dict[int, int]) -> Iterator[Factors]:
        """Yields factors around a tile of one row with which a matrix is read in runs side by side, if there are any.

        A matrix times a vector is read once, so nothing is gained by blocks for a cache; see `NUM_RUNS`.
        """
        *rows, vector = self._spatial or [0]
        one_row = all(self.domains[i].extent == 1 for i in rows)
        if self.sizing.structure != "SSRSRS" or not one_row or vector not in tile:
            return
        factors = list(self._surround(tile))
        jobs, *between, runs, width = factors[vector]
        rest = math.prod(between) * runs
        runs = next((d for d in range(NUM_RUNS, rest + 1) if rest % d == 0), rest)
        factors[vector] = (jobs, rest // runs, *[1] * (len(between) - 1), runs, width)
        for index in self._reducing:
            extent = self.domains[index].extent
            steps = max(divisors(extent, RUN_STEPS)) if index == self._reducing[-1] else 1
            factors[index] = (extent // steps, steps)
        yield tuple(factors)

    def _unroll_for(self, tile: dict[int, int]) -> int:
        """Returns the smallest limit that unrolls the register tile's rows, but not the reduction around them."""
        rows = math.prod(f for index, f in tile.items() if index != self._spatial[-1]) if tile else 1
        return next((u for u in self.unrolls if u >= rows), self.unrolls[-1])

    def _climb(self, start: Tiling) -> Iterator[Tiling]:
        """Yields the tilings on and beside the way from a start to where the analysis sees nothing better around."""
        yield start
        present = start
        while True:
            options = list(self.neighbours(present))
            yield from options
            better = min(options, key=lambda t: (t.secs, t.sizes), default=present)
            if better.secs >= present.secs * 0.999:
                break
            present = better
        for unroll in self.unrolls:
            yield self.judge(present.sizes, unroll)

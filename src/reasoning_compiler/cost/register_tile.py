"""The register tile of a loop nest, and the cycles of one core that it makes of the nest with all data in L1.

Work per cycle of the register tile is Goto and van de Geijn's ("Anatomy of high-performance matrix multiplication",
2008): multiply-adds against loads, sums that stay in registers or go through memory, and what spills.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.cost.cache_traffic import CACHE_WAYS, WAY_BYTES
from reasoning_compiler.ir.dots import registers_of
from reasoning_compiler.ir.nest import Access, Loop, Nest

NUM_RUNS, RUN_STEPS = 4, 8
"""Of tiles that read a matrix in runs side by side: how many there are at least, and of how many steps of the reduction
at most, so that all of them are under way at once."""

_FMA_LATENCY_CYCLES = 4
_LOADS_PER_CYCLE = 2
_CALL_CYCLES = 12  # a scalar libm call
_LARGE_BODY = 768  # vector operations in one unrolled body beyond which instruction fetch costs
_CONFLICT_CYCLES = 10
_PAGE_BYTES = 4096
_PAGES_AT_HAND = 64  # whose addresses a core has translated and keeps close; typical
_PAGE_CYCLES = 5  # to look up another one
_LLVM_UNROLLS = 8  # iterations of a constant inner loop that LLVM unrolls unasked


class RegisterTile:
    """The register tile: the spatial loops inside the innermost reduction (or the innermost loop, without one).

    Args:
        nest: the loops, one block in them.
        machine: a CPU.

    Attributes:
        loops: of the tile, (loop, extent), outermost first.
        lanes: elements per vector operation; 1 where the innermost loop is scalar.
        strided: buffers that the vector loop walks with a stride.
        accumulators: vector registers that the tile's sums occupy.
        in_registers: whether they can stay there over the innermost reduction.
    """

    def __init__(self, nest: Nest, machine: Machine) -> None:
        self.nest, self.machine = nest, machine
        self.item_bytes = nest.output.item_bytes if nest.output else 4
        self.full_lanes = 1 if nest.dot is not None else max(1, machine.vector_bytes // self.item_bytes)
        self.first = self._first_tile_loop()
        extents = [(index, loop) for index, loop in enumerate(nest.loops) if index >= self.first]
        self.vector_loops = self._vector_loops()
        self.vector_extent = math.prod(nest.loops[i].extent for i in self.vector_loops)
        self.strided = self._strided()
        self.lanes = nest.dot.lanes if nest.dot is not None else min(self.vector_extent, self.full_lanes)
        self.loops = tuple((loop.name, loop.extent) for _, loop in extents if loop.extent > 1)
        self.rows = math.prod(loop.extent for i, loop in extents if i not in self.vector_loops)
        vectors = self.rows * math.ceil(self.vector_extent / self.full_lanes)
        self.accumulators = vectors + self._shift_sums()
        self.steps = self._reduction_steps()
        self.runs = self._runs()
        rolled = math.prod(x.extent for i, x in extents if i not in self.vector_loops and x.kind != "unrolled")
        unrolled = nest.dot is not None or rolled <= max(nest.unroll_limit, _LLVM_UNROLLS)
        self.fully_unrolled = 1 < self.rows * self.steps <= nest.unroll_limit
        self._registers, _ = registers_of(machine, nest.dot)
        fits = self.accumulators <= self._registers - 2
        self.in_registers = bool(self.steps > 1 and unrolled and fits and not self.falls_apart)

    def cycles(self) -> float:
        """Returns cycles of one core for the whole nest, with all data in L1."""
        nest, machine = self.nest, self.machine
        times = nest.iterations / max(1, self.rows * self.vector_extent)
        vectors = max(1, self.accumulators)
        arithmetic = vectors * max(nest.flops, 1.0) / 2 / machine.fma_per_cycle
        if nest.dot is not None:
            arithmetic = vectors / (machine.fma_per_cycle * nest.dot.per_fma)
        reads = [a for a in nest.accesses if not a.writes]
        rows = nest.dot.rows if nest.dot is not None else 1  # a tile is loaded and stored row by row
        loads = (rows * sum(self._loads(a) for a in reads) + self.prefetches) / _LOADS_PER_CYCLE
        step = max(arithmetic, loads) + sum(self._conflicts(a) for a in reads) + _PAGE_CYCLES * self._pages()
        if nest.scalar_calls:
            step += _CALL_CYCLES * nest.scalar_calls * self.rows * self.vector_extent
        scatter = self.full_lanes if nest.output and nest.output.buffer in self.strided else 1
        if not nest.reduces:
            return times * (step + vectors * scatter + 0.5)
        if self.in_registers:
            together = self.runs if self.steps <= RUN_STEPS else 1
            latency = _FMA_LATENCY_CYCLES if nest.dot is None else nest.dot.latency_cycles
            step = max(step, latency / together)
            operands = sum(math.ceil(a) for a in (self._loads(x) for x in reads if x.buffer not in self.strided))
            spilled = vectors + min(operands, 4) - self._registers
            step += 1.5 * max(0, spilled)
            entry = (2.0 * vectors * rows * scatter + 6) / self.steps
        else:
            step += vectors * scatter * 1.5 + (self._conflicts(nest.output) if nest.output else 0.0)
            step += self.rows * self.vector_extent if self.falls_apart else 0
            step = max(step, _FMA_LATENCY_CYCLES if vectors == 1 else 0)
            entry = 1.0
        if self.fully_unrolled and vectors * self.steps > _LARGE_BODY:
            step *= 1.2
        elif not self.fully_unrolled:
            step += 0.5
        return times * (step + entry)

    @property
    def falls_apart(self) -> bool:
        """Whether sums in a local buffer are moved element by element: LLVM makes no registers of 3 or 5 vectors."""
        output = self.nest.output
        whole = self.vector_extent <= self.full_lanes or self.vector_extent.bit_count() == 1
        return not whole and output is not None and output.in_registers

    @property
    def is_stream(self) -> bool:
        """Whether sums stay in registers over the whole reduction, or are moved while it waits for memory."""
        output = self.nest.output
        return self.in_registers and output is not None and (output.in_registers or self.reads_in_runs)

    @property
    def reads_in_runs(self) -> bool:
        """Whether what is read only once is read in several short runs side by side, as panels of a packed matrix are.

        The core and its prefetchers then have several places to go on at, also where one run meets a page's end.
        """
        if self.runs < NUM_RUNS or self.steps > RUN_STEPS or not self.in_registers:
            return False
        reads = [a for a in self.nest.accesses if a.external and not a.writes]
        largest = max(reads, key=lambda a: self.nest.footprint_elements(a, 0), default=None)
        return largest is not None and not self.nest.reads_again(largest)

    @property
    def prefetches(self) -> float:
        """The prefetches in each reduction step: one for each line of the vectors that it loads."""
        if not self.nest.prefetch_bytes:
            return 0.0
        reads = [a for a in self.nest.accesses if a.external and not a.writes]
        if self.nest.dot is not None:
            moved, vector_bytes = [self._vectors(reads)], self._vectors(reads).item_bytes
        else:
            moved = [a for a in reads if any(a.moved_by(i) for i in self.vector_loops)]
            vector_bytes = self.machine.vector_bytes
        return sum(self._loads(a) * vector_bytes / self.machine.cache_line_bytes for a in moved)

    def _first_tile_loop(self) -> int:
        loops = self.nest.loops
        reducing = [i for i, loop in enumerate(loops) if loop.reduces and loop.extent > 1]
        if reducing:
            return reducing[-1] + 1
        inner = [i for i, loop in enumerate(loops) if loop.extent > 1]
        return inner[-1] if inner else len(loops)

    def _vector_loops(self) -> tuple[int, ...]:
        loops = self.nest.loops
        if self.nest.dot is not None:
            return ()
        marked = tuple(i for i, loop in enumerate(loops) if loop.kind == "vectorized")
        if marked:
            return marked
        # LLVM vectorizes an innermost contiguous spatial loop by itself, but no float reduction.
        inner = [i for i, loop in enumerate(loops) if loop.extent > 1]
        if not inner or self.nest.scalar_calls:
            return ()
        last = loops[inner[-1]]
        contiguous = all(access.stride(inner[-1]) in (0, 1) for access in self.nest.accesses)
        return (inner[-1],) if contiguous and not last.reduces and last.kind != "parallel" else ()

    def _shift_sums(self) -> int:
        """Returns the vectors of sums that make good for a shifted operand: one for each vector of B in the tile."""
        if self.nest.dot is None or not self.nest.dot.shifted:
            return 0
        vectors = self._vectors([a for a in self.nest.accesses if not a.writes])
        return int(self.nest.footprint_elements(vectors, self.first))

    @staticmethod
    def _vectors(reads: Sequence[Access]) -> Access:
        """Returns which operand a dot product reads in vectors: B."""
        return max(reads, key=lambda access: access.item_bytes)

    def _strided(self) -> tuple[str, ...]:
        if not self.vector_loops:
            return ()
        inner = self.vector_loops[-1]
        return tuple(a.buffer for a in self.nest.accesses if a.stride(inner) not in (0, 1))

    def _reduction_steps(self) -> int:
        """Returns the iterations of the reducing loops directly around the tile."""
        steps = 1
        for loop in reversed(self.nest.loops[: self.first]):
            if not loop.reduces and loop.extent > 1:
                break
            steps *= loop.extent
        return steps

    def _runs(self) -> int:
        """Returns how many tiles one step of a further reduction outside has: their sums do not wait for each other."""
        around = [loop for loop in self.nest.loops[: self.first] if loop.extent > 1]
        outside = _outside_reduction(around)
        tiles = list(itertools.takewhile(lambda loop: not loop.reduces, outside))
        return math.prod(loop.extent for loop in tiles) if len(outside) > len(tiles) else 1

    def _loads(self, access: Access) -> float:
        """Returns load instructions per reduction step for one buffer."""
        elements = self.nest.footprint_elements(access, self.first)
        if access.buffer in self.strided:
            return 1.5 * elements
        moved = any(access.moved_by(i) for i in self.vector_loops)
        return elements / self.full_lanes if moved else elements

    def _conflicts(self, access: Access) -> float:
        """Returns extra cycles per reduction step because a tile's rows fall into the same cache sets."""
        tile = range(self.first, len(self.nest.loops))
        strides = {i: access.stride(i) * access.item_bytes for i in tile}
        same_set = [i for i, stride in strides.items() if stride and stride % WAY_BYTES["L1"] == 0]
        rows = math.prod(self.nest.loops[i].extent for i in same_set)
        return _CONFLICT_CYCLES * rows if rows > CACHE_WAYS["L1"] else 0.0

    def _pages(self) -> int:
        """Returns how many operands go on to another page in each reduction step, and come back after too many.

        Only those count that nothing lays out ahead of time.
        """
        reducing = self.nest.innermost_reduction
        if reducing is None:
            return 0
        strides = [
            access.stride(reducing) * access.item_bytes
            for access in self.nest.accesses
            if access.given and not access.writes
        ]
        extent = math.prod(loop.extent for loop in self.nest.loops if loop.reduces)
        return sum(stride >= _PAGE_BYTES for stride in strides) if extent > _PAGES_AT_HAND else 0


def _outside_reduction(loops: Sequence[Loop]) -> list[Loop]:
    """Returns the loops around the innermost ones that reduce, from the inside out."""
    return list(itertools.dropwhile(lambda loop: loop.reduces, reversed(loops)))

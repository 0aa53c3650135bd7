"""The register tile of a loop nest, and the cycles of one core that it makes of the nest with all data in L1.

Work per cycle of the register tile is Goto and van de Geijn's ("Anatomy of high-performance matrix multiplication",
2008): multiply-adds against loads, sums that stay in registers or go through memory, and what spills.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.ir.dots import registers_of
from reasoning_compiler.ir.nest import Access, Nest

NUM_RUNS, RUN_STEPS = 4, 8
"""Of tiles that read a matrix in runs side by side: how many there are at least, as many as calibration reads at once,
and of how many steps of the reduction at most, so that a core's window of instructions spans them."""

LOOP_CYCLES = 0.5
"""To count and to branch: two instructions of at least four that a core starts in a cycle."""

_LLVM_UNROLLS = 8  # iterations of a constant inner loop that LLVM unrolls unasked (its `-unroll-full-max-count`)


class RegisterTile:
    """The register tile: the spatial loops inside the innermost reduction (or the innermost loop, without one).

    Args:
        nest: the loops, one block in them.
        machine: a CPU.

    Attributes:
        loops: of the tile, (loop, extent), outermost first.
        lanes: elements per vector operation; 1 where the innermost loop is scalar.
        strided: buffers that the vector loop walks with a stride.
        vectors: of each row of the tile.
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
        self.vectors = vectors_of(self.vector_extent, self.full_lanes)
        self.accumulators = self.rows * self.vectors + self._shift_sums()
        self.steps = self._reduction_steps()
        self.runs = self._runs()
        rolled = math.prod(x.extent for i, x in extents if i not in self.vector_loops and x.kind != "unrolled")
        unrolled = nest.dot is not None or rolled <= max(nest.unroll_limit, _LLVM_UNROLLS)
        self.fully_unrolled = 1 < self.rows * self.steps <= nest.unroll_limit
        self._registers, _ = registers_of(machine, nest.dot)
        fits = self.accumulators <= self._registers - 2
        self.in_registers = bool(self.steps > 1 and unrolled and fits)

    def cycles(self) -> float:
        """Returns cycles of one core for the whole nest, with all data in L1."""
        nest, machine, costs = self.nest, self.machine, self.machine.costs
        times = nest.iterations / max(1, self.rows * self.vector_extent)
        vectors = max(1, self.accumulators)
        arithmetic = vectors * max(nest.flops, 1.0) / 2 / machine.fma_per_cycle
        if nest.dot is not None:
            arithmetic = vectors / (machine.fma_per_cycle * nest.dot.per_fma)
        reads = [a for a in nest.accesses if not a.writes]
        rows = nest.dot.rows if nest.dot is not None else 1  # a tile is loaded and stored row by row
        loads = rows * sum(self._load_cycles(a) for a in reads) + self.prefetches * self._load
        step = max(arithmetic, loads) + (0.0 if self.fully_unrolled else LOOP_CYCLES)
        step += costs.call_cycles * nest.scalar_calls * self.rows * self.vector_extent
        # To read and write back the sums, or to write a result.
        stores = vectors * rows * 2 * machine.vector_bytes / costs.l1.update_bytes_per_cycle
        if nest.output is not None and nest.output.buffer in self.strided:
            stores += vectors * self.full_lanes * costs.gather_cycles
        if not nest.reduces:
            return times * (step + stores)
        latency = costs.fma_latency_cycles if nest.dot is None else nest.dot.latency_cycles
        if not self.in_registers:  # the next step waits for its sums to come back from the first-level cache
            return times * max(step + stores, latency + costs.l1.latency_cycles)
        together = self.runs if self.steps <= RUN_STEPS else 1
        operands = sum(math.ceil(self._loads(a)) for a in reads if a.buffer not in self.strided)
        spilled = max(0, vectors + min(operands, 4) - self._registers)
        step = max(step + spilled * stores / vectors, latency / together)
        return times * (step + (stores + latency) / self.steps)

    @property
    def _load(self) -> float:
        """Cycles to load a vector."""
        return self.machine.vector_bytes / self.machine.costs.l1.read_bytes_per_cycle

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
        if (innermost := self.nest.innermost_reduction) is not None:
            return innermost + 1
        loops = self.nest.loops
        return max((i for i, loop in enumerate(loops) if loop.extent > 1), default=len(loops))

    def _vector_loops(self) -> tuple[int, ...]:
        loops = self.nest.loops
        if self.nest.dot is not None:
            return ()
        marked = tuple(i for i, loop in enumerate(loops) if loop.kind == "vectorized")
        if marked:
            return marked
        # LLVM vectorizes an innermost contiguous spatial loop by itself, but no float reduction, and not what TVM has
        # unrolled before.
        inner = [i for i, loop in enumerate(loops) if loop.extent > 1]
        if not inner or self.nest.scalar_calls:
            return ()
        last = loops[inner[-1]]
        contiguous = all(access.stride(inner[-1]) in (0, 1) for access in self.nest.accesses)
        is_loop = last.kind == "serial" and last.extent > self.nest.unroll_limit
        return (inner[-1],) if contiguous and is_loop and not last.reduces else ()

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
        outside = list(itertools.dropwhile(lambda loop: loop.reduces, reversed(around)))
        tiles = list(itertools.takewhile(lambda loop: not loop.reduces, outside))
        return math.prod(loop.extent for loop in tiles) if len(outside) > len(tiles) else 1

    def _loads(self, access: Access) -> float:
        """Returns load instructions per reduction step for one buffer."""
        elements = self.nest.footprint_elements(access, self.first)
        moved = any(access.moved_by(i) for i in self.vector_loops)
        return elements * self.vectors / self.vector_extent if moved else elements

    def _load_cycles(self, access: Access) -> float:
        """Returns the time of the loads per reduction step of one buffer."""
        if access.buffer in self.strided:
            return self.machine.costs.gather_cycles * self.nest.footprint_elements(access, self.first)
        loads = self._loads(access)
        cycles = loads * self._load
        if self._is_unaligned(access):
            cycles += (
                loads * self.machine.vector_bytes / self.machine.cache_line_bytes * self.machine.costs.split_cycles
            )
        return cycles

    def _is_unaligned(self, access: Access) -> bool:
        """Tells whether vectors of a buffer begin anywhere, since a loop outside moves by a part of one."""
        if not any(access.moved_by(i) for i in self.vector_loops):
            return False
        steps = (
            access.stride(i) * access.item_bytes for i in range(len(self.nest.loops)) if i not in self.vector_loops
        )
        return any(step % self.machine.vector_bytes for step in steps)


def vectors_of(extent: int, lanes: int) -> int:
    """Returns the vectors that code generation makes of a loop: whole registers, and powers of two for the tail."""
    return extent // lanes + (extent % lanes).bit_count()

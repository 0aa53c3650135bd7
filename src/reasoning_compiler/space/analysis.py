"""Static analysis of loop nests on a CPU: registers, vectors, caches, cores, and a time from all of them.

The model is the one that a kernel engineer keeps in mind, not a simulator: work per cycle of the register tile
(Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008), bytes between cache levels from
footprints and reuse distances (as in Li et al., "Analytical characterization and design space exploration for
optimization of CNNs", 2021), the roofline above both. It ranks; its seconds are rough. Knows nothing of TVM.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.records import Machine, Peak
from reasoning_compiler.space.dots import dots_for
from reasoning_compiler.space.nest import Access, Loop, Nest, Padding, joined

NUM_RUNS, RUN_STEPS = 4, 8
"""Of tiles that read a matrix in runs side by side: how many there are at least, and of how many steps of the reduction
at most, so that all of them are under way at once."""

_FMA_LATENCY_CYCLES = 4
_LOADS_PER_CYCLE = 2
_CALL_CYCLES = 12  # a scalar libm call
_CACHE_SHARE = 0.75  # of a cache that one nest's data can count on
_BYTES_PER_CYCLE = {"L2": 32, "L3": 16}  # into the next inner level, per core
_ONE_CORES_BANDWIDTH = 0.6  # of the memory's, where one core of several works
_SHOWS = 0.25  # of the time of what does not bound a nest
_SHOWS_OF_A_STREAM = 0.1  # the same where the hardware prefetches one contiguous stream, and no sums are moved
_PREFETCHED = 0.87  # of the time that a stream from memory takes, whose loads are announced or made in several runs
_LAUNCH_SECS = 4e-6
_LARGE_BODY = 768  # vector operations in one unrolled body beyond which instruction fetch costs
_WAYS = {"L1": 8, "L2": 16}
_WAY_BYTES = {"L1": 4096, "L2": 65536}  # typical: lines so far apart share a set; the last cache scatters them
_CONFLICT_CYCLES = 10
_PAGE_BYTES = 4096
_PAGES_AT_HAND = 64  # whose addresses a core has translated and keeps close; typical
_PAGE_CYCLES = 5  # to look up another one
_LLVM_UNROLLS = 8  # iterations of a constant inner loop that LLVM unrolls unasked


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


@dataclass(frozen=True)
class BlockAnalysis:
    """What the machine makes of one nest.

    Args:
        block: its name.
        secs: the model's time, on all cores.
        bound: what most of the time goes into: "compute", or reading from "L2", "L3" or "memory".
        flops: of the whole nest.
        vector_lanes: elements per vector operation; 1 where the innermost loop is scalar.
        strided: buffers that the vector loop walks with a stride, which makes gathers or scatters of them.
        tile: the spatial loops inside the innermost reduction, (loop, extent), outermost first.
        accumulators: vector registers that this tile occupies.
        in_registers: whether they can stay there over the innermost reduction.
        parallel_extent: iterations of the parallel loop; 1 where nothing runs in parallel.
        parallel_efficiency: share of the cores' time that has work, in (0, 1].
        levels: traffic into each cache level, innermost first.
        compute_secs: the time if all data lay in registers and L1.
        reduces: whether the nest sums up, or reduces otherwise.
        instruction: that multiplies and adds in it, where it is no multiply-add of single numbers.
        peak_flops: what the machine can do at best of the nest's kind: more than of float32 where an instruction of its
            takes the nest's types.
        padded: its loops with iterations that do not count; they take time like the others.
    """

    block: str
    secs: float
    bound: str
    flops: float
    vector_lanes: int
    strided: tuple[str, ...]
    tile: tuple[tuple[str, int], ...]
    accumulators: int
    in_registers: bool
    parallel_extent: int
    parallel_efficiency: float
    levels: tuple[LevelTraffic, ...]
    compute_secs: float
    reduces: bool
    instruction: str
    peak_flops: float
    padded: tuple[Padding, ...] = ()

    @property
    def bytes_moved(self) -> float:
        """Bytes that come from memory, and go there, over the whole nest: into the last cache of all."""
        return self.levels[-1].bytes_in

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte from memory; 0 where none are moved."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0


@dataclass(frozen=True)
class Analysis:
    """The blocks of a program, and the roofline of the kernel as a whole.

    Args:
        blocks: in program order.
        roofline_secs: the least time that the kernel's operations and its arguments' bytes allow.
        intensity: floating-point operations per byte of the arguments; 0 where the bytes are not known.
        peak: what the machine can do at best of the kernel's kind.
    """

    blocks: tuple[BlockAnalysis, ...]
    roofline_secs: float
    intensity: float
    peak: Peak

    @property
    def peak_flops(self) -> float:
        """The peak's rate."""
        return self.peak.flops

    @property
    def secs(self) -> float:
        """The model's time for the whole program, in seconds."""
        return sum(block.secs for block in self.blocks)

    def describe(self, *, min_share: float = 0.02) -> str:
        """Returns the analysis in words, a paragraph per block that takes at least `min_share` of the time."""
        total = self.secs or 1.0
        lines = []
        for block in self.blocks:
            if block.secs >= min_share * total:
                lines.append(_describe(block, block.secs / total))
        return "\n".join(lines)


def analyze(nests: Sequence[Nest], machine: Machine, *, kernel_flops: float = 0, kernel_bytes: float = 0) -> Analysis:
    """Returns the analysis of a program's nests on a machine.

    Args:
        nests: of the whole program, in order.
        machine: a CPU; peaks may be measured or published.
        kernel_flops: floating-point operations of the kernel, for the roofline; 0 to count those of the nests.
        kernel_bytes: bytes of its arguments, each moved once.
    """
    flops = kernel_flops or sum(n.flops * n.iterations for n in nests)
    peak = peak_of(nests, machine)
    return Analysis(
        tuple(analyze_block(n, machine) for n in joined(nests)),
        roofline_secs(flops, kernel_bytes, machine, peak_flops=peak.flops),
        flops / kernel_bytes if kernel_bytes else 0.0,
        peak,
    )


def peak_of(nests: Sequence[Nest], machine: Machine) -> Peak:
    """Returns what a machine can do at best of the nests' kinds: more than of float32 where it has an instruction."""
    orders = {order for nest in nests for order in (nest.dtypes, (*nest.dtypes[1::-1], *nest.dtypes[2:]))}
    dots = [dot for dtypes in orders for dot in dots_for(dtypes, machine.features)]
    best = max(dots, key=lambda dot: dot.gain(machine), default=None)
    return Peak(machine.peak_flops) if best is None else Peak(machine.peak_flops * best.gain(machine), best.name)


def roofline_secs(flops: float, num_bytes: float, machine: Machine, *, peak_flops: float) -> float:
    """Returns the least time that so many operations and bytes from memory take on a machine."""
    return max(flops / peak_flops, num_bytes / machine.bandwidth_bytes_per_sec)


def analyze_block(nest: Nest, machine: Machine) -> BlockAnalysis:
    """Returns the analysis of one nest."""
    clock = clock_hz(machine)
    jobs, efficiency = _parallelism(nest, machine)
    cores = machine.num_cores * efficiency
    tile = _Tile(nest, machine)
    compute = tile.cycles() / clock / cores
    levels = tuple(_traffic(nest, machine))
    times = {"compute": compute}
    for inner, outer in itertools.pairwise(levels):
        times[outer.level] = inner.bytes_in / (_BYTES_PER_CYCLE[outer.level] * clock * cores)
    share = _ONE_CORES_BANDWIDTH if jobs == 1 and machine.num_cores > 1 else 1.0
    times["memory"] = levels[-1].bytes_in / (machine.bandwidth_bytes_per_sec * share)
    if nest.prefetch_bytes or tile.reads_in_runs:
        times["memory"] *= _PREFETCHED
    bound = max(times, key=lambda name: times[name])
    hidden = sum(times.values()) - times[bound]
    shows = _SHOWS_OF_A_STREAM if tile.is_stream else _SHOWS
    secs = times[bound] + shows * hidden + (_LAUNCH_SECS if jobs > 1 else 0.0)
    return BlockAnalysis(
        nest.block,
        secs,
        bound,
        nest.flops * nest.iterations,
        tile.lanes,
        tile.strided,
        tile.loops,
        tile.accumulators,
        tile.in_registers,
        jobs,
        efficiency,
        levels,
        compute,
        nest.reduces,
        nest.dot.name if nest.dot is not None else "",
        peak_of([nest], machine).flops,
        nest.padded,
    )


def clock_hz(machine: Machine) -> float:
    """Returns the clock that the machine's peak implies."""
    return machine.peak_flops / (machine.num_cores * machine.fma_per_cycle * 2 * (machine.vector_bytes // 4))


# -- one core: registers and vectors ------------------------------------------------------------------------------


class _Tile:
    """The register tile: the spatial loops inside the innermost reduction (or the innermost loop, without one)."""

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
        self.accumulators = nest.sums * vectors + self._shift_sums()
        self.steps = self._reduction_steps()
        self.runs = self._runs()
        rolled = math.prod(x.extent for i, x in extents if i not in self.vector_loops and x.kind != "unrolled")
        unrolled = nest.dot is not None or rolled <= max(nest.unroll_limit, _LLVM_UNROLLS)
        self.fully_unrolled = 1 < self.rows * self.steps <= nest.unroll_limit
        fits = self.accumulators <= machine.num_vector_registers - 2
        self.in_registers = bool(self.steps > 1 and unrolled and fits and not self.falls_apart)

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
        same_set = [i for i, stride in strides.items() if stride and stride % _WAY_BYTES["L1"] == 0]
        rows = math.prod(self.nest.loops[i].extent for i in same_set)
        return _CONFLICT_CYCLES * rows if rows > _WAYS["L1"] else 0.0

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

    def cycles(self) -> float:
        """Returns cycles of one core for the whole nest, with all data in L1."""
        nest, machine = self.nest, self.machine
        times = nest.iterations / max(1, self.rows * self.vector_extent)
        vectors = max(1, self.accumulators)
        arithmetic = vectors / nest.sums * max(nest.flops, 1.0) / 2 / machine.fma_per_cycle
        if nest.dot is not None:
            arithmetic = vectors / (machine.fma_per_cycle * nest.dot.per_fma)
        reads = [a for a in nest.accesses if not a.writes]
        loads = (sum(self._loads(a) for a in reads) + self.prefetches) / _LOADS_PER_CYCLE
        step = max(arithmetic, loads) + sum(self._conflicts(a) for a in reads) + _PAGE_CYCLES * self._pages()
        if nest.scalar_calls:
            step += _CALL_CYCLES * nest.scalar_calls * self.rows * self.vector_extent
        scatter = self.full_lanes if nest.output and nest.output.buffer in self.strided else 1
        if not nest.reduces:
            return times * (step + vectors * scatter + 0.5)
        if self.in_registers:
            together = self.runs if self.steps <= RUN_STEPS else 1
            step = max(step, _FMA_LATENCY_CYCLES / together)
            operands = sum(math.ceil(a) for a in (self._loads(x) for x in reads if x.buffer not in self.strided))
            spilled = vectors + min(operands, 4) - machine.num_vector_registers
            step += 1.5 * max(0, spilled)
            entry = (2.0 * vectors * scatter + 6) / self.steps
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


def _outside_reduction(loops: Sequence[Loop]) -> list[Loop]:
    """Returns the loops around the innermost ones that reduce, from the inside out."""
    return list(itertools.dropwhile(lambda loop: loop.reduces, reversed(loops)))


# -- many cores, and the caches -----------------------------------------------------------------------------------


def _parallelism(nest: Nest, machine: Machine) -> tuple[int, float]:
    """Returns the iterations of the parallel loop and the share of all cores' time that has work."""
    jobs = math.prod(loop.extent for loop in nest.loops if loop.kind == "parallel")
    rounds = math.ceil(jobs / machine.num_cores)
    return jobs, jobs / (rounds * machine.num_cores)


def _traffic(nest: Nest, machine: Machine) -> list[LevelTraffic]:
    sizes = [("L1", machine.l1_bytes), ("L2", machine.l2_bytes)]
    if machine.l3_bytes:
        sizes.append(("L3", max(machine.l2_bytes, machine.l3_bytes // machine.num_cores)))  # of one core
    depths = range(len(nest.loops) + 1)
    held = [[_held_bytes(nest, access, depth, machine) for depth in depths] for access in nest.accesses]
    footprints = [sum(each[depth] for each in held) for depth in depths]
    levels = []
    for name, size in sizes:
        depth = next((d for d, f in enumerate(footprints) if f <= _CACHE_SHARE * size), len(nest.loops))
        buffers = zip(nest.accesses, held, strict=True)
        moved = nest.share * sum(_bytes_in(nest, access, depth, machine, name, each) for access, each in buffers)
        loop = nest.loops[depth].name if depth < len(nest.loops) else ""
        levels.append(LevelTraffic(name, loop, footprints[depth], moved))
    return levels


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
    if level not in _WAYS:
        return False
    way_bytes, line = _WAY_BYTES[level], machine.cache_line_bytes
    for index in range(depth, len(nest.loops)):
        stride = int(abs(access.stride(index)) * access.item_bytes)
        if stride >= line:
            sets = min(way_bytes // line, way_bytes // math.gcd(stride, way_bytes))
            if nest.loops[index].extent > _WAYS[level] * sets:
                return True
    return False


def _held_bytes(nest: Nest, access: Access, depth: int, machine: Machine) -> int:
    """Returns bytes of a buffer's lines that the loops from `depth` inward touch; none of what is in registers."""
    if access.in_registers:
        return 0
    line = machine.cache_line_bytes
    run = nest.run_elements(access, depth) * access.item_bytes
    runs = -(-nest.footprint_elements(access, depth) * access.item_bytes // run)
    return runs * (-(-run // line) * line)


# -- words --------------------------------------------------------------------------------------------------------


def _describe(block: BlockAnalysis, share: float) -> str:
    tile = " x ".join(f"{name}={extent}" for name, extent in block.tile) or "one element"
    if block.vector_lanes > 1:
        vector = f"{block.vector_lanes} lanes" + (f" by {block.instruction}" if block.instruction else "")
        if block.strided:
            vector += f" with strided access to {', '.join(block.strided)}"
    else:
        vector = "scalar"
    where = "kept in registers" if block.in_registers else "going through memory"
    jobs = f"{block.parallel_extent} parallel jobs" if block.parallel_extent > 1 else "one core only"
    if block.parallel_extent > 1 and block.parallel_efficiency < 0.999:
        jobs += f" ({block.parallel_efficiency:.0%} of the cores' time used)"
    caches = "; ".join(
        f"{level.level} holds {_size(level.working_set_bytes)}"
        + (f" from loop {level.from_loop} inward" if level.from_loop else " (not even one iteration)")
        + f", {_size(level.bytes_in)} in"
        for level in block.levels
    )
    text = f"{block.block}: {share:.0%} of the estimated time, bound by {block.bound}. Vectors: {vector}. "
    if block.accumulators > 1 or block.in_registers:
        text += f"Tile {tile}: {block.accumulators} vector accumulators {where}. "
    if block.padded:
        text += f"Padded: {', '.join(map(str, block.padded))}. "
    return text + f"{jobs}. {caches}."


def _size(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} GB"

"""Static analysis of loop nests on a CPU: registers, vectors, caches, cores, and a time from all of them.

The model is the one that a kernel engineer keeps in mind, not a simulator: work per cycle of the register tile
(`register_tile.py`), bytes between cache levels from footprints and reuse distances (`cache_traffic.py`), the share of
the cores that has work, the roofline above all. It ranks; its seconds are rough. Knows nothing of TVM.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.cost.cache_traffic import LevelTraffic, cache_traffic
from reasoning_compiler.cost.pages import page_cycles
from reasoning_compiler.cost.register_tile import RegisterTile
from reasoning_compiler.ir.dots import dots_for
from reasoning_compiler.ir.nest import Nest, Padding


@dataclass(frozen=True)
class BlockAnalysis:
    """What the machine makes of one nest.

    Args:
        block: its name.
        secs: the model's time, on all cores.
        bound: what most of the time goes into: "compute", reading from "L2", "L3" or "memory", or crossing "pages".
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
        peak: what the machine can do at best of the kernel's kind.
    """

    blocks: tuple[BlockAnalysis, ...]
    roofline_secs: float
    peak: Peak

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
        tuple(analyze_block(n, machine) for n in nests),
        roofline_secs(flops, kernel_bytes, machine, peak_flops=peak.flops),
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
    jobs, efficiency = _parallelism(nest, machine)
    cores = machine.num_cores * efficiency
    tile = RegisterTile(nest, machine)
    compute = tile.cycles() / clock_hz(machine) / cores
    levels = cache_traffic(nest, machine)
    times = _transfer_secs(nest, machine, levels, cores)
    if nest.prefetch_bytes or tile.reads_in_runs:
        times["memory"] *= machine.costs.side_by_side
    transfer = sum(times.values())
    secs = max(compute, transfer) + machine.costs.exposed * min(compute, transfer)
    bound = "compute" if compute >= transfer else max(times, key=lambda name: times[name])
    secs += machine.costs.region_secs if jobs > 1 else 0.0
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


def _transfer_secs(nest: Nest, machine: Machine, levels: Sequence[LevelTraffic], cores: float) -> dict[str, float]:
    """Returns the time that data take from each level behind the first, and that page crossings add to it.

    As in the execution-cache-memory model (Stengel et al., 2015), the times of the levels add up. Rates are those of
    whole streams from a level into registers, so that a byte counts once, where it comes from.

    Args:
        nest: the loops.
        machine: a CPU.
        levels: the traffic into each of its caches.
        cores: how many work, on average.
    """
    costs = machine.costs
    cycles_per_sec = clock_hz(machine) * cores
    times = {}
    for (inner, outer), rates in zip(itertools.pairwise(levels), (costs.l2, costs.l3), strict=False):
        read = max(0.0, inner.read_bytes - outer.read_bytes) / rates.read_bytes_per_cycle
        updated = max(0.0, inner.updated_bytes - outer.updated_bytes) / rates.update_bytes_per_cycle
        times[outer.level] = (read + updated) / cycles_per_sec
    last = levels[-1]
    lone = max(costs.lone_bytes_per_cycle * clock_hz(machine), machine.bandwidth_bytes_per_sec / machine.num_cores)
    bandwidth = min(machine.bandwidth_bytes_per_sec, cores * lone)
    times["memory"] = (last.read_bytes + last.updated_bytes / costs.memory_update) / bandwidth
    times["pages"] = page_cycles(nest, machine, levels) / cycles_per_sec
    return times


def _parallelism(nest: Nest, machine: Machine) -> tuple[int, float]:
    """Returns the iterations of the parallel loop and the share of all cores' time that has work."""
    jobs = math.prod(loop.extent for loop in nest.loops if loop.kind == "parallel")
    rounds = math.ceil(jobs / machine.num_cores)
    return jobs, jobs / (rounds * machine.num_cores)


def clock_hz(machine: Machine) -> float:
    """Returns the clock that the machine's peak implies."""
    return machine.peak_flops / (machine.num_cores * machine.fma_per_cycle * 2 * (machine.vector_bytes // 4))


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

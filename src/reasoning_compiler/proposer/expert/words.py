"""The expert's sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Value
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.dots import registers_of
from reasoning_compiler.proposer.expert.tiles import Tiling


def describe_tiling(group: TileGroup, tiling: Tiling, machine: Machine) -> str:
    """Returns in a sentence or two why a tiling should be fast."""
    found = tiling.analysis
    inner = {name: f[-1] for (name, _, _), f in zip(group.decisions, tiling.factors, strict=True)}
    extents: dict[str, int] = {}
    for name, extent in found.tile:
        loop = name.rpartition("_")[0]
        extents[loop] = extents.get(loop, 1) * extent
    tile = " × ".join(f"{loop} {extent}" for loop, extent in extents.items()) or "one element"
    text = f"{group.block}: a register tile of {tile}"
    if found.vector_lanes > 1:
        dot = group.nest.dot
        registers, kind = registers_of(machine, dot)
        text += f" needs {found.accumulators} of {registers} {kind} registers for its sums"
        text += "" if found.in_registers else ", which do not stay there"
        if dot is not None:
            text += f"; {dot.name} makes {dot.products_text} products at once, {dot.gain(machine):g} times float32's"
    else:
        text += " is scalar"
    reducing = [(loop.name, inner[loop.name]) for loop in group.nest.loops if loop.reduces and inner[loop.name] > 1]
    if reducing:
        text += ", over blocks of " + " × ".join(f"{name} {size}" for name, size in reducing)
    level = next((lv for lv in found.levels if lv.level == "L2" and lv.from_loop), None)
    if level is not None:
        text += f"; {level.working_set_bytes / 1024:.0f} KB from loop {level.from_loop} inward stay in L2"
    jobs, cores = found.parallel_extent, machine.num_cores
    if jobs == 1 or cores == 1:
        text += "; one core works"
    elif jobs <= cores:
        text += f"; {jobs} jobs for {cores} cores"
    else:
        text += f"; {jobs} jobs, at most {math.ceil(jobs / cores)} for each of {cores} cores"
    if found.strided:
        text += f" (strided vectors in {', '.join(found.strided)})"
    if tiling.prefetch_bytes:
        text += f"; loads are announced {tiling.prefetch_bytes} bytes ahead"
    return f"{text}; bound by {found.bound}.{_describe_copies(group, inner)}"


def _describe_copies(group: TileGroup, inner: Mapping[str, int]) -> str:
    """Returns a sentence for each padded loop, with its innermost factor, and one for what is copied."""
    told = []
    for padding in group.nest.padded:
        tiles = f"{padding.padded // inner[padding.loop]} tiles of {inner[padding.loop]}"
        told.append(
            f" No good tile divides {padding.extent} iterations of {padding.loop}: padded to {padding.padded}, "
            f"{tiles}, {padding.extra_work:.1%} more work."
        )
    packed = sorted(group.packed)
    if packed:
        names = ", ".join(name.removesuffix("_global") for name in packed)
        told.append(f" Each call copies {names} into the order of reading, which its many rows pay for.")
    elif group.copies:
        names = ", ".join(copy.block.removesuffix("_pad").removesuffix("_global") for copy in group.copies)
        told.append(f" Each call copies {names} for it.")
    return "".join(told)


def describe_move(name: str, value: Value, decision: Decision | None) -> str:
    """Returns words for setting a decision to a value."""
    if isinstance(value, tuple):
        return f"{name} {' × '.join(map(str, value))}"
    if decision is not None and isinstance(decision.domain, ChoiceDomain) and value in decision.domain.values:
        return f"{name}: {decision.domain.label(value)}"
    return f"{name}: {value}"

"""Why a tiling should be fast, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.ir.dots import registers_of

if TYPE_CHECKING:
    from reasoning_compiler.cost.tile_choice import Tiling
    from reasoning_compiler.cost.tiling import TileGroup


def describe_tiling(group: TileGroup, tiling: Tiling, machine: Machine) -> str:
    """Returns in a sentence or two why a tiling should be fast."""
    found = tiling.analysis
    inner = {loop: factors[-1] for (loop, _, _), factors in zip(group.decisions, tiling.factors, strict=True)}
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
        text += f"; loads are prefetched {tiling.prefetch_bytes} bytes ahead"
    text = f"{text}; bound by {found.bound}."
    said = [words for tell in group.words if (words := tell(inner))]
    unsaid = [nest.block for nest in group.copies if nest.output and nest.output.buffer not in group.packed]
    return " ".join([text, *said, *([f"Each call copies {', '.join(unsaid)} for it."] if unsaid else [])])

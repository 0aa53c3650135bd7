"""What MetaSchedule accepts and should not: programs that would compute something else."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.ir.extract import nests
from reasoning_compiler.ir.walk import blocks, bound_variables, is_unit


def why_wrong(mod: Any) -> str | None:
    """Returns why a postprocessed program computes something else than its workload, or None if nothing is known.

    `RewriteReductionBlock` may move the initialization of a reduction out of a loop in which the reduction itself is
    repeated, as where a row sum is computed inside the reduction loop of its consumer: each repetition then adds to
    what the one before has left.
    """
    if not _repeats_a_reduction(mod):
        return None
    found = nests(mod)
    starts = {nest.block.removesuffix("_init"): nest for nest in found if nest.block.endswith("_init")}
    for nest in found:
        start = starts.get(nest.block.removesuffix("_update")) if nest.block.endswith("_update") else None
        if start is None or nest.output is None:
            continue
        shared = {loop.id for loop in start.loops}
        for index, loop in enumerate(nest.loops):
            repeats = loop.extent > 1 and not loop.reduces and not nest.output.moved_by(index)
            if repeats and loop.id not in shared:
                name = nest.block.removesuffix("_update")
                return f"`{name}` would be summed again in each iteration of loop {loop.name}, and initialized once"
    return None


def _repeats_a_reduction(mod: Any) -> bool:
    """Tells whether a reduction stands inside a loop that neither it nor its result depends on.

    Reading all nests of a program takes longer.
    """
    for realize, loops in blocks(mod["main"].body):
        if str(realize.block.name_hint).endswith("_update"):
            own = bound_variables(realize, spatial=True) | bound_variables(realize, spatial=False)
            if any(loop.loop_var not in own and not is_unit(loop) for loop in loops):
                return True
    return False

"""What MetaSchedule accepts and should not: programs that would compute something else."""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_compiler.ir.nest import Nest


def why_wrong(nests: Sequence[Nest]) -> str | None:
    """Returns why a postprocessed program computes something else than its workload, or None if nothing is known.

    `RewriteReductionBlock` may move the initialization of a reduction out of a loop in which the reduction itself is
    repeated, as where a row sum is computed inside the reduction loop of its consumer: each repetition then adds to
    what the one before has left.
    """
    starts = {nest.block.removesuffix("_init"): nest for nest in nests if nest.block.endswith("_init")}
    for nest in nests:
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

"""MetaSchedule's postprocessors, and what has to be done around them for the result to be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoning_compiler.errors import IllegalProgramError
from reasoning_compiler.space.sketch import TVM_ERRORS, last_line
from reasoning_compiler.space.walk import blocks, bound_variables, is_unit

_INTRINSIC = "meta_schedule.auto_tensorize"
_SCALAR = "reasoning_compiler.not_vectorized"


def postprocess(schedule: Any, postprocs: Sequence[Any]) -> Any:
    """Returns the schedule after MetaSchedule's postprocessors, ready to be built; it is changed in place.

    Raises:
        IllegalProgramError: one of them fails or refuses the schedule.
    """
    schedule.enter_postproc()  # so that MetaSchedule, replaying the trace, knows where its own would begin
    for postproc in postprocs:
        name = type(postproc).__name__
        try:
            if name == "RewriteParallelVectorizeUnroll":
                loops = _loops_around_intrinsics(schedule)
                for loop in loops:
                    schedule.annotate(loop, _SCALAR, 1)
                accepted = postproc.apply(schedule)
                for loop in loops:
                    schedule.unannotate(loop, _SCALAR)
            else:
                if name == "RewriteReductionBlock":
                    _initialise_inside_foreign_loops(schedule)
                accepted = postproc.apply(schedule)
        except TVM_ERRORS as error:
            raise IllegalProgramError(f"{name} failed: {last_line(error)}") from error
        if not accepted:
            raise IllegalProgramError(f"{name} refuses the schedule for this target")
    return schedule


def repeats_a_reduction(mod: Any) -> bool:
    """Tells whether a reduction stands inside a loop that neither it nor its result depends on.

    Only such a program can have what `legality.why_wrong` looks for, and reading all nests for that takes longer.
    """
    for realize, loops in blocks(mod["main"].body):
        if str(realize.block.name_hint).endswith("_update"):
            own = bound_variables(realize, spatial=True) | bound_variables(realize, spatial=False)
            if any(loop.loop_var not in own and not is_unit(loop) for loop in loops):
                return True
    return False


def _loops_around_intrinsics(schedule: Any) -> list[Any]:
    """Returns the innermost loop around each block that becomes a tensor intrinsic.

    TVM would vectorize it, and then fails to build a vector of vector operations. It leaves annotated loops alone.
    """
    found = [realize.block for realize, loops in blocks(schedule.mod["main"].body) if loops]
    names = [str(block.name_hint) for block in found if _INTRINSIC in block.annotations]
    return [schedule.get_loops(schedule.get_sblock(name, "main"))[-1] for name in names]


def _initialise_inside_foreign_loops(schedule: Any) -> None:
    """Splits off the initialisation of reductions that stand inside another block's reduction loop.

    Such a reduction is computed anew in each iteration of that loop. `RewriteReductionBlock` takes the first loop that
    is no spatial one for the loop to initialise in front of: the other block's. The sum would then grow from iteration
    to iteration.
    """
    for realize, loops in list(blocks(schedule.mod["main"].body)):
        if realize.block.init is None:
            continue
        reducing = bound_variables(realize, spatial=False)
        own = reducing | bound_variables(realize, spatial=True)
        first = next((i for i, loop in enumerate(loops) if loop.loop_var in reducing), len(loops))
        foreign = [i for i in range(first) if loops[i].loop_var not in own and not is_unit(loops[i])]
        if not foreign or any(loop.thread_binding is not None for loop in loops[first:]):
            continue
        block = schedule.get_sblock(realize.block.name_hint, "main")
        at = first if first < len(loops) else foreign[-1] + 1
        if at < len(loops):
            schedule.decompose_reduction(block, schedule.get_loops(block)[at])

"""MetaSchedule's postprocessors, and what has to be done around them for the result to be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.ir.marks import INDEPENDENT, LAID_OUT_AHEAD
from reasoning_compiler.ir.walk import REDUCTION, blocks, bound_variables, is_unit
from reasoning_compiler.machine.toolchain import TVM_ERRORS, last_line

_METASCHEDULE = "meta_schedule."
_INTRINSIC = f"{_METASCHEDULE}auto_tensorize"
_SCALAR = "reasoning_compiler.not_vectorized"
_PARALLEL, _VECTORIZED, _UNROLLED = 1, 2, 3  # TVM's kinds of loops


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
                loops = _loops_to_leave_alone(schedule)
                for loop in loops:
                    schedule.annotate(loop, _SCALAR, 1)
                accepted = postproc.apply(schedule)
                for loop in loops:
                    schedule.unannotate(loop, _SCALAR)
            else:
                if name == "RewriteReductionBlock":
                    _initialise_inside_foreign_loops(schedule)
                    if any(_is_guarded_reduction(realize) for realize, _ in blocks(schedule.mod["main"].body)):
                        _initialise_where_possible(schedule)
                        continue
                accepted = postproc.apply(schedule)
        except TVM_ERRORS as error:
            raise IllegalProgramError(f"{name} failed: {last_line(error)}") from error
        if not accepted:
            raise IllegalProgramError(f"{name} refuses the schedule for this target")
    return schedule


def _loops_to_leave_alone(schedule: Any) -> list[Any]:
    """Returns the loops that TVM is not to parallelize, vectorize or fuse with others: it leaves annotated ones alone.

    Around a block that becomes a tensor intrinsic it would vectorize the innermost loop, and then fails to build a
    vector of vector operations. Loops that are parallel, vectorized or unrolled already it would fuse as if they were
    not. Where a nest has a parallel loop no other one is made, so also the outermost one stays; likewise for vectors.
    What a reduction's initialization has been split off from it would refuse. What is done ahead of time gets its
    loops from who takes it out. None where nothing is to be made so.
    """
    root = schedule.mod["main"].body.block
    if not any(str(name).startswith(_METASCHEDULE) for name in root.annotations):
        return []
    chosen: dict[Any, Any] = {}
    within = _nested(schedule.mod["main"]) if INDEPENDENT in root.annotations else set()
    found = [
        (realize, loops)
        for realize, loops in blocks(schedule.mod["main"].body)
        if loops and str(realize.block.name_hint) not in within
    ]
    names = Counter(str(realize.block.name_hint) for realize, _ in found)
    split_off = {region.source for realize, _ in found if _is_update(realize.block) for region in realize.block.writes}
    for realize, loops in found:
        kinds = [int(loop.kind) for loop in loops]
        alone = {i for i, kind in enumerate(kinds) if kind in (_PARALLEL, _VECTORIZED, _UNROLLED)}
        is_apart = LAID_OUT_AHEAD in realize.block.annotations
        is_split_off = any(region.source in split_off for region in realize.block.writes)
        if is_apart or is_split_off or _PARALLEL in kinds:
            alone.add(0)
        if is_apart or is_split_off or _VECTORIZED in kinds or _INTRINSIC in realize.block.annotations:
            alone.add(len(loops) - 1)
        name = str(realize.block.name_hint)
        if alone and names[name] == 1:  # nothing else tells TVM which block is meant
            variables = schedule.get_loops(schedule.get_sblock(name, "main"))
            chosen |= {loops[i].loop_var: variables[i] for i in alone}
    return list(chosen.values())


def _nested(main: Any) -> set[str]:
    """Returns the names of the blocks inside irregular ones: TVM leaves them alone."""
    from reasoning_compiler.ir.irregular import irregular, names_inside  # it imports TVM, which costs seconds

    outer = irregular(main)
    return names_inside(outer) - {str(realize.block.name_hint) for realize in outer}


def _is_update(block: Any) -> bool:
    """Tells whether a block reduces, and is initialized elsewhere."""
    return block.init is None and any(int(iterator.iter_type) == REDUCTION for iterator in block.iter_vars)


def _is_guarded_reduction(realize: Any) -> bool:
    """Tells whether a reduction with its initialisation is guarded, as a split that does not divide leaves it.

    TVM refuses to split the initialisation off where the condition is over several iterators.
    """
    return realize.block.init is not None and type(realize.predicate).__name__ != "IntImm"


def _initialise_where_possible(schedule: Any) -> None:
    """Splits off the initialisation of reductions as `RewriteReductionBlock` does; where TVM refuses, it stays inside.

    The compiled code then initialises in the first iteration of the reduction.
    """
    for realize, loops in list(blocks(schedule.mod["main"].body)):
        reducing = bound_variables(realize, spatial=False)
        first = next((i for i, loop in enumerate(loops) if loop.loop_var in reducing), None)
        if realize.block.init is None or first is None:
            continue
        block = schedule.get_sblock(realize.block.name_hint, "main")
        with suppress(*TVM_ERRORS):
            schedule.decompose_reduction(block, schedule.get_loops(block)[first])


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

"""Where a block is computed: at the root, inside a loop of its consumer, or inlined. MetaSchedule's locations, faster.

MetaSchedule's instruction `SampleComputeLocation` tries every loop of the consumer each time, also where the location
is given: several milliseconds for a block. Here only the given location is tried; the legal ones are the same.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.core.programs import ChoiceDomain
from reasoning_compiler.ir.walk import blocks, bound_variables, is_unit
from reasoning_compiler.machine.toolchain import TVM_ERRORS

ROOT, INLINE = -1, -2  # MetaSchedule's locations that are no loop
LOCATION_WORDS = {"root": ROOT, "inlined": INLINE}
IN_LOOP = "in loop "


def is_location(value: Any) -> bool:
    """Tells whether a value may be a location of some block."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= INLINE


def meant(schedule: Any, block: Any, wish: Any) -> Any:
    """Returns the location that somebody asks for; the wish itself where there is none such.

    Args:
        schedule: stays as it is.
        block: the `SBlockRV`.
        wish: a location, or the name of a loop of the consumer, as `j_0` or `C.j_0`, "root" or "inlined". A loop of one
            iteration means the nearest one around it that has more: that is the same place.
    """
    if wish in (ROOT, INLINE) or not (isinstance(wish, str) or is_location(wish)):
        return wish
    consumers = list(schedule.get_consumers(block))
    loops = [schedule.get(loop) for loop in schedule.get_loops(consumers[0])] if consumers else []
    if isinstance(wish, str):
        name = wish.strip().removeprefix(IN_LOOP).rpartition(".")[2]
        if name in LOCATION_WORDS:
            return LOCATION_WORDS[name]
        names = [str(loop.loop_var.name) for loop in loops]
        position = names.index(name) if names.count(name) == 1 else len(loops)
    else:
        position = wish
    if position >= len(loops):
        return wish
    while position > ROOT and is_unit(loops[position]):
        position -= 1
    return position


def place(schedule: Any, block: Any, location: int) -> int:
    """Moves a block, and returns its location: where the wanted one is not legal, the nearest legal one outside it.

    Args:
        schedule: is changed.
        block: the `SBlockRV`.
        location: the position of a loop of the consumer, outermost first, or `ROOT` or `INLINE`.
    """
    if location == INLINE:
        return INLINE if _succeeds(schedule.compute_inline, block) else ROOT
    if location != ROOT:
        for position, loop in reversed(_candidates(schedule, block)):
            if position <= location and _succeeds(schedule.compute_at, block, loop, preserve_unit_loops=True):
                return position
    return ROOT


def legal_locations(schedule: Any, block: Any) -> ChoiceDomain:
    """Returns the legal locations of a block with words for them; the schedule stays as it is.

    A block that can be computed in a loop can be in every candidate around that loop.
    """
    values = [INLINE, ROOT] if place(schedule.copy(), block, INLINE) == INLINE else [ROOT]
    labels = [word for word, location in LOCATION_WORDS.items() if location in values][::-1]
    trial = schedule.copy()
    names = {position: str(trial.get(loop).loop_var.name) for position, loop in _candidates(trial, block)}
    if names:
        deepest = place(trial, block, max(names))
        values += [position for position in names if position <= deepest]
        labels += [f"{IN_LOOP}{name}" for position, name in names.items() if position <= deepest]
    return ChoiceDomain(tuple(values), tuple(labels))


def _candidates(schedule: Any, block: Any) -> list[tuple[int, Any]]:
    """Returns positions and loops (`LoopRV`) around all consumers of a block where MetaSchedule would try to place it.

    As TVM's `CollectComputeLocation`: no loop of one iteration, no spatial loop inside a reduction's, and no
    reduction's loop with no spatial one inside it.
    """
    consumers = list(schedule.get_consumers(block))
    loops = list(schedule.get_loops(consumers[0])) if consumers else []
    if not loops:
        return []
    names = {str(schedule.get(consumer).name_hint) for consumer in consumers}
    # Everything else is read from the statement: asking the schedule for each loop takes much longer.
    inside = list(blocks(schedule.get(loops[0])))
    paths = [path for realize, path in inside if str(realize.block.name_hint) in names]
    if len(paths) < len(names):
        return []
    stmts = [level[0] for level in zip(*paths, strict=False) if all(level[0].same_as(loop) for loop in level)]
    reducing = {variable for realize, _ in inside for variable in bound_variables(realize, spatial=False)}
    spatial = [stmt.loop_var not in reducing for stmt in stmts]
    last_spatial = max((i for i, is_spatial in enumerate(spatial) if is_spatial), default=-1)
    found: list[tuple[int, Any]] = []
    reduces = False
    for position, (loop, stmt) in enumerate(zip(loops, stmts, strict=False)):
        if is_unit(stmt):
            continue
        if reduces if spatial[position] else position > last_spatial:
            break
        reduces = reduces or not spatial[position]
        found.append((position, loop))
    return found


def _succeeds(primitive: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        primitive(*args, **kwargs)
    except TVM_ERRORS:
        return False
    return True

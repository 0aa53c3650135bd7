"""Free transformations: schedule primitives, applied to a program's schedule by the names that people see.

They come after the sketch's decisions and before the postprocessors, and leave ordinary instructions in the trace.
Each is checked against the schedule before TVM is asked, and TVM checks what is left: whether it keeps the meaning.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.layouts import read_layout, split_dimension
from reasoning_compiler.core.primitives import (
    MAX_LANES,
    MAX_PRIMITIVES,
    MAX_UNROLLED,
    Argument,
    Primitive,
    checked,
    split_loop,
)
from reasoning_compiler.ir.extract import buffer_bytes
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm, last_line
from reasoning_compiler.space.named import (
    Named,
    Refused,
    blocks_of,
    dimension_names,
    extent_of,
    listed,
    reads_of,
    writes_of,
)

_PARALLEL, _VECTORIZED = 1, 2  # TVM's kinds of loops
_MAX_NEW_BYTES = 1 << 30  # of one buffer that primitives make


def apply_primitives(
    schedule: Any, primitives: Sequence[Primitive], *, done: Sequence[Primitive] = ()
) -> tuple[Primitive, ...]:
    """Returns primitives as a program keeps them, with all arguments and factors; the schedule is changed in place.

    Args:
        schedule: a `tvm.s_tir.Schedule`.
        primitives: with names, positions and layouts in any spelling; see `space/named.py`.
        done: what has been applied before. One of those that cannot be applied again was said again, and is left out.

    Raises:
        IllegalProgramError: there are too many, or one of them does not fit; says which, why, and what there is.
    """
    if len(primitives) + len(done) > MAX_PRIMITIVES:
        there = f"{len(done)} are there, and {len(primitives)} would follow" if done else f"these are {len(primitives)}"
        raise IllegalProgramError(f"a program has at most {MAX_PRIMITIVES} primitives; {there}")
    applied = []
    for primitive in primitives:
        try:
            applied.append(_apply(schedule, primitive))
        except IllegalProgramError:
            if primitive not in done:
                raise
    return tuple(applied)


def add_primitives(
    schedule: Any, present: Sequence[Primitive], added: Sequence[Primitive]
) -> tuple[Any, tuple[Primitive, ...]]:
    """Returns the schedule with those of a program's primitives that fit and further ones, and which these are.

    A list that begins with the program's own is taken for the whole list.

    Args:
        schedule: of the program's decisions; a part of it may have been changed: the result is the one to go on with.
        present: the program's own primitives.
        added: those of a transformation.

    Raises:
        IllegalProgramError: see `apply_primitives`.
    """
    if present and added and added[0].name == present[0].name:
        trial = schedule.copy()
        try:
            whole = apply_primitives(trial, added)
        except IllegalProgramError:
            whole = ()
        if whole[: len(present)] == tuple(present):
            return trial, whole
    schedule, kept = apply_what_fits(schedule, present)
    return schedule, (*kept, *apply_primitives(schedule, added, done=kept))


def apply_what_fits(schedule: Any, primitives: Sequence[Primitive]) -> tuple[Any, tuple[Primitive, ...]]:
    """Returns the schedule with those of another program's primitives that it takes, and which these are.

    Args:
        schedule: a part of it may have been changed where one does not fit; the result is the one to go on with.
        primitives: tried one after another.
    """
    kept = []
    for primitive in primitives:
        trial = schedule.copy()
        try:
            kept.append(_apply(trial, primitive))
        except IllegalProgramError:
            continue
        schedule = trial
    return schedule, tuple(kept)


# -- one primitive ----------------------------------------------------------------------------------------------------


def _apply(schedule: Any, primitive: Primitive) -> Primitive:
    before = _buffers(schedule)
    try:
        taken = checked(primitive)
    except ValueError as error:
        raise IllegalProgramError(" ".join(str(error).split())) from error
    # Below a sequence of statements that schedules share, TVM changes loops in place, and so in all of them, unless
    # somebody else holds the loops: it takes a loop for its own that only the sequence holds.
    held = [(realize.block, loops) for realize, loops in blocks_of(schedule)]
    try:
        arguments = _APPLY[taken.name](Named(schedule), *taken.arguments)
        _check_result(schedule, before)
    except Refused as error:
        raise IllegalProgramError(" ".join(str(error).split())) from error
    except TVM_ERRORS as error:
        raise IllegalProgramError(f"{taken} cannot be applied: {last_line(error)}") from error
    finally:
        del held
    return Primitive(taken.name, taken.arguments if arguments is None else arguments)


def _split(named: Named, loop: str, factors: tuple[int | None, ...]) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    extent = named.extent(loop, found, 1 << 31)
    known = math.prod(f for f in factors if f is not None)
    taken = tuple(-(-extent // known) if f is None else f for f in factors)
    product = math.prod(taken)
    rounded_up = any(f == -(-extent // (product // f)) for f in taken)
    if product < extent or product >= 2 * extent or not rounded_up:
        text = f"{'×'.join(map(str, taken))} = {product} do not split the {extent} iterations of `{loop}`"
        raise Refused(f"the factors {text}; their product is to be {extent}, or leave one of them `null` for the rest")
    named.schedule.split(found, list(taken))
    return loop, taken


def _of_loops(name: str, named: Named, loops: tuple[str, ...]) -> tuple[Argument, ...]:
    """Applies a primitive of several loops, by its name."""
    found, names = named.loops(loops)
    getattr(named.schedule, name)(*found)
    return (names,)


def _vectorize(named: Named, loop: str) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    if named.extent(loop, found, MAX_LANES) == 1:
        raise Refused(f"loop `{loop}` has one iteration: there is nothing to vectorize")
    named.schedule.vectorize(found)
    return (loop,)


def _unroll(named: Named, loop: str) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    named.extent(loop, found, MAX_UNROLLED)
    named.schedule.unroll(found)
    return (loop,)


def _parallel(named: Named, loop: str) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    named.schedule.parallel(found)
    return (loop,)


def _compute_at(named: Named, block: str, loop: str) -> tuple[Argument, ...]:
    found, (inside, loop) = named.block(block), named.loop(loop)
    takers = {str(named.schedule.get(taker).name_hint) for taker in named.schedule.get_consumers(found)}
    outside = sorted(takers - _blocks_in(named, inside))
    if outside:
        step = json.dumps(["compute_at", outside[0], loop])
        raise Refused(
            f"`{outside[0]}`, which reads what `{block}` makes, is not in loop `{loop}`: move it first, {step}"
        )
    _check_guard(named, block)
    named.schedule.compute_at(found, inside, preserve_unit_loops=True)
    return block, loop


def _reverse_compute_at(named: Named, block: str, loop: str) -> tuple[Argument, ...]:
    found, (inside, loop) = named.block(block), named.loop(loop)
    makers = {str(named.schedule.get(maker).name_hint) for maker in named.schedule.get_producers(found)}
    around = _blocks_in(named, inside)
    _check_guard(named, block)
    if not makers or not makers <= around:  # TVM asks nothing of a block that reads arguments alone
        raise Refused(f"loop `{loop}` is not around all producers of `{block}`, which are {listed(sorted(makers))}")
    named.schedule.reverse_compute_at(found, inside, preserve_unit_loops=True)
    # TVM moves what the producer makes there, also where the block makes more than that, as a padding's border.
    realize, loops = next((r, x) for r, x in blocks_of(named.schedule) if str(r.block.name_hint) == block)
    if not _makes_all(realize, loops):
        raise Refused(f"`{block}` would no longer make all of its result: it makes more than comes of what it reads")
    return block, loop


def _cache_read(named: Named, block: str, buffer: Argument, scope: str) -> tuple[Argument, ...]:
    block, name = named.reader(block, buffer)
    named.schedule.cache_read(*named.read_index(block, name), scope)
    return block, name, scope


def _cache_write(named: Named, block: str, scope: str) -> None:
    named.schedule.cache_write(named.block(block), 0, scope)


def _transform_layout(
    named: Named, block: str, buffer: Argument, written: str | tuple[int | str, ...]
) -> tuple[Argument, ...]:
    block, buffer = named.reader(block, buffer, or_copy=True)
    found, index = named.read_index(block, buffer)
    function = named.schedule.mod["main"]
    arguments = [str(parameter.name) for parameter in function.params]
    if buffer in arguments:
        raise Refused(f"the layout of `{buffer}`, an argument of the kernel, is fixed; copy it with `cache_read` first")
    weights = {arguments[int(i)] for i in function.attrs.get("layout_free_buffers", ())}
    makers = [set(reads_of(r.block)) for r, _ in blocks_of(named.schedule) if buffer in writes_of(r.block)]
    if any(reads and reads <= weights for reads in makers):
        raise Refused(f"`{buffer}` copies a constant weight, which is laid out ahead of time as the loops read it")
    shape = [extent_of(size) for size in named.schedule.get(found).reads[index].source.shape]
    try:
        layout = read_layout(written, dimension_names(named.schedule.get(found), index))
    except ValueError as error:
        raise Refused(f"the layout of `{buffer}`: {error}") from error
    parts = [split_dimension(text) for text in layout]
    for dimension, size in enumerate(shape):
        own = [(operator, by) for d, operator, by in parts if d == dimension]
        whole = own == [("", 1)]
        halves = sorted(own) == [("%", own[0][1]), ("/", own[0][1])] and size % own[0][1] == 0 if own else False
        if not whole and not halves:
            raise Refused(
                f"the layout [{', '.join(layout)}] of `{buffer}` has to have dimension {dimension} ({size} elements) "
                f"once, or as {dimension}/F and {dimension}%F with a factor F of it"
            )
    if any(dimension >= len(shape) for dimension, _, _ in parts):
        raise Refused(f"`{buffer}` has the dimensions 0 to {len(shape) - 1}, and the layout names others")

    def index_map(*old: Any) -> list[Any]:
        return [old[d] if not op else old[d] // by if op == "/" else old[d] % by for d, op, by in parts]

    mapping = import_tvm().tirx.IndexMap.from_func(index_map, ndim=len(shape), index_dtype="int32")
    named.schedule.transform_layout(found, ("read", index), mapping)
    return block, buffer, layout


def _decompose_reduction(named: Named, block: str, loop: str) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    named.schedule.decompose_reduction(named.block(block), found)
    return block, loop


def _rfactor(named: Named, loop: str, axis: int) -> tuple[Argument, ...]:
    found, loop = named.loop(loop)
    block = named.schedule.get(named.block(split_loop(loop)[0]))
    most = max(len(region.source.shape) for region in block.writes)
    if axis > most:
        raise Refused(f"`axis` of `rfactor` is {axis}; the partial results have positions 0 to {most} for it")
    named.schedule.rfactor(found, axis)
    return loop, axis


def _pad_einsum(named: Named, block: str, multiples: tuple[int, ...]) -> None:
    found = named.block(block)
    iterators = [str(iterator.var.name) for iterator in named.schedule.get(found).iter_vars]
    if len(iterators) != len(multiples):
        raise Refused(f"`{block}` has {len(iterators)} iterators ({', '.join(iterators)}), not {len(multiples)}")
    named.schedule.pad_einsum(found, list(multiples))


_APPLY: Mapping[str, Callable[..., tuple[Argument, ...] | None]] = {
    "split": _split,
    "fuse": partial(_of_loops, "fuse"),
    "reorder": partial(_of_loops, "reorder"),
    "vectorize": _vectorize,
    "unroll": _unroll,
    "parallel": _parallel,
    "compute_at": _compute_at,
    "reverse_compute_at": _reverse_compute_at,
    "cache_read": _cache_read,
    "cache_write": _cache_write,
    "transform_layout": _transform_layout,
    "decompose_reduction": _decompose_reduction,
    "rfactor": _rfactor,
    "pad_einsum": _pad_einsum,
}


# -- what comes of it -------------------------------------------------------------------------------------------------


def _blocks_in(named: Named, loop: Any) -> set[str]:
    """Returns the names of the blocks inside a loop."""
    statement = named.schedule.get(loop)
    found = blocks_of(named.schedule)
    return {str(realize.block.name_hint) for realize, loops in found if any(x.same_as(statement) for x in loops)}


def _check_guard(named: Named, block: str) -> None:
    """Raises Refused where moving a block would lose a condition around it.

    TVM makes the condition anew from the values that the iterators may take, and forgets what does not follow from
    them: where a split that does not divide stands under several iterators, as `rfactor` leaves it.
    """
    realize = next(r for r, _ in blocks_of(named.schedule) if str(r.block.name_hint) == block)
    limits = list(zip(realize.iter_values, (iterator.dom for iterator in realize.block.iter_vars), strict=True))
    conditions = [realize.predicate]
    while conditions:
        condition = conditions.pop()
        if type(condition).__name__ == "And":
            conditions += [condition.a, condition.b]
        elif type(condition).__name__ != "IntImm" and not any(_follows(condition, *limit) for limit in limits):
            raise Refused(
                f"moving `{block}` would lose the condition `{condition}` around it, which comes of factors that do "
                "not divide; split by factors that do, or leave it where it is"
            )


def _follows(condition: Any, value: Any, domain: Any) -> bool:
    """Tells whether a condition is that an iterator's value stays below the end of its domain."""
    from tvm.sym import Analyzer

    if type(condition).__name__ != "LT":
        return False
    end = extent_of(domain.min) + extent_of(domain.extent)
    return extent_of(condition.b) >= end > 0 and Analyzer().can_prove_equal(condition.a, value)


def _makes_all(realize: Any, loops: Sequence[Any]) -> bool:
    """Tells whether a block's iterators still take all their values."""
    tvm = import_tvm()
    from tvm.sym import Analyzer

    analyzer = Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    domains = [iterator.dom for iterator in realize.block.iter_vars]
    for value, domain in zip(realize.iter_values, domains, strict=True):
        taken = analyzer.const_int_bound(value)
        if (
            taken.min_value > extent_of(domain.min)
            or taken.max_value < extent_of(domain.min) + extent_of(domain.extent) - 1
        ):
            return False
    return math.prod(extent_of(x.extent) for x in loops) >= math.prod(extent_of(domain.extent) for domain in domains)


def _buffers(schedule: Any) -> dict[str, int]:
    """Returns the bytes of the buffers that the function allocates, by name."""
    return {str(buffer.name): buffer_bytes(buffer) for buffer in schedule.mod["main"].body.block.alloc_buffers}


def _check_result(schedule: Any, before: Mapping[str, int]) -> None:
    """Raises Refused where names are no longer unique, a new buffer is too large, or TVM could not build it."""
    found = blocks_of(schedule)
    inside = Counter(loop.loop_var for _, loops in found for loop in loops if int(loop.kind) == _VECTORIZED)
    for realize, loops in found:
        name = str(realize.block.name_hint)
        for kind, word in ((_PARALLEL, "parallel"), (_VECTORIZED, "vectorized")):
            these = [str(loop.loop_var.name) for loop in loops if int(loop.kind) == kind]
            if len(these) > 1:
                raise Refused(f"`{name}` would have a {word} loop, `{these[1]}`, inside another one, `{these[0]}`")
        for loop in loops:
            if inside[loop.loop_var] > 1:
                raise Refused(f"the vectorized loop `{loop.loop_var.name}` around `{name}` would have several blocks")
    names = Counter(str(realize.block.name_hint) for realize, _ in found)
    for name, count in names.items():
        if count > 1:
            raise Refused(f"there would be {count} blocks `{name}`, which nobody could tell apart")
    for name, size in _buffers(schedule).items():
        if name not in before and size > _MAX_NEW_BYTES:
            raise Refused(f"the buffer `{name}` would take {size >> 20} MB; at most {_MAX_NEW_BYTES >> 20} are allowed")

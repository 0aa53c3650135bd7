"""Free transformations: schedule primitives, applied to a program's schedule by the names that people see.

They come after the sketch's decisions and before the postprocessors, and leave ordinary instructions in the trace.
Each is checked against the schedule before TVM is asked, and TVM checks what is left: whether it keeps the meaning.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.primitives import (
    MAX_LANES,
    MAX_PARTS,
    MAX_PRIMITIVES,
    MAX_UNROLLED,
    Argument,
    Primitive,
    checked,
    split_dimension,
    split_loop,
)
from reasoning_compiler.ir.walk import blocks, bound_variables
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm, last_line

_PARALLEL, _VECTORIZED = 1, 2  # TVM's kinds of loops
_MAX_NEW_BYTES = 1 << 30  # of one buffer that primitives make
_NAMES_TOLD = 24


@dataclass(frozen=True)
class NamedLoop:
    """A loop that primitives may name: its name, its iterations, and whether the block reduces over it."""

    name: str
    extent: int
    reduces: bool


@dataclass(frozen=True)
class NamedBlock:
    """A block that primitives may name.

    Args:
        name: the block's.
        loops: around it, outermost first; none whose name another one of them has.
        reads: names of the buffers that it reads and does not write.
        result_dimensions: of the buffer that it writes; None where it writes several.
    """

    name: str
    loops: tuple[NamedLoop, ...]
    reads: tuple[str, ...]
    result_dimensions: int | None = None


def named_blocks(schedule: Any) -> tuple[NamedBlock, ...]:
    """Returns what primitives may name in a schedule, in program order."""
    found = _blocks(schedule)
    counts = Counter(str(realize.block.name_hint) for realize, _ in found)
    named = []
    for realize, loops in found:
        name = str(realize.block.name_hint)
        if counts[name] > 1 or not loops:
            continue
        reducing = bound_variables(realize, spatial=False)
        names = Counter(str(loop.loop_var.name) for loop in loops)
        told = [loop for loop in loops if names[str(loop.loop_var.name)] == 1]
        named.append(
            NamedBlock(
                name,
                tuple(NamedLoop(str(x.loop_var.name), _extent(x.extent), x.loop_var in reducing) for x in told),
                _reads(realize.block),
                len(realize.block.writes[0].source.shape) if len(realize.block.writes) == 1 else None,
            )
        )
    return tuple(named)


def apply_primitives(schedule: Any, primitives: Sequence[Primitive]) -> tuple[Primitive, ...]:
    """Returns primitives as a program keeps them, with all arguments and factors; the schedule is changed in place.

    Raises:
        IllegalProgramError: there are too many, or one of them does not fit; says which, why, and what there is.
    """
    if len(primitives) > MAX_PRIMITIVES:
        raise IllegalProgramError(f"a program has at most {MAX_PRIMITIVES} primitives; these are {len(primitives)}")
    before = _buffers(schedule) if primitives else {}
    return tuple(_apply(schedule, primitive, before) for primitive in primitives)


def apply_what_fits(schedule: Any, primitives: Sequence[Primitive]) -> tuple[Any, tuple[Primitive, ...]]:
    """Returns the schedule with those of another program's primitives that it takes, and which these are.

    Args:
        schedule: a part of it may have been changed where one does not fit; the result is the one to go on with.
        primitives: tried one after another.
    """
    before = _buffers(schedule) if primitives else {}
    kept = []
    for primitive in primitives:
        trial = schedule.copy()
        try:
            kept.append(_apply(trial, primitive, before))
        except IllegalProgramError:
            continue
        schedule = trial
    return schedule, tuple(kept)


# -- one primitive ----------------------------------------------------------------------------------------------------


def _apply(schedule: Any, primitive: Primitive, before: Mapping[str, int]) -> Primitive:
    try:
        taken = checked(primitive)
    except ValueError as error:
        raise IllegalProgramError(" ".join(str(error).split())) from error
    # Below a sequence of statements that schedules share, TVM changes loops in place, and so in all of them, unless
    # somebody else holds the loops: it takes a loop for its own that only the sequence holds.
    held = [(realize.block, loops) for realize, loops in _blocks(schedule)]
    try:
        arguments = _APPLY[taken.name](_Named(schedule), *taken.arguments)
        _check_result(schedule, before)
    except _Refused as error:
        raise IllegalProgramError(" ".join(str(error).split())) from error
    except TVM_ERRORS as error:
        raise IllegalProgramError(f"{taken} cannot be applied: {last_line(error)}") from error
    finally:
        del held
    return Primitive(taken.name, taken.arguments if arguments is None else arguments)


class _Refused(ValueError):
    """An argument does not fit the schedule."""


class _Named:
    """A schedule whose blocks and loops are found by name."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def block(self, name: str) -> Any:
        """Returns the `SBlockRV` of a block with loops."""
        names = [str(realize.block.name_hint) for realize, loops in _blocks(self.schedule) if loops]
        if names.count(name) != 1:
            what = "several blocks" if name in names else "no block"
            raise _Refused(f"there is {what} `{name}` here; there are {_listed(names)}")
        return self.schedule.get_sblock(name, "main")

    def loops(self, names: Sequence[str]) -> list[Any]:
        """Returns the `LoopRV`s of loops around one block, in the order in which they are given."""
        block = split_loop(names[0])[0]
        found = list(self.schedule.get_loops(self.block(block)))
        there = [str(self.schedule.get(loop).loop_var.name) for loop in found]
        for name in names:
            if there.count(split_loop(name)[1]) != 1:
                what = "several loops" if split_loop(name)[1] in there else "no loop"
                raise _Refused(f"there is {what} `{name}` here; there are {_listed([f'{block}.{x}' for x in there])}")
        return [found[there.index(split_loop(name)[1])] for name in names]

    def loop(self, name: str) -> Any:
        return self.loops([name])[0]

    def extent(self, name: str, loop: Any, most: int) -> int:
        """Returns a loop's iterations. Raises _Refused where they are not constant, or more than `most`."""
        extent = _extent(self.schedule.get(loop).extent)
        if extent == 0:
            raise _Refused(f"loop `{name}` has no constant number of iterations")
        if extent > most:
            raise _Refused(f"loop `{name}` has {extent} iterations; at most {most} are allowed: split it first")
        return extent

    def read_index(self, block: str, buffer: str) -> tuple[Any, int]:
        """Returns a block and the position of a buffer among what it reads."""
        found = self.block(block)
        there = _reads(self.schedule.get(found))
        if buffer not in there:
            raise _Refused(f"`{block}` reads no buffer `{buffer}`; it reads {_listed(there)}")
        regions = [str(region.source.name) for region in self.schedule.get(found).reads]
        return found, regions.index(buffer)


def _split(named: _Named, loop: str, factors: tuple[int | None, ...]) -> tuple[Argument, ...]:
    found = named.loop(loop)
    extent = named.extent(loop, found, 1 << 31)
    known = math.prod(f for f in factors if f is not None)
    taken = tuple(-(-extent // known) if f is None else f for f in factors)
    product = math.prod(taken)
    rounded_up = any(f == -(-extent // (product // f)) for f in taken)
    if product < extent or product >= 2 * extent or not rounded_up:
        text = f"{'×'.join(map(str, taken))} = {product} do not split the {extent} iterations of `{loop}`"
        raise _Refused(f"the factors {text}; their product is to be {extent}, or leave one of them `null` for the rest")
    named.schedule.split(found, list(taken))
    return loop, taken


def _fuse(named: _Named, loops: tuple[str, ...]) -> None:
    named.schedule.fuse(*named.loops(loops))


def _reorder(named: _Named, loops: tuple[str, ...]) -> None:
    named.schedule.reorder(*named.loops(loops))


def _vectorize(named: _Named, loop: str) -> None:
    found = named.loop(loop)
    if named.extent(loop, found, MAX_LANES) == 1:
        raise _Refused(f"loop `{loop}` has one iteration: there is nothing to vectorize")
    named.schedule.vectorize(found)


def _unroll(named: _Named, loop: str) -> None:
    found = named.loop(loop)
    named.extent(loop, found, MAX_UNROLLED)
    named.schedule.unroll(found)


def _parallel(named: _Named, loop: str) -> None:
    named.schedule.parallel(named.loop(loop))


def _compute_at(named: _Named, block: str, loop: str) -> None:
    named.schedule.compute_at(named.block(block), named.loop(loop), preserve_unit_loops=True)


def _reverse_compute_at(named: _Named, block: str, loop: str) -> None:
    found, inside = named.block(block), named.loop(loop)
    makers = {str(named.schedule.get(maker).name_hint) for maker in named.schedule.get_producers(found)}
    around = {
        str(realize.block.name_hint)
        for realize, loops in _blocks(named.schedule)
        if any(x.same_as(named.schedule.get(inside)) for x in loops)
    }
    if not makers or not makers <= around:  # TVM asks nothing of a block that reads arguments alone
        raise _Refused(f"loop `{loop}` is not around all producers of `{block}`, which are {_listed(sorted(makers))}")
    named.schedule.reverse_compute_at(found, inside, preserve_unit_loops=True)
    # TVM moves what the producer makes there, also where the block makes more than that, as a padding's border.
    realize, loops = next((r, x) for r, x in _blocks(named.schedule) if str(r.block.name_hint) == block)
    if not _makes_all(realize, loops):
        raise _Refused(f"`{block}` would no longer make all of its result: it makes more than comes of what it reads")


def _cache_read(named: _Named, block: str, buffer: str, scope: str) -> None:
    named.schedule.cache_read(*named.read_index(block, buffer), scope)


def _cache_write(named: _Named, block: str, scope: str) -> None:
    named.schedule.cache_write(named.block(block), 0, scope)


def _transform_layout(named: _Named, block: str, buffer: str, layout: tuple[str, ...]) -> None:
    found, index = named.read_index(block, buffer)
    function = named.schedule.mod["main"]
    arguments = [str(parameter.name) for parameter in function.params]
    if buffer in arguments:
        raise _Refused(
            f"the layout of `{buffer}`, an argument of the kernel, is fixed; copy it with `cache_read` first"
        )
    weights = {arguments[int(i)] for i in function.attrs.get("layout_free_buffers", ())}
    makers = [set(_reads(r.block)) for r, _ in _blocks(named.schedule) if buffer in _writes(r.block)]
    if any(reads and reads <= weights for reads in makers):
        raise _Refused(f"`{buffer}` copies a constant weight, which is laid out ahead of time as the loops read it")
    shape = [_extent(size) for size in named.schedule.get(found).reads[index].source.shape]
    parts = [split_dimension(text) for text in layout]
    for dimension, size in enumerate(shape):
        own = [(operator, by) for d, operator, by in parts if d == dimension]
        whole = own == [("", 1)]
        halves = sorted(own) == [("%", own[0][1]), ("/", own[0][1])] and size % own[0][1] == 0 if own else False
        if not whole and not halves:
            raise _Refused(
                f"the layout [{', '.join(layout)}] of `{buffer}` has to have dimension {dimension} ({size} elements) "
                f"once, or as {dimension}/F and {dimension}%F with a factor F of it"
            )
    if any(dimension >= len(shape) for dimension, _, _ in parts):
        raise _Refused(f"`{buffer}` has the dimensions 0 to {len(shape) - 1}, and the layout names others")

    def index_map(*old: Any) -> list[Any]:
        return [old[d] if not op else old[d] // by if op == "/" else old[d] % by for d, op, by in parts]

    mapping = import_tvm().tirx.IndexMap.from_func(index_map, ndim=len(shape), index_dtype="int32")
    named.schedule.transform_layout(found, ("read", index), mapping)


def _decompose_reduction(named: _Named, block: str, loop: str) -> None:
    named.schedule.decompose_reduction(named.block(block), named.loop(loop))


def _rfactor(named: _Named, loop: str, axis: int) -> None:
    found = named.loop(loop)
    named.extent(loop, found, MAX_PARTS)
    block = named.schedule.get(named.block(split_loop(loop)[0]))
    most = max(len(region.source.shape) for region in block.writes)
    if axis > most:
        raise _Refused(f"`axis` of `rfactor` is {axis}; the partial results have positions 0 to {most} for it")
    named.schedule.rfactor(found, axis)


def _pad_einsum(named: _Named, block: str, multiples: tuple[int, ...]) -> None:
    found = named.block(block)
    iterators = [str(iterator.var.name) for iterator in named.schedule.get(found).iter_vars]
    if len(iterators) != len(multiples):
        raise _Refused(f"`{block}` has {len(iterators)} iterators ({', '.join(iterators)}), not {len(multiples)}")
    named.schedule.pad_einsum(found, list(multiples))


_APPLY: Mapping[str, Callable[..., tuple[Argument, ...] | None]] = {
    "split": _split,
    "fuse": _fuse,
    "reorder": _reorder,
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


# -- what is there ----------------------------------------------------------------------------------------------------


def _blocks(schedule: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    return [(r, loops) for r, loops in blocks(schedule.mod["main"].body) if str(r.block.name_hint) != "root"]


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
        if taken.min_value > _extent(domain.min) or taken.max_value < _extent(domain.min) + _extent(domain.extent) - 1:
            return False
    return math.prod(_extent(x.extent) for x in loops) >= math.prod(_extent(domain.extent) for domain in domains)


def _reads(block: Any) -> tuple[str, ...]:
    written = _writes(block)
    return tuple(dict.fromkeys(n for n in (str(region.source.name) for region in block.reads) if n not in written))


def _writes(block: Any) -> set[str]:
    return {str(region.source.name) for region in block.writes}


def _buffers(schedule: Any) -> dict[str, int]:
    """Returns the bytes of the buffers that the function allocates, by name."""
    root = schedule.mod["main"].body.block
    sizes = ((str(b.name), math.prod(_extent(s) for s in b.shape), _bits(str(b.dtype))) for b in root.alloc_buffers)
    return {name: elements * bits // 8 for name, elements, bits in sizes}


def _check_result(schedule: Any, before: Mapping[str, int]) -> None:
    """Raises _Refused where names are no longer unique, a new buffer is too large, or TVM could not build it."""
    found = _blocks(schedule)
    inside = Counter(loop.loop_var for _, loops in found for loop in loops if int(loop.kind) == _VECTORIZED)
    for realize, loops in found:
        name = str(realize.block.name_hint)
        for kind, word in ((_PARALLEL, "parallel"), (_VECTORIZED, "vectorized")):
            these = [str(loop.loop_var.name) for loop in loops if int(loop.kind) == kind]
            if len(these) > 1:
                raise _Refused(f"`{name}` would have a {word} loop, `{these[1]}`, inside another one, `{these[0]}`")
        for loop in loops:
            if inside[loop.loop_var] > 1:
                raise _Refused(f"the vectorized loop `{loop.loop_var.name}` around `{name}` would have several blocks")
    names = Counter(str(realize.block.name_hint) for realize, _ in found)
    for name, count in names.items():
        if count > 1:
            raise _Refused(f"there would be {count} blocks `{name}`, which nobody could tell apart")
    for name, size in _buffers(schedule).items():
        if name not in before and size > _MAX_NEW_BYTES:
            raise _Refused(
                f"the buffer `{name}` would take {size >> 20} MB; at most {_MAX_NEW_BYTES >> 20} are allowed"
            )


def _extent(expr: Any) -> int:
    """Returns a constant's value; 0 for what is not known."""
    return int(expr) if type(expr).__name__ == "IntImm" else 0


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)
    return int(found.group()) if found else 8


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(f"`{name}`" for name in names[:_NAMES_TOLD])
    return told + (f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else "") or "none"

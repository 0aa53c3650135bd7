"""Finding contractions: blocks that sum up over products, alone in plain loops. Several rules start from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoning_compiler.ir.extract import item_bytes
from reasoning_compiler.ir.walk import SPATIAL, constants, index_of, variables
from reasoning_compiler.machine.toolchain import import_tvm


@dataclass(frozen=True)
class Contraction:
    """A block that sums up over products.

    Args:
        names: of its loops.
        extents: of its loops.
        rows: positions of loops that do not move what is read along the columns.
        column: the position of the loop that walks the last dimension of the result.
        may_pad_columns: what is read along no column is the same for all of them, not one part for each group, and what
            is read along the columns is read at plain indices.
        right: the name of the buffer that is read along the columns.
        read: which of the block's reads that is.
        order: the dimensions of the latter, those that the column walks last.
        is_constant: whether it is laid out ahead of time.
        result: the name of the buffer that is written.
        item_bytes: of the result.
    """

    names: tuple[str, ...]
    extents: tuple[int, ...]
    rows: tuple[int, ...]
    column: int
    may_pad_columns: bool
    right: str
    read: int
    order: tuple[int, ...]
    is_constant: bool
    result: str
    item_bytes: int


def plain_contraction(sch: Any, block: Any) -> Contraction | None:
    """Returns what there is to know of a block; None if it does not reduce, or is not alone in plain loops."""
    found, main = sch.get(block), sch.mod["main"]
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    iterators = list(found.iter_vars)
    whole = all(type(loop.extent).__name__ == "IntImm" for loop in loops)
    if found.init is None or len(loops) != len(iterators) or not whole or len(found.writes) != 1:
        return None
    spatial = [i for i, each in enumerate(iterators) if int(each.iter_type) == SPATIAL]
    written = found.writes[0]
    column = next((i for i in spatial if written.region[-1].min.same_as(iterators[i].var)), None)
    if column is None:
        return None
    along = {True: [], False: []}
    for region in found.reads:
        along[any(part.min.same_as(iterators[column].var) for part in region.region)].append(region)
    if len(along[True]) != 1 or not along[False] or len(set(map(_buffer_name, found.reads))) < len(found.reads):
        return None
    (right,) = along[True]
    used = [part.min for part in right.region]
    moving = [variable for index in used for variable in variables(index)]
    rows = tuple(i for i in spatial if not any(variable.same_as(iterators[i].var) for variable in moving))
    is_constant = index_of(right.source, constants(main)) is not None
    walked = [index.same_as(iterators[column].var) for index in used]
    return Contraction(
        tuple(str(loop.loop_var.name) for loop in loops),
        tuple(int(loop.extent) for loop in loops),
        rows,
        column,
        is_plain(right)
        and not any(iterators[column].var.same_as(v) for r in along[False] for p in r.region for v in variables(p.min)),
        _buffer_name(right),
        [_buffer_name(region) for region in found.reads].index(_buffer_name(right)),
        tuple(sorted(range(len(walked)), key=walked.__getitem__)),
        is_constant,
        _buffer_name(written),
        item_bytes(str(written.source.dtype)),
    )


def _buffer_name(region: Any) -> str:
    return str(region.source.name)


def is_plain(region: Any) -> bool:
    """Tells whether a block reads a region at plain variables."""
    return all(isinstance(part.min, import_tvm().tirx.Var) for part in region.region)

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
    own = [iterator.var for iterator in found.iter_vars]
    whole = all(type(loop.extent).__name__ == "IntImm" for loop in loops)
    if found.init is None or len(loops) != len(own) or not whole or len(found.writes) != 1:
        return None
    spatial = [i for i, each in enumerate(found.iter_vars) if int(each.iter_type) == SPATIAL]
    result, reads = found.writes[0], list(found.reads)
    column = index_of(result.region[-1].min, own)
    # Which loop walks each dimension of what is read, and which loops move it at all.
    walked = [[index_of(part.min, own) for part in region.region] for region in reads]
    moved = [{index_of(v, own) for part in region.region for v in variables(part.min)} for region in reads]
    along = [read for read, loops_of_dimensions in enumerate(walked) if column in loops_of_dimensions]
    names = [str(region.source.name) for region in reads]
    if column not in spatial or len(along) != 1 or len(reads) == 1 or len(set(names)) < len(names):
        return None
    (right,) = along
    return Contraction(
        tuple(str(loop.loop_var.name) for loop in loops),
        tuple(int(loop.extent) for loop in loops),
        tuple(i for i in spatial if i not in moved[right]),
        column,
        is_plain(reads[right]) and not any(column in moved[read] for read in range(len(reads)) if read != right),
        names[right],
        right,
        tuple(sorted(range(len(walked[right])), key=lambda dimension: walked[right][dimension] == column)),
        index_of(reads[right].source, constants(main)) is not None,
        str(result.source.name),
        item_bytes(str(result.source.dtype)),
    )


def is_plain(region: Any) -> bool:
    """Tells whether a block reads a region at plain variables."""
    return all(isinstance(part.min, import_tvm().tirx.Var) for part in region.region)

"""How an operand lies for a register tile, and the copy that lays it out in each call.

What a tile reads along the columns of its result it reads in vectors, one after the other where the operand lies so:

    [..., column // lanes, term // terms, column % lanes, term % terms]

A constant gets its layout ahead of time, from `RewriteLayout` or `operand_layouts`; any other operand is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoning_compiler.ir.marks import SETTLED


@dataclass(frozen=True)
class Layout:
    """The layout of an operand.

    Args:
        order: its dimensions, those of columns and of terms last.
        lanes: columns of a vector.
        terms: of one column that lie together, as an instruction takes them; 1 for no such dimension.
    """

    order: tuple[int, ...]
    lanes: int
    terms: int = 1

    def place(self, *at: Any) -> list[Any]:
        """Returns where an element lies, given by its plain indices."""
        *others, column, term = (at[dimension] for dimension in self.order)
        groups = [term] if self.terms == 1 else [term // self.terms]
        within = [] if self.terms == 1 else [term % self.terms]
        return [*others, column // self.lanes, *groups, column % self.lanes, *within]


def settle_copy(sch: Any, around: list[Any], lane: Any) -> None:
    """Makes a copy's outer loops parallel jobs and its innermost loop a vector, and leaves nothing of them to TVM."""
    jobs = sch.fuse(*around)
    sch.parallel(jobs)
    sch.vectorize(lane)
    for loop in (jobs, lane):
        sch.annotate(loop, SETTLED, 1)


def copy_operand(sch: Any, block: Any, read: int, layout: Layout, *, is_cut: bool = False) -> tuple[list[Any], Any]:
    """Copies an operand in front of a block, in the order in which the block reads it.

    Returns the copy's loops around terms, those over vectors the last of them, and its loop over lanes.

    Args:
        sch: the schedule, changed.
        block: what reads.
        read: which of its reads is the operand.
        layout: of the copy.
        is_cut: the last vector is not whole; what lies behind the last column is never read.
    """
    copy = sch.cache_read(block, read, "global")
    sch.transform_layout(block, ("read", read), layout.place, assume_injective_transform=is_cut)
    loops = sch.get_loops(copy)
    *others, column, term = (loops[dimension] for dimension in layout.order)
    vectors, lane = sch.split(column, [None, layout.lanes])
    inner = [term, lane]
    if layout.terms > 1:
        groups, within = sch.split(term, [None, layout.terms])
        inner = [groups, lane, within]
    sch.reorder(*others, vectors, *inner)
    return [*others, vectors], lane

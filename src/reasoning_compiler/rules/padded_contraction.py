"""Contractions whose loops no good register tile divides, computed on padded extents that one does.

Every tile divides its loop, so 197 rows, a prime, leave tiles of one row or of all, and 1000 columns vectors of eight.
Here such a loop is offered some iterations more, with TVM's primitive `pad_einsum`, and its tail is cut on the way out:

    for i in range(198), j, k: C_pad[i, j] += (A[i, k] if i < 197 else 0) * B[k, j]       # 33 tiles of 6 rows
    for i in range(197), j: C[i, j] = C_pad[i, j]                                         # or what reads C

A convolution has no plain indices, which `pad_einsum` asks for. So its image is first read through one that has them,
`reindex`, and after the padding that is inlined again: no patches are ever in memory.

    for h in range(17), w in range(18), co, rh, rw, rc:
        Y_pad[h, w, co] += (X[h + rh, w + rw, rc] if w < 17 else 0) * W[rh, rw, rc, co]

Nothing that is summed over is padded, so each element of C is the same sum of the same terms. Rows cost no copy: the
condition on what they share is decided outside the sums, and no result is stored behind the last row. Columns need a
copy of the operand that is read along them. A constant is laid out ahead of time anyway (`padded_layout`); any other is
copied in each call, into the order in which vectors read it, and the copy is a block like others, which the analysis
counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.ir.extract import item_bytes
from reasoning_compiler.ir.marks import LAID_OUT_AHEAD, PADDED
from reasoning_compiler.ir.nest import Padding
from reasoning_compiler.ir.walk import SPATIAL, constants, variables
from reasoning_compiler.machine.targets import target_vector_unit
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm
from reasoning_compiler.rules.attempted import attempted

_ROWS = (4, 6, 8, 12, 13, 14)  # of a register tile
_VECTORS = (1, 2, 4)  # of a register tile; LLVM keeps no vectors of three in registers
_MAX_COLUMNS = 64  # of a tile, as in MetaSchedule's rules for CPUs
_MAX_WASTE = 1 / 8
_FEWER_VECTORS = 3 / 4  # that padded columns make, of those that divide them
_MAX_WAYS = 2  # to pad one loop


def padded_contraction() -> Any:
    """Returns the rule, which goes before all tiling; it offers nothing for loops that a good tile divides."""
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.schedule_rule import PyScheduleRule

    @derived_object
    class PaddedContraction(PyScheduleRule):
        """Offers the block as it is, and with its rows or columns or both padded."""

        unit = None

        def _initialize_with_tune_context(self, context: Any) -> None:
            if context.target.kind.name == "llvm":
                self.unit = target_vector_unit(context.target)

        def apply(self, sch: Any, block: Any) -> list[Any]:
            found = plain_contraction(sch, block) if self.unit is not None else None
            if found is None:
                return [sch]
            options = []
            for extents in found.paddings(self.unit.vector_bytes, self.unit.num_registers):
                padded = attempted(sch, _pad, block, found, extents)
                if padded is None:  # an index that is no plain variable, in the result or along the columns
                    break
                options.append(padded)
            return [sch, *options]

        def clone(self) -> Any:
            return PaddedContraction()

    return PaddedContraction()


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
    order: tuple[int, ...]
    is_constant: bool
    result: str
    item_bytes: int

    def paddings(self, vector_bytes: int, num_registers: int) -> Iterator[dict[int, int]]:
        """Yields padded extents by position, those of few loops first."""
        most_rows = (num_registers - 2) // 2  # two vectors a row, and two for the operands
        rows = self._padded_rows([count for count in _ROWS if count <= most_rows], most_rows)
        columns = self._padded_columns(max(1, vector_bytes // self.item_bytes))
        yield from rows
        yield from columns
        yield from (row | column for row, column in itertools.product(rows, columns))

    def _padded_rows(self, counts: list[int], most: int) -> list[dict[int, int]]:
        if not counts:
            return []
        long = [i for i in self.rows if self.extents[i] >= counts[0]]
        if not long or any(self.extents[i] % d == 0 for i in long for d in range(counts[0], most + 1)):
            return []
        padded = _multiples(self.extents[long[-1]], counts, (1 + _MAX_WASTE) * self.extents[long[-1]])
        return [{long[-1]: each} for each in padded]

    def _padded_columns(self, lanes: int) -> list[dict[int, int]]:
        extent = self.extents[self.column]
        if extent <= lanes or extent % lanes == 0 or not self.may_pad_columns:
            return []
        widths = [vectors * lanes for vectors in _VECTORS if vectors * lanes <= _MAX_COLUMNS]
        most = _FEWER_VECTORS * lanes * extent / math.gcd(extent, lanes)
        return [{self.column: each} for each in _multiples(extent, widths, most)]


def _multiples(extent: int, of: list[int], most: float) -> list[int]:
    """Returns the least multiples from an extent on that are worth their waste, in ascending order."""
    padded = sorted({-(-extent // size) * size for size in of})
    return [each for each in padded if each <= min(most, (1 + _MAX_WASTE) * padded[0])][:_MAX_WAYS]


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
    is_constant = any(right.source.same_as(constant) for constant in constants(main))
    walked = [index.same_as(iterators[column].var) for index in used]
    return Contraction(
        tuple(str(loop.loop_var.name) for loop in loops),
        tuple(int(loop.extent) for loop in loops),
        rows,
        column,
        _is_plain(right)
        and not any(iterators[column].var.same_as(v) for r in along[False] for p in r.region for v in variables(p.min)),
        _buffer_name(right),
        tuple(sorted(range(len(walked)), key=walked.__getitem__)),
        is_constant,
        _buffer_name(written),
        item_bytes(str(written.source.dtype)),
    )


def _buffer_name(region: Any) -> str:
    return str(region.source.name)


def _is_plain(region: Any) -> bool:
    return all(isinstance(part.min, import_tvm().tirx.Var) for part in region.region)


def _pad(sch: Any, block: Any, found: Contraction, extents: dict[int, int]) -> None:
    """Pads the loops at the given positions to the given extents."""
    before = _block_names(sch)
    for position, region in enumerate(sch.get(block).reads):
        if not _is_plain(region):
            sch.reindex(block, ("read", position))
    sch.pad_einsum(block, [extents.get(position, 1) for position in range(len(found.extents))])
    copies = [name for name in _block_names(sch) if name not in before]
    right, result = f"{found.right}_pad", f"{found.result}_pad"
    for name in copies:
        if name not in (right, result):
            sch.compute_inline(sch.get_sblock(name, "main"))
    if right in copies:
        copy = sch.get_sblock(right, "main")
        if found.is_constant:
            sch.annotate(copy, LAID_OUT_AHEAD, 1)
        elif found.order != tuple(sorted(found.order)):  # a copy is made anyway, so it is one to read in vectors
            sch.transform_layout(copy, ("write", 0), lambda *at: [at[dimension] for dimension in found.order])
    with suppress(TVM_ERRORS):  # unless it is the kernel's result
        sch.compute_inline(sch.get_sblock(result, "main"))
    told = (Padding(found.names[position], found.extents[position], extent) for position, extent in extents.items())
    sch.annotate(block, PADDED, ", ".join(map(str, told)))


def _block_names(sch: Any) -> list[str]:
    """Returns the names of all blocks in the root, in order."""
    return [str(sch.get(each).name_hint) for each in sch.get_child_blocks(sch.get_sblock("root", "main"))]

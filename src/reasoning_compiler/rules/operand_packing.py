"""Operands that are no constants, copied in each call into the order in which the register tiles read them.

A constant is laid out ahead of time. Any other operand is read where it lies: a tile of a few vectors' columns then
walks down its rows, a page or more apart where it is wide, and rows that are a power of two apart share a few sets of
each cache. A copy is read as one stream (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication",
2008, pack both operands in each call; here the one that is read in vectors):

    for j_0, k: for j_1: B_packed[j_0, k, j_1] = B[k, j_0 * 32 + j_1]     # in parallel
    for i, j_0, k: for j_1: C[i, j_0 * 32 + j_1] += A[i, k] * B_packed[j_0, k, j_1]

The order is known when all tiles are, so a postprocessor makes it (`operand_layouts`). The copy is a block like others,
which the analysis counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from reasoning_compiler.core.factors import divisors
from reasoning_compiler.core.programs import Alternative
from reasoning_compiler.ir.extract import buffer_bytes
from reasoning_compiler.ir.marks import NO_RULES, PACKED
from reasoning_compiler.rules.contraction import Contraction, plain_contraction
from reasoning_compiler.rules.operand_layout import settle_copy
from reasoning_compiler.rules.rule import Offer, Phase, Rule, attempted

_MIN_BYTES = 1 << 17  # of the operand; a smaller one is in the second-level cache, whatever its order
_MIN_ROWS = 32  # that share it
_MIN_LANES = 4
_VECTORS = (4, 2, 1)  # of a row that are copied together
_ROWS_OF_A_JOB = 64


class OperandPacking(Rule):
    """Offers the block with the operand copied that is read in vectors; behind padding, whose copies it leaves be."""

    name, phase, retiles = "packing", Phase.PACK, True

    def offer(self, sch: Any, block: Any) -> Iterator[Offer]:
        """Yields the block with its packed operand; see `Rule.offer`."""
        unit = self.kernel.unit
        found = plain_contraction(sch, block) if unit is not None else None
        if found is None or unit is None or found.is_constant:
            return
        if str(sch.get(block).name_hint) in self.kernel.claimed(self):
            return
        lanes = math.gcd(found.extents[found.column], max(1, unit.vector_bytes // found.item_bytes))
        if lanes < _MIN_LANES or not _is_worth_it(sch, found):
            return
        packed = attempted(sch, _pack, block, found, lanes)
        if packed is not None:
            yield Offer(packed, f"{found.right} packed in each call", (("operand", found.right),))

    def words(self, alternative: Alternative, tiles: Mapping[str, int]) -> str:
        """Returns a sentence on the copy; see `Rule.words`."""
        operand = alternative["operand"]
        return f"Each call copies {operand} into the order in which it is read; many rows share the cost."


def _is_worth_it(sch: Any, found: Contraction) -> bool:
    """Tells whether an operand is a large argument, read as a whole, that many rows share."""
    operand = next((p for p in sch.mod["main"].params if str(p.name) == found.right), None)
    if operand is None or math.prod(found.extents[i] for i in found.rows) < _MIN_ROWS:
        return False
    if int(operand.shape[found.order[-1]]) != found.extents[found.column]:
        return False
    return buffer_bytes(operand) >= _MIN_BYTES


def _pack(sch: Any, block: Any, found: Contraction, lanes: int) -> None:
    """Copies the operand in front of the block, in parallel, a few rows of some vectors in each job."""
    copy = sch.cache_read(block, found.read, "global")
    sch.annotate(copy, NO_RULES, "None")
    sch.annotate(copy, PACKED, 1)
    loops = sch.get_loops(copy)
    *others, column = found.order
    extents = [int(sch.get(loop).extent) for loop in loops]
    vectors = next(count for count in _VECTORS if extents[column] % (count * lanes) == 0)
    rows = divisors(extents[others[-1]], _ROWS_OF_A_JOB)[-1]
    outer, vector, lane = sch.split(loops[column], [None, vectors, lanes])
    chunk, row = sch.split(loops[others[-1]], [None, rows])
    around = [*(loops[dimension] for dimension in others[:-1]), outer, chunk]
    sch.reorder(*around, row, vector, lane)
    sch.unroll(vector)
    settle_copy(sch, around, lane)


RULE = OperandPacking

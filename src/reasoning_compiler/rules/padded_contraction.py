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
copy of the operand that is read along them. A constant is laid out ahead of time (`operand_layouts`); any other is
copied in each call, into the order in which vectors read it, and the copy is a block like others, which the analysis
counts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from reasoning_compiler.core.programs import Alternative
from reasoning_compiler.ir.marks import LAID_OUT_AHEAD, PADDED
from reasoning_compiler.ir.nest import Padding
from reasoning_compiler.machine.targets import VectorUnit
from reasoning_compiler.machine.toolchain import TVM_ERRORS
from reasoning_compiler.rules.contraction import Contraction, is_plain, plain_contraction
from reasoning_compiler.rules.rule import Offer, Phase, Rule, attempted

_ROWS = (4, 6, 8, 12, 13, 14)  # of a register tile
_VECTORS = (1, 2, 4)  # of a register tile; LLVM keeps no vectors of three in registers
_MAX_COLUMNS = 64  # of a tile, as in MetaSchedule's rules for CPUs
_MAX_WASTE = 1 / 8
_FEWER_VECTORS = 3 / 4  # that padded columns make, of those that divide them
_MAX_WAYS = 2  # to pad one loop


class PaddedContraction(Rule):
    """Offers the block with its rows or columns or both padded; nothing for loops that a good tile divides."""

    name, phase, retiles = "padding", Phase.PAD, True

    def offer(self, sch: Any, block: Any) -> Iterator[Offer]:
        """Yields the block padded in several ways; see `Rule.offer`."""
        unit = self.kernel.unit
        found = plain_contraction(sch, block) if unit is not None else None
        if found is None or unit is None:
            return
        for extents in _paddings(found, unit):
            paddings = {at: Padding(found.names[at], found.extents[at], extent) for at, extent in extents.items()}
            padded = attempted(sch, _pad, block, found, paddings)
            if padded is None:  # an index that is no plain variable, in the result or along the columns
                return
            parameters = tuple((each.loop, (each.extent, each.padded)) for each in paddings.values())
            yield Offer(padded, ", ".join(map(str, paddings.values())), parameters)

    def words(self, alternative: Alternative, tiles: Mapping[str, int]) -> str:
        """Returns a sentence for each padded loop; see `Rule.words`."""
        paddings = (Padding(loop, *extents) for loop, extents in alternative.parameters)  # type: ignore[misc]
        return " ".join(
            f"No good tile divides the {padding.extent} iterations of {padding.loop}: padded to {padding.padded}, "
            f"{padding.padded // tiles[padding.loop]} tiles of {tiles[padding.loop]}, "
            f"{padding.extra_work:.1%} more work."
            for padding in paddings
        )


def _paddings(found: Contraction, unit: VectorUnit) -> Iterator[dict[int, int]]:
    """Yields padded extents by position, those of few loops first."""
    most_rows = (unit.num_registers - 2) // 2  # two vectors a row, and two for the operands
    rows = _padded_rows(found, [count for count in _ROWS if count <= most_rows], most_rows)
    columns = _padded_columns(found, max(1, unit.vector_bytes // found.item_bytes))
    yield from rows
    yield from columns
    yield from (row | column for row, column in itertools.product(rows, columns))


def _padded_rows(found: Contraction, counts: list[int], most: int) -> list[dict[int, int]]:
    if not counts:
        return []
    long = [i for i in found.rows if found.extents[i] >= counts[0]]
    if not long or any(found.extents[i] % d == 0 for i in long for d in range(counts[0], most + 1)):
        return []
    padded = _multiples(found.extents[long[-1]], counts, (1 + _MAX_WASTE) * found.extents[long[-1]])
    return [{long[-1]: each} for each in padded]


def _padded_columns(found: Contraction, lanes: int) -> list[dict[int, int]]:
    extent = found.extents[found.column]
    if extent <= lanes or extent % lanes == 0 or not found.may_pad_columns:
        return []
    widths = [vectors * lanes for vectors in _VECTORS if vectors * lanes <= _MAX_COLUMNS]
    most = _FEWER_VECTORS * lanes * extent / math.gcd(extent, lanes)
    return [{found.column: each} for each in _multiples(extent, widths, most)]


def _multiples(extent: int, of: list[int], most: float) -> list[int]:
    """Returns the least multiples from an extent on that are worth their waste, in ascending order."""
    padded = sorted({-(-extent // size) * size for size in of})
    return [each for each in padded if each <= min(most, (1 + _MAX_WASTE) * padded[0])][:_MAX_WAYS]


def _pad(sch: Any, block: Any, found: Contraction, paddings: dict[int, Padding]) -> None:
    """Pads the loops at the given positions."""
    before = _block_names(sch)
    for position, region in enumerate(sch.get(block).reads):
        if not is_plain(region):
            sch.reindex(block, ("read", position))
    multiples = {position: padding.padded for position, padding in paddings.items()}
    sch.pad_einsum(block, [multiples.get(position, 1) for position in range(len(found.extents))])
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
    sch.annotate(block, PADDED, json.dumps(list(paddings.values())))


def _block_names(sch: Any) -> list[str]:
    """Returns the names of all blocks in the root, in order."""
    return [str(sch.get(each).name_hint) for each in sch.get_child_blocks(sch.get_sblock("root", "main"))]


RULE = PaddedContraction

"""Contractions by the machine's dot-product instructions, see `ir/dots.py`.

Tiled like `packed_contraction`, with the sums of a register tile in registers over the whole reduction; the tile counts
vectors of columns, and the reduction groups of terms:

    for i_0, j_0, i_1, j_1:                                # j counts vectors of, say, 16 columns
        for k_0, k_1: for i_2: for j_2:                    # k counts groups of 4 (2 in bfloat16)
            for lane: for term: C_local[i, 16 * j + lane] += A[i, 4 * k + term] * B[4 * k + term, 16 * j + lane]

The last two loops are marked, and the builder puts the instruction in their place (`codegen/dot_products.py`). Where it
multiplies tiles, two more stand before them, over 16 rows and 16 groups, and the tile counts tiles. As they stand last,
MetaSchedule's `RewriteLayout` packs a constant B into [..., 16, 4], which is what the instruction reads.
What is not constant a block of its own copies there in each call; the analysis counts it.
Which instruction, and so how many columns and terms, is the target's: the same rule serves AMX, AVX-512, AVX2 and Arm.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from reasoning_compiler.cost.tiling import WHOLE_REDUCTION
from reasoning_compiler.ir.dots import DOT, Dot, dots_for
from reasoning_compiler.ir.statements import elementwise_reader, statements
from reasoning_compiler.ir.walk import REDUCTION, factors, index_of, variables
from reasoning_compiler.rules.contraction import Contraction, plain_contraction
from reasoning_compiler.rules.operand_layout import Layout, copy_operand
from reasoning_compiler.rules.prefetch import prefetch_streams
from reasoning_compiler.rules.rule import Kernel, Offer, Phase, Rule, attempted

_MAX_ROWS = 32  # of a register tile, in each loop
_MAX_VECTORS = 8
_MAX_TILES = 2  # of rows and of columns: those of the sums, of A and of B then take all eight registers
_FIRST_LLVM = 22  # its instructions take bytes and bfloat16 as such; those before it want 32-bit integers


class _Place(NamedTuple):
    """Where an instruction fits.

    Args:
        dot: the instruction.
        found: the contraction. What is not constant is packed in each call.
        term: the position of the loop over terms.
        row: the position of the loop over rows; None where the instruction takes one row.
        order: of B's dimensions, those of columns and terms last.
    """

    dot: Dot
    found: Contraction
    term: int
    row: int | None
    order: tuple[int, ...]


class DotProducts(Rule):
    """Offers the block by instructions that the target has. Rules that tile leave alone what it has tiled."""

    name, phase, retiles = "instruction", Phase.INSTRUCTION, True

    def offer(self, sch: Any, block: Any) -> Iterator[Offer]:
        """Yields the block tiled for each kind of instruction; see `Rule.offer`."""
        features = _usable(self.kernel)
        for place in _places(sch, block, features) if features else []:
            tiled = attempted(sch, _tile, block, place, self.kernel.stream_bytes)
            if tiled is not None:
                copied = "" if place.found.is_constant else ", operand packed in each call"
                yield Offer(tiled, place.dot.label + copied, (("instruction", place.dot.name),))


def _usable(kernel: Kernel) -> frozenset[str]:
    """Returns the CPU's features by LLVM's names; none where TVM's LLVM cannot be given the instructions.

    A process has to ask its system for tiles, and ours ask Linux.
    """
    from tvm.target.codegen import llvm_version_major

    if kernel.unit is None or llvm_version_major() < _FIRST_LLVM:
        return frozenset()
    return frozenset(name for name in kernel.features if kernel.runs_linux or not name.startswith("amx"))


def _places(sch: Any, name: Any, features: frozenset[str]) -> list[_Place]:
    """Returns where instructions fit into a block: the best whose sums are vectors, and the best by tiles behind it.

    Whoever runs the program in the end may not be given tiles.
    """
    found: dict[bool, _Place] = {}
    for place in _fitting(sch, name, features):
        found.setdefault(place.dot.by_tiles, place)
    return [found[by_tiles] for by_tiles in sorted(found)]


def _fitting(sch: Any, name: Any, features: frozenset[str]) -> Iterator[_Place]:
    """Yields where each instruction fits into a block, the best first."""
    block = sch.get(name)
    operands = factors(block)
    found = plain_contraction(sch, name) if operands is not None else None
    if operands is None or found is None:
        return
    left, right = operands if str(operands[1].source.name) == found.right else operands[::-1]
    own = [iter_var.var for iter_var in block.iter_vars]
    term, steps = index_of(left.indices[-1], own), [index_of(index, own) for index in right.indices]
    if (
        term is None
        or int(block.iter_vars[term].iter_type) != REDUCTION
        or not steps.count(term) == steps.count(found.column) == 1
    ):
        return
    if any(variable.same_as(own[found.column]) for index in left.indices for variable in variables(index)):
        return  # the instruction takes one group of A's terms for all columns
    order = (*(at for at in found.order[:-1] if steps[at] != term), found.order[-1], steps.index(term))
    for dot in dots_for((str(x.dtype) for x in (left.source, right.source, block.writes[0].source)), features):
        terms, columns = found.extents[term], found.extents[found.column]
        fits = terms % dot.depth == 0 and terms > dot.depth and columns % dot.lanes == 0
        row = _row(own, left, found, dot) if dot.by_tiles else None
        if dot.by_tiles and (row is None or not found.is_constant):
            continue
        if fits and _may_be_laid_out(sch, left.source, dot, is_constant=found.is_constant):
            yield _Place(dot, found, term, row, order)


def _row(own: list[Any], left: Any, found: Contraction, dot: Dot) -> int | None:
    """Returns the position of the innermost loop over whole tiles of rows that lie evenly apart."""
    for index in reversed(left.indices[:-1]):
        walked = {index_of(variable, own) for variable in variables(index)} if _is_linear(index) else set()
        for position in walked.intersection(found.rows):
            if found.extents[position] % dot.rows == 0:
                return position
    return None


def _is_linear(index: Any) -> bool:
    kind = type(index).__name__
    if kind in ("Add", "Sub", "Mul"):
        return _is_linear(index.a) and _is_linear(index.b)
    return kind in ("Var", "IntImm")


def _may_be_laid_out(sch: Any, left: Any, dot: Dot, *, is_constant: bool) -> bool:
    """Tells whether A lies as the instruction reads it, and B can be laid out for it, ahead of time or in each call.

    Of bfloat16, TVM keeps its own buffers as float32; what is shifted has to be there before the loops begin.
    """
    plain = dot.left != "bfloat16" and not dot.shifted and not dot.by_tiles
    given = index_of(left, sch.mod["main"].params) is not None
    return (plain or given) and (is_constant or dot.left != "bfloat16")


def _tile(sch: Any, block: Any, place: _Place, stream_bytes: int) -> None:
    dot, column = place.dot, place.found.column
    if not place.found.is_constant:
        copy_operand(sch, block, place.found.read, Layout(place.order, dot.lanes, dot.terms))
    reduces = [int(iter_var.iter_type) == REDUCTION for iter_var in sch.get(block).iter_vars]
    loops = list(sch.get_loops(block))
    loops[column], lanes = sch.split(loops[column], [None, dot.lanes])
    if place.row is None:
        loops[place.term], terms = sch.split(loops[place.term], [None, dot.terms])
        inner = [lanes, terms]
    else:
        loops[place.term], groups, terms = sch.split(loops[place.term], [None, dot.groups, dot.terms])
        loops[place.row], rows = sch.split(loops[place.row], [None, dot.rows])
        inner = [rows, groups, lanes, terms]
    spatial: list[list[Any]] = [[], [], []]
    reducing: list[list[Any]] = [[], []]
    for index, loop in enumerate(loops):
        levels = reducing if reduces[index] else spatial
        limit = _limit(place, index, reduces=reduces[index])
        sampled = sch.sample_perfect_tile(loop, n=len(levels), max_innermost_factor=limit)
        for level, part in zip(levels, sch.split(loop, sampled), strict=True):
            level.append(part)
    sch.reorder(*spatial[0], *spatial[1], *reducing[0], *reducing[1], *spatial[2], *inner)
    consumer = _only_consumer(sch, block)
    if consumer is None:
        consumer = sch.cache_write(block, 0, "local")
    else:
        sch.set_scope(block, 0, "local")
    sch.reverse_compute_at(consumer, spatial[1][-1], preserve_unit_loops=True)
    sch.annotate(block, "meta_schedule.tiling_structure", WHOLE_REDUCTION)
    sch.annotate(block, DOT, dot.name)
    if not dot.by_tiles:
        prefetch_streams(sch, block, stream_bytes=stream_bytes)


def _limit(place: _Place, index: int, *, reduces: bool) -> int:
    """Returns the largest innermost factor of the loop at a position."""
    if place.row is None or reduces:
        return _MAX_VECTORS if index == place.found.column else _MAX_ROWS
    return _MAX_TILES if index in (place.row, place.found.column) else 1


def _only_consumer(sch: Any, block: Any) -> Any:
    """Returns the one block that takes the result element by element; None where it is not one, or does more.

    What else that reads must be there from the beginning.
    """
    consumers, result = list(sch.get_consumers(block)), sch.get(block).writes[0].source
    arguments = list(sch.mod["main"].params)
    user = elementwise_reader(list(statements(sch.mod["main"].body)), result)
    if len(consumers) != 1 or user is None or index_of(result, arguments) is not None:
        return None
    others = [load.source for load in user.loads if not load.source.same_as(result)]
    return consumers[0] if all(index_of(other, arguments) is not None for other in others) else None


RULE = DotProducts

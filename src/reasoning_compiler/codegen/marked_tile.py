"""What a schedule has marked for an instruction: a register tile, as data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tvm

from reasoning_compiler.ir.dots import Dot
from reasoning_compiler.ir.walk import bindings, bound_variables, factors, substituted, variables, with_body

if TYPE_CHECKING:
    from typing_extensions import Self

Place = tuple[Any, list[Any]]
"""A buffer and indices."""

_IMPORT = "pragma_import_llvm"


@dataclass(frozen=True)
class Tile:
    """A register tile that is summed up over the whole reduction.

    Args:
        dot: the instruction.
        around: the loops around all that, outermost first.
        reducing: the loops around the tile that reduce, outermost first.
        loops: the tile's, without those in whose place the instruction is put.
        inner: the variables of those over rows and groups; none where the sums are a vector.
        sums: the buffer that is written, and its indices at the first lane.
        left: A and its indices at the first term.
        right: B and its indices at the first lane and term.
    """

    dot: Dot
    around: tuple[Any, ...]
    reducing: tuple[Any, ...]
    loops: tuple[Any, ...]
    inner: tuple[Any, ...]
    sums: Place
    left: Place
    right: Place

    @classmethod
    def of(cls, dot: Dot, realize: Any, loops: Sequence[Any]) -> Self | None:
        """Returns the tile of a marked block; None where the instruction does not fit."""
        block = realize.block
        kept = len(loops) - len(dot.extents)
        outer, inner = loops[:kept], [loop.loop_var for loop in loops[kept:]]
        moved = bound_variables(realize, spatial=False)
        reducing = [index for index, loop in enumerate(outer) if loop.loop_var in moved]
        extents = tuple(int(loop.extent) for loop in loops[kept:])
        loads = factors(block)
        if loads is None or not reducing or block.init is not None or extents != dot.extents:
            return None
        bound = bindings(realize)
        operands = [(load.source, [substituted(index, bound) for index in load.indices]) for load in loads]
        written = (block.writes[0].source, [substituted(index, bound) for index in block.body.indices])
        wanted = _steps(dot)
        within = dict(zip(inner, extents, strict=True))
        if not _moves(operands[0], within, wanted[0]):
            operands = operands[::-1]
        if not all(_moves(place, within, steps) for place, steps in zip((*operands, written), wanted, strict=True)):
            return None
        first = dict.fromkeys(inner[-2:], 0)
        (sums, left, right) = (
            (buffer, [substituted(index, first) for index in indices]) for buffer, indices in (written, *operands)
        )
        start, end = reducing[0], reducing[-1] + 1
        parts = tuple(outer[:start]), tuple(outer[start:end]), tuple(outer[end:]), tuple(inner[:-2])
        return cls(dot, *parts, sums, left, right)

    def in_reducing_loops(self, inner: Any, code: str) -> Any:
        """Returns a statement inside the reducing loops.

        Args:
            inner: the statement.
            code: what it calls, in LLVM's language; empty where it calls nothing.
        """
        for loop in reversed(self.reducing):
            imports = {_IMPORT: code} if code and loop is self.reducing[0] else {}
            if type(loop.body).__name__ == "SeqStmt":  # prefetches stand before what has been replaced
                inner = tvm.tirx.SeqStmt([*loop.body.seq[:-1], inner])
            inner = with_body(loop, inner, {**loop.annotations, **imports})
        return inner


def points(loops: Sequence[Any]) -> list[dict[Any, int]]:
    """Returns the values of the loops' variables in each iteration, in order."""
    variables_of_loops = [loop.loop_var for loop in loops]
    extents = (range(int(loop.extent)) for loop in loops)
    return [dict(zip(variables_of_loops, values, strict=True)) for values in itertools.product(*extents)]


def _steps(dot: Dot) -> tuple[tuple[int | None, ...], ...]:
    """Returns how many elements A, B and the sums move on with each of the instruction's loops; None for any number."""
    vectors: tuple[tuple[int | None, ...], ...] = ((0, 1), (dot.terms, 1), (1, 0))
    tiles = ((None, dot.terms), (0, dot.lanes * dot.terms), (None, 0))
    return tuple((*tile, *vector) for tile, vector in zip(tiles, vectors, strict=True)) if dot.by_tiles else vectors


def _moves(place: Place, inner: Mapping[Any, int], steps: Sequence[int | None]) -> bool:
    """Tells whether a place moves on by so many elements with each of some loops, given with their extents."""
    start = _offset(*place, {})
    for (variable, extent), step in zip(inner.items(), steps, strict=True):
        one = _offset(*place, {variable: 1}) - start
        whole = _offset(*place, {variable: extent - 1}) - start
        if whole != one * (extent - 1) or step not in (None, one):
            return False
    return True


def _offset(buffer: Any, indices: Sequence[Any], at: Mapping[Any, int]) -> int:
    """Returns how many elements from its start a buffer is touched where variables have these values, or else zero."""
    offset = 0
    for index, extent in zip(indices, buffer.shape, strict=True):
        point = substituted(index, {v: at.get(v, 0) for v in variables(index)})
        offset = offset * int(extent) + int(tvm.sym.Analyzer().simplify(point))
    return offset


def variables_in(indices: Sequence[Any]) -> set[Any]:
    """Returns the variables of all indices."""
    return {variable for index in indices for variable in variables(index)}

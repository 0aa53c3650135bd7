"""Which loops' iterations may run in any order, by what they read and write, whatever their axes are marked as.

Two iterations of a loop are independent if no element that one of them writes is touched by the other one. That is
shown here as the textbooks' separability test (Allen and Kennedy, "Optimizing Compilers for Modern Architectures",
chapter 3): in some dimension, or in the buffer as it lies in memory, all accesses move by the same step with the loop,
and what else they depend on reaches less far than that step. What cannot be shown is taken to depend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm.s_tir

from reasoning_compiler.ir.walk import bindings, index_of, parts_in, substituted, variables


@dataclass(frozen=True)
class _Access:
    """A place where a buffer is read or written, in terms of loops alone.

    Args:
        buffer: the buffer.
        indices: one expression for each dimension.
        inner: the loops around it, inside the statement that is looked at, outermost first.
        writes: whether it is written.
    """

    buffer: Any
    indices: tuple[Any, ...]
    inner: tuple[Any, ...]
    writes: bool


def are_independent(loop: Any, outer: Sequence[Any], values: Mapping[Any, Any], body: Any) -> bool:
    """Returns whether all iterations of a loop may run in any order, and at the same time.

    Args:
        loop: the `For`.
        outer: the loops that are the same for all of its iterations; all others around the body may differ.
        values: what variables of blocks around the body are bound to.
        body: what the loop repeats; other loops may stand between.
    """
    if parts_in(body, tvm.tirx.Let) or any(block.match_buffers for block in parts_in(body, tvm.s_tir.SBlock)):
        return False
    walk = _Walk()
    walk.visit(body, (), values)
    if not walk.is_known:
        return False
    fixed = {each.loop_var for each in outer}
    for write in walk.accesses:
        if not write.writes or index_of(write.buffer, walk.own) is not None:
            continue
        for other in walk.accesses:
            if other.buffer.same_as(write.buffer) and not _are_apart(loop, fixed, outer, write, other):
                return False
    return True


class _Walk:
    """A walk through a statement that notes every access to a buffer.

    Attributes:
        accesses: in program order.
        own: the buffers that each execution of the statement has for itself.
        is_known: whether all statements are of kinds whose accesses are known.
    """

    def __init__(self) -> None:
        self.is_known = True
        self.accesses: list[_Access] = []
        self.own: list[Any] = []

    def visit(self, stmt: Any, inner: tuple[Any, ...], values: Mapping[Any, Any]) -> None:
        if isinstance(stmt, tvm.tirx.For):
            self._note_reads([stmt.min, stmt.extent], inner, values)
            start, extent = substituted(stmt.min, values), substituted(stmt.extent, values)
            self.visit(stmt.body, (*inner, (stmt.loop_var, start, extent)), values)
        elif isinstance(stmt, tvm.tirx.SeqStmt):
            for part in stmt.seq[:]:
                self.visit(part, inner, values)
        elif isinstance(stmt, tvm.s_tir.SBlockRealize):
            self._note_reads([*stmt.iter_values, stmt.predicate], inner, values)
            self.own += list(stmt.block.alloc_buffers)
            bound = {variable: substituted(value, values) for variable, value in bindings(stmt).items()}
            for part in (stmt.block.init, stmt.block.body):
                if part is not None:
                    self.visit(part, inner, {**values, **bound})
        elif isinstance(stmt, tvm.tirx.BufferStore):
            self._note_reads([stmt.value, *stmt.indices], inner, values)
            indices = tuple(substituted(index, values) for index in stmt.indices)
            self.accesses.append(_Access(stmt.buffer, indices, inner, writes=True))
        elif isinstance(stmt, tvm.tirx.IfThenElse):
            self._note_reads([stmt.condition], inner, values)
            for branch in (stmt.then_case, stmt.else_case):
                if branch is not None:
                    self.visit(branch, inner, values)
        elif isinstance(stmt, tvm.tirx.AttrStmt):
            self.visit(stmt.body, inner, values)
        else:
            self.is_known = False

    def _note_reads(self, nodes: Sequence[Any], inner: tuple[Any, ...], values: Mapping[Any, Any]) -> None:
        for node in nodes:
            for load in parts_in(node, tvm.ir.TensorLoad):
                indices = tuple(substituted(index, values) for index in load.indices)
                self.accesses.append(_Access(load.source, indices, inner, writes=False))


def _are_apart(loop: Any, fixed: set[Any], outer: Sequence[Any], one: _Access, other: _Access) -> bool:
    """Returns whether two accesses of different iterations of the loop never meet, as far as can be shown."""
    analyzer = tvm.sym.Analyzer()
    ranges = {var: (start, extent) for var, start, extent in (*one.inner, *other.inner)}
    for each in (*outer, loop):
        ranges[each.loop_var] = (each.min, each.extent)
    for var, (start, extent) in ranges.items():
        analyzer.bind(var, tvm.ir.Range.from_min_extent(start, extent))
    shape = one.buffer.shape
    for left, right in zip(_coordinates(shape, one.indices), _coordinates(shape, other.indices), strict=True):
        first, second = (_moves(analyzer, loop, fixed, ranges, index) for index in (left, right))
        if first is None or second is None or first[0] != second[0]:
            continue
        step = abs(first[0])
        reach = (second[2] - first[1], first[2] - second[1])
        if step and all(analyzer.can_prove(analyzer.simplify(each) < step) for each in reach):
            return True
    return False


def _coordinates(shape: Sequence[Any], indices: Sequence[Any]) -> list[Any]:
    """Returns the indices of an access, and last its place in memory."""
    place: Any = 0
    for extent, index in zip(shape, indices, strict=True):
        place = place * extent + index
    return [*indices, place]


def _moves(
    analyzer: Any, loop: Any, fixed: set[Any], ranges: Mapping[Any, tuple[Any, Any]], index: Any
) -> tuple[int, Any, Any] | None:
    """Returns by how much the loop moves an index, and the least and the greatest of the rest; None if unknown."""
    if isinstance(index, int):
        return None
    index = analyzer.simplify(index)
    if parts_in(index, tvm.ir.TensorLoad):
        return None
    linear = tvm.sym.detect_linear_equation(index, [loop.loop_var])
    if len(linear) != 2 or not isinstance(linear[0], tvm.tirx.IntImm):
        return None
    low = high = linear[1]
    for var, (start, extent) in reversed(ranges.items()):
        if var in fixed or var.same_as(loop.loop_var):
            continue
        domain = {var: tvm.sym.IntervalSet(start, start + extent - 1)}
        low, high = analyzer.int_set(low, domain).min_value, analyzer.int_set(high, domain).max_value
    free = {variable for bound in (low, high) for variable in variables(bound)}
    return (int(linear[0]), low, high) if free <= fixed else None

"""Seeing, without running it, that iterations of a parallel loop write the same elements.

Such a program computes something else now and then, perhaps once in a hundred runs, so no number of runs shows for sure
that it does not. What is found here is certain: the loop's variable occurs nowhere in where the program writes, and
neither in a condition around it, so that all iterations write to one place. Loops that overlap only partly are not
found; those have to show when they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
import tvm.s_tir

from reasoning_compiler.ir.walk import is_unit, parts_in

_PARALLEL = int(tvm.tirx.ForKind.PARALLEL)


@dataclass(frozen=True)
class _Access:
    """A place where a buffer is read or written.

    Args:
        buffer: the buffer.
        loops: the parallel loops around it.
        depends_on: the loop variables on which it depends where, and whether, it is written; None for all, where that
            is not known; None for reads.
        writes: whether it is written.
    """

    buffer: Any
    loops: tuple[Any, ...]
    depends_on: frozenset[Any] | None
    writes: bool


def racing_loop(func: Any) -> str | None:
    """Returns which parallel loop's iterations all write the same elements of which buffer, in words; None for none.

    A buffer that is used inside the loop alone is no matter of several iterations: TVM allocates it there.

    Args:
        func: a scheduled PrimFunc with blocks.
    """
    walk = _Walk()
    walk.visit(func.body, (), frozenset())
    for access in walk.accesses:
        if not access.writes or access.depends_on is None:
            continue
        for loop in access.loops:
            if loop.loop_var in access.depends_on or is_unit(loop):
                continue
            if any(access.buffer.same_as(param) for param in func.params) or not walk.is_private(access.buffer, loop):
                return (
                    f"all iterations of the parallel loop {loop.loop_var.name} write the same of {access.buffer.name}"
                )
    return None


class _Walk:
    """A walk through a function that notes every access to a buffer."""

    def __init__(self) -> None:
        self.accesses: list[_Access] = []
        self._depends_on: dict[Any, frozenset[Any] | None] = {}
        self._aliases: list[Any] = []

    def is_private(self, buffer: Any, loop: Any) -> bool:
        """Returns whether all accesses to a buffer are inside a loop."""
        every = (access for access in self.accesses if access.buffer.same_as(buffer))
        return all(any(loop.same_as(other) for other in access.loops) for access in every)

    def visit(self, stmt: Any, loops: tuple[Any, ...], conditions: frozenset[Any] | None) -> None:
        """Notes the accesses in a statement.

        Args:
            stmt: the statement.
            loops: the parallel loops around it.
            conditions: the loop variables that the conditions around it depend on; None for all.
        """
        tirx, s_tir = tvm.tirx, tvm.s_tir
        if isinstance(stmt, tirx.SeqStmt):
            for each in stmt:
                self.visit(each, loops, conditions)
        elif isinstance(stmt, tirx.For):
            self._depends_on[stmt.loop_var] = frozenset([stmt.loop_var])
            self._note_reads([stmt.min, stmt.extent], loops)
            self.visit(stmt.body, (*loops, stmt) if int(stmt.kind) == _PARALLEL else loops, conditions)
        elif isinstance(stmt, s_tir.SBlockRealize):
            self._visit_block(stmt, loops, conditions)
        elif isinstance(stmt, tirx.IfThenElse):
            self._note_reads([stmt.condition], loops)
            inside = _union(conditions, self._of([stmt.condition]))
            for branch in (stmt.then_case, stmt.else_case):
                if branch is not None:
                    self.visit(branch, loops, inside)
        elif isinstance(stmt, tirx.BufferStore):
            self._note_reads([stmt.value, *stmt.indices], loops)
            is_alias = any(stmt.buffer.same_as(alias) for alias in self._aliases)
            where = None if is_alias else _union(conditions, self._of(stmt.indices))
            self.accesses.append(_Access(stmt.buffer, loops, where, writes=True))
        else:
            self._note_reads([stmt], loops)
            stores = parts_in(stmt, tirx.BufferStore)
            self.accesses += [_Access(store.buffer, loops, None, writes=True) for store in stores]

    def _visit_block(self, realize: Any, loops: tuple[Any, ...], conditions: frozenset[Any] | None) -> None:
        block = realize.block
        self._note_reads([*realize.iter_values, realize.predicate], loops)
        for iter_var, value in zip(block.iter_vars, realize.iter_values, strict=True):
            self._depends_on[iter_var.var] = self._of([value])
        self._aliases += [region.buffer for region in block.match_buffers]
        self._aliases += [region.source.source for region in block.match_buffers]
        inside = _union(conditions, self._of([realize.predicate]))
        for part in (block.init, block.body):
            if part is not None:
                self.visit(part, loops, inside)

    def _note_reads(self, nodes: list[Any], loops: tuple[Any, ...]) -> None:
        used = (variable for node in nodes for variable in parts_in(node, tvm.tirx.Var))
        self.accesses += [_Access(each, loops, None, writes=False) for each in used if each not in self._depends_on]

    def _of(self, exprs: Any) -> frozenset[Any] | None:
        """Returns the loop variables that expressions depend on; None for all, where they depend on other things."""
        found: frozenset[Any] | None = frozenset()
        for expr in exprs:
            for variable in parts_in(expr, tvm.tirx.Var):
                found = _union(found, self._depends_on.get(variable))
        return found


def _union(some: frozenset[Any] | None, others: frozenset[Any] | None) -> frozenset[Any] | None:
    return None if some is None or others is None else some | others

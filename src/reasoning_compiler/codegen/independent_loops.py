"""Loops that no schedule primitive makes parallel or vectors, though their iterations are independent.

TVM's primitives take blocks that are complete or reductions, one writer for each buffer, and loops of known lengths.
Scans, windows of different lengths, sparse rows and loops over time are none of these. A schedule marks their nests
with `INDEPENDENT`; here the loops that `ir/dependence.py` shows to be independent change.

    for t: for i, j: A[i, j] = B[i, j] ...; for i, j: B[i, j] = A[i, j] ...                        # marked
    for t: for i (parallel), j, jj (vectorized): A[i, 16 * j + jj] = ...; for i (parallel) ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm.s_tir

from reasoning_compiler.ir.dependence import are_independent
from reasoning_compiler.ir.extract import item_bytes
from reasoning_compiler.ir.marks import INDEPENDENT
from reasoning_compiler.ir.walk import bindings, is_unit, parts_in, substituted, with_block, with_body

_SERIAL, _PARALLEL, _VECTORIZED = tvm.tirx.ForKind.SERIAL, tvm.tirx.ForKind.PARALLEL, tvm.tirx.ForKind.VECTORIZED
_VECTOR_BYTES = 64
_MIN_LANES = 4
_CHUNK = 64  # iterations of a parallel loop that moves outside of a loop which carries a dependence


def with_independent_loops(func: Any) -> Any:
    """Returns a scheduled PrimFunc whose marked nests run in parallel, and in vectors, where that is safe."""
    degree = int(func.body.block.annotations.get(INDEPENDENT, 0))
    if not degree:
        return func
    changer = _Changer(vectors=degree > 1)

    def changed(stmt: Any) -> Any:
        """Returns a statement of the root block, with its nests changed that are marked and have no parallel loop."""
        if isinstance(stmt, tvm.tirx.SeqStmt):
            return tvm.tirx.SeqStmt([changed(part) for part in stmt.seq[:]])
        node = stmt.block if isinstance(stmt, tvm.s_tir.SBlockRealize) else stmt
        is_marked = INDEPENDENT in getattr(node, "annotations", ())
        is_parallel = any(int(loop.kind) == int(_PARALLEL) for loop in parts_in(stmt, tvm.tirx.For))
        return changer.visit(stmt, (), {}) if is_marked and not is_parallel else stmt

    return func.with_body(with_block(func.body, changed(func.body.block.body)))


class _Changer:
    def __init__(self, *, vectors: bool) -> None:
        self._vectors = vectors

    def visit(self, stmt: Any, outer: tuple[Any, ...], values: Mapping[Any, Any]) -> Any:
        """Returns a statement with its outermost independent loops in parallel.

        Args:
            stmt: the statement.
            outer: the loops around it, which stay serial.
            values: what the variables of blocks around it are bound to.
        """
        if isinstance(stmt, tvm.tirx.SeqStmt):
            return tvm.tirx.SeqStmt([self.visit(part, outer, values) for part in stmt.seq[:]])
        if isinstance(stmt, tvm.s_tir.SBlockRealize):
            bound = {variable: substituted(value, values) for variable, value in bindings(stmt).items()}
            return with_block(stmt, self.visit(stmt.block.body, outer, {**values, **bound}))
        if isinstance(stmt, tvm.tirx.AttrStmt):
            return tvm.tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, self.visit(stmt.body, outer, values))
        if not isinstance(stmt, tvm.tirx.For):
            return stmt
        chain, body = _chain(stmt)
        free = [not is_unit(loop) and are_independent(loop, outer, values, body) for loop in chain]
        if not any(free):
            inside = self.visit(body, (*outer, *chain), values)
            return _nest(chain, inside)
        first = free.index(True)
        if all(is_unit(loop) for loop in chain[:first]):
            return self._parallel(chain, first, body, outer, values)
        return self._moved_out(chain, first, body)

    def _parallel(self, chain: Sequence[Any], first: int, body: Any, outer: Any, values: Any) -> Any:
        inner = list(chain[first + 1 :])
        if self._vectors and inner:
            inner, body = self._with_vectors(chain[: first + 1], inner, body, outer, values)
        return _nest([*chain[:first], _of_kind(chain[first], _PARALLEL), *inner], body)

    def _with_vectors(self, around: Any, inner: list[Any], body: Any, outer: Any, values: Any) -> tuple[list[Any], Any]:
        *between, last = inner
        lanes = _lanes(last, body)
        if not lanes or not are_independent(last, (*outer, *around, *between), values, body):
            return inner, body
        pieces, body = _split(last, lanes, body)
        return [*between, pieces[0], _of_kind(pieces[1], _VECTORIZED)], body

    def _moved_out(self, chain: Sequence[Any], index: int, body: Any) -> Any:
        """Returns the nest with chunks of an inner loop outermost and in parallel, their iterations where they were."""
        loop = chain[index]
        extent = int(loop.extent) if isinstance(loop.extent, tvm.tirx.IntImm) else 0
        chunk = next((size for size in range(min(_CHUNK, extent // _MIN_LANES), 0, -1) if extent % size == 0), 0)
        if chunk < _MIN_LANES or not all(isinstance(each.extent, tvm.tirx.IntImm) for each in chain):
            return _nest([*chain[:index], _of_kind(loop, _PARALLEL), *chain[index + 1 :]], body)
        (outside, inside), body = _split(loop, chunk, body)
        rest = [*chain[:index], inside, *chain[index + 1 :]]
        return _nest([_of_kind(outside, _PARALLEL), *rest], body)


def _chain(loop: Any) -> tuple[list[Any], Any]:
    """Returns perfectly nested loops, and the body of the innermost one."""
    chain = [loop]
    while isinstance(chain[-1].body, tvm.tirx.For):
        chain.append(chain[-1].body)
    return chain, chain[-1].body


def _nest(loops: Sequence[Any], body: Any) -> Any:
    for loop in reversed(loops):
        body = with_body(loop, body, {})
    return body


def _of_kind(loop: Any, kind: Any) -> Any:
    return tvm.tirx.For(loop.loop_var, loop.min, loop.extent, kind, loop.body)


def _split(loop: Any, inner: int, body: Any) -> tuple[tuple[Any, Any], Any]:
    """Returns two loops in place of one whose length the inner one divides, and the body in their variables."""
    dtype = str(loop.loop_var.ty.dtype)
    high, low = (tvm.tirx.Var(f"{loop.loop_var.name}_{i}", dtype) for i in (0, 1))
    sizes = (tvm.tirx.const(int(loop.extent) // inner, dtype), tvm.tirx.const(inner, dtype))
    zero = tvm.tirx.const(0, dtype)
    pieces = tuple(tvm.tirx.For(v, zero, n, _SERIAL, body) for v, n in zip((high, low), sizes, strict=True))
    value = loop.min + high * sizes[1] + low
    return pieces, substituted(body, {loop.loop_var: value})


def _lanes(loop: Any, body: Any) -> int:
    """Returns of how many iterations of an innermost loop one vector is made; 0 for none."""
    stores = parts_in(body, tvm.tirx.BufferStore)
    if len(stores) != 1 or parts_in(body, tvm.tirx.For) or not isinstance(loop.extent, tvm.tirx.IntImm):
        return 0
    most = _VECTOR_BYTES // item_bytes(str(stores[0].buffer.dtype))
    return next((n for n in (most, most // 2, most // 4) if n >= _MIN_LANES and int(loop.extent) % n == 0), 0)

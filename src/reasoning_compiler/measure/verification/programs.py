"""The programs that verification derives from a kernel: the same in float64, and the same in a good order of summation.

Both start from the kernel as it was written, never from a schedule, so a schedule's fault cannot be in them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi

from reasoning_compiler.ir.walk import parts_in, with_block

# What these calls compute depends on the bits of a float, or on a function of one dtype only.
_BOUND_TO_A_DTYPE = ("reinterpret", "extern", "llvm", "packed", "ptx", "intrin")
_FLOAT = re.compile(r"b?float\d+\w*?(?=x\d+$|$)")
_LEVELS = 3
_SHORTEST_SUM = 16


@dataclass(frozen=True)
class GoodOrder:
    """A kernel that sums up in a good order.

    Args:
        func: the PrimFunc; after the kernel's parameters it takes one for each of `partial_sums`.
        partial_sums: shape and dtype of further arguments, whose values do not matter.
    """

    func: Any
    partial_sums: tuple[tuple[tuple[int, ...], str], ...]


def in_float64(func: Any) -> Any | None:
    """Returns the kernel with every float in it, arguments included, as a float64; None where that is another kernel.

    Constants keep their values and calls their functions. Conversions between floats are lost: what they round is an
    error of the kernel's, not its meaning. Conversions to integers, and so rounding on purpose, stay. A kernel that
    looks at the bits of a float, or calls a function by a name that belongs to a dtype, cannot be rewritten.

    Args:
        func: a PrimFunc with blocks.
    """
    calls = parts_in(func.body, tvm.ir.Call)
    if any(part in str(getattr(call.op, "name", "packed")) for call in calls for part in _BOUND_TO_A_DTYPE):
        return None
    graph = json.loads(tvm.ir.save_json(func))
    for node in graph["nodes"]:
        if node["type"] == "ir.PrimType":
            node["data"]["dtype"] = _FLOAT.sub("float64", node["data"]["dtype"])
    return tvm.ir.load_json(json.dumps(graph))


def in_good_order(func: Any) -> GoodOrder:
    """Returns the kernel in its own dtypes, with each sum of floats added up in three levels of partial sums.

    The sum of n terms is one of n^(1/3) sums of as many sums of as many terms, so that its rounding errors grow with
    the third root of n instead of with n: close to pairwise summation (Higham, "The accuracy of floating point
    summation", 1993), whatever the order of the loops. A block that is no plain sum stays as it is.

    Args:
        func: a PrimFunc with blocks.
    """
    partial_sums: list[Any] = []

    def change(realize: Any) -> Any:
        block = realize.block
        before = len(partial_sums)
        body = _in_levels(realize, partial_sums)
        if body is None:
            return realize
        region = block.writes[0].region
        writes = [*block.writes, *(tvm.tirx.BufferRegion(level, region) for level in partial_sums[before:])]
        changed = tvm.s_tir.SBlock(
            block.iter_vars, block.reads, writes, block.name_hint, body, block.init, block.alloc_buffers
        )
        return tvm.s_tir.SBlockRealize(realize.iter_values, realize.predicate, changed)

    body = tvm_ffi.structural_map(func.body, (tvm.s_tir.SBlockRealize, change))
    shapes = tuple((tuple(map(int, each.shape)), str(each.dtype)) for each in partial_sums)
    return GoodOrder(tvm.tirx.PrimFunc([*func.params, *partial_sums], body, func.ret_type, func.attrs), shapes)


def made_fast(func: Any) -> Any:
    """Returns the kernel with rows in parallel and contiguous elements innermost, where it is plain that they may be.

    Sums keep the order of their terms. It matters only for how long verification takes.

    Args:
        func: a PrimFunc with blocks that nobody has scheduled.
    """
    root = func.body
    body = root.block.body
    parts = [_reordered(part) for part in (body.seq[:] if isinstance(body, tvm.tirx.SeqStmt) else [body])]
    return func.with_body(with_block(root, parts[0] if len(parts) == 1 else tvm.tirx.SeqStmt(parts)))


def _in_levels(realize: Any, partial_sums: list[Any]) -> Any | None:
    """Returns the body of a block that sums up in levels, its new buffers added to a list; None for other blocks."""
    tirx, block = tvm.tirx, realize.block
    store = _plain_store(realize)
    if store is None or not isinstance(store.value, tirx.Add) or "float" not in str(store.buffer.dtype):
        return None
    terms = [side for side in (store.value.a, store.value.b) if not _is_same_place(side, store)]
    reduced = [each for each in block.iter_vars if int(each.iter_type) == tirx.IterVar.CommReduce]
    num_terms = math.prod(int(each.dom.extent) for each in reduced)
    if len(terms) != 1 or num_terms < _SHORTEST_SUM:
        return None
    step: Any = tirx.const(0, "int64")
    for each in reduced:
        step = step * each.dom.extent.astype("int64") + each.var.astype("int64")
    width = math.ceil(num_terms ** (1 / _LEVELS))
    target, dtype = store.buffer, str(store.buffer.dtype)
    levels = [target]
    for level in range(1, _LEVELS):
        levels.append(tirx.decl_buffer(target.shape, dtype, f"{target.name}_{len(partial_sums)}_{level}"))
    partial_sums += levels[1:]
    zero = tirx.const(0.0, dtype)

    def put(buffer: Any, value: Any) -> Any:
        return tirx.BufferStore(buffer, value, store.indices)

    at = [tirx.BufferLoad(level, store.indices) for level in levels]
    statements = [tirx.IfThenElse(step == 0, tirx.SeqStmt([put(level, zero) for level in levels[1:]]), None), store]
    for level in range(1, _LEVELS):
        carry = tirx.SeqStmt([put(levels[level], at[level] + at[level - 1]), put(levels[level - 1], zero)])
        period = width**level
        statements.append(tirx.IfThenElse(tirx.floormod(step, period) == period - 1, carry, None))
    statements.append(tirx.IfThenElse(step == num_terms - 1, put(target, (at[0] + at[1]) + at[2]), None))
    return tirx.SeqStmt(statements)


def _reordered(stmt: Any) -> Any:
    """Returns a loop nest around one block with its last spatial loop innermost and its first in parallel."""
    tirx = tvm.tirx
    loops: list[Any] = []
    inner = stmt
    while isinstance(inner, tirx.For):
        loops.append(inner)
        inner = inner.body
    if not isinstance(inner, tvm.s_tir.SBlockRealize) or _plain_store(inner) is None:
        return stmt
    bound = {value: each for each, value in zip(inner.block.iter_vars, inner.iter_values, strict=True)}
    if len(bound) != len(loops) or any(loop.loop_var not in bound for loop in loops):
        return stmt
    spatial = [loop for loop in loops if int(bound[loop.loop_var].iter_type) == tirx.IterVar.DataPar]
    if len(spatial) < 2:
        return stmt
    summed = [loop for loop in loops if loop not in spatial]
    for loop in reversed([*spatial[:-1], *summed, spatial[-1]]):
        kind = tirx.ForKind.PARALLEL if loop.same_as(spatial[0]) else tirx.ForKind.SERIAL
        inner = tirx.For(loop.loop_var, loop.min, loop.extent, kind, inner)
    return inner


def _plain_store(realize: Any) -> Any | None:
    """Returns the one store of a block whose spatial iterations are plainly independent; None for other blocks.

    It stores into an element of its own for each of them, reads what it stores to nowhere else, has extents that are
    known, and no condition.
    """
    tirx, block = tvm.tirx, realize.block
    store = block.body
    known = all(isinstance(each.dom.extent, tirx.IntImm) for each in block.iter_vars)
    if not isinstance(store, tirx.BufferStore) or not known or block.match_buffers or not _is_true(realize.predicate):
        return None
    spatial, reduced = tirx.IterVar.DataPar, tirx.IterVar.CommReduce
    if any(int(each.iter_type) not in (spatial, reduced) for each in block.iter_vars):
        return None
    mine = {each.var for each in block.iter_vars if int(each.iter_type) == spatial}
    if {index for index in store.indices if isinstance(index, tirx.Var)} != mine:
        return None
    if any(not isinstance(index, (tirx.Var, tirx.IntImm)) for index in store.indices):
        return None
    loads = (load for load in parts_in(store.value, tvm.ir.TensorLoad) if load.source.same_as(store.buffer))
    return store if all(_is_same_place(load, store) for load in loads) else None


def _is_same_place(expr: Any, store: Any) -> bool:
    return (
        isinstance(expr, tvm.ir.TensorLoad)
        and expr.source.same_as(store.buffer)
        and all(tvm_ffi.structural_equal(a, b) for a, b in zip(expr.indices, store.indices, strict=True))
    )


def _is_true(predicate: Any) -> bool:
    return isinstance(predicate, tvm.tirx.IntImm) and bool(int(predicate))

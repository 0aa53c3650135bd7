"""Padded rows read without conditions.

`pad_einsum` has a row that does not count read zeros, by a condition on each of a tile's last rows. Where those are
many, LLVM does not decide all of them outside the sums. No result of such a row is ever used, so it may as well read
what the last row that counts reads:

    (X[h + rh, w + rw, rc] if w < 73 else 0)   becomes   X[h + rh, min(w, 72) + rw, rc]

which is an address, computed outside the sums. The analysis sees the program after this pass.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.ir.marks import PADDED
from reasoning_compiler.ir.nest import read_paddings
from reasoning_compiler.ir.walk import SPATIAL, annotations_in, mapped, substituted, with_block
from reasoning_compiler.machine.toolchain import import_tvm


def without_padded_conditions(func: Any) -> Any:
    """Returns a scheduled PrimFunc whose blocks marked with `PADDED` read padded rows without conditions."""
    if PADDED not in annotations_in(func.body):
        return func
    return func.with_body(mapped(func.body, import_tvm().s_tir.SBlockRealize, _without_conditions))


def _without_conditions(realize: Any) -> Any:
    tvm = import_tvm()
    block = realize.block
    if PADDED not in block.annotations:
        return realize
    column = block.writes[0].region[-1].min
    made = {(padding.extent, padding.padded) for padding in read_paddings(str(block.annotations[PADDED]))}
    extents = {each.var: int(each.dom.extent) for each in block.iter_vars if int(each.iter_type) == SPATIAL}

    def unconditional(call: Any) -> Any:
        last = _last_that_count(call)
        if last is None or any(variable.same_as(column) for variable in last):
            return call  # a vector of columns reads what lies side by side
        if any((number + 1, extents.get(variable)) not in made for variable, number in last.items()):
            return call  # a condition of the kernel's own
        clamped = {variable: tvm.tirx.min(variable, number) for variable, number in last.items()}
        return substituted(call.args[1], clamped)

    return with_block(realize, mapped(block.body, tvm.ir.Call, unconditional))


def _last_that_count(call: Any) -> dict[Any, int] | None:
    """Returns for each variable in a call's condition the last value for which it holds; None for other calls."""
    if str(getattr(call.op, "name", "")).rsplit(".", 1)[-1] != "if_then_else":
        return None
    last: dict[Any, int] = {}
    parts = [call.args[0]]
    while parts:
        part = parts.pop()
        kind = type(part).__name__
        if kind == "And":
            parts += [part.a, part.b]
        elif kind == "LT" and isinstance(part.a, import_tvm().tirx.Var) and type(part.b).__name__ == "IntImm":
            last[part.a] = int(part.b) - 1
        else:
            return None
    return last

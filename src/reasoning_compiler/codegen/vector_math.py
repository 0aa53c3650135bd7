"""Calls of the C library's functions on float32 as arithmetic, which LLVM makes vectors of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasoning_compiler.ir.marks import VECTOR_MATH
from reasoning_compiler.ir.walk import mapped
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.workload import vector_math as arithmetic

_ARITHMETIC: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": arithmetic.exp,
    "tirx.sigmoid": arithmetic.sigmoid,
    "tirx.tanh": arithmetic.tanh,
    "tirx.erf": arithmetic.erf,
}


def with_vector_math(func: Any) -> Any:
    """Returns a PrimFunc with arithmetic in place of calls, where its root block is marked with `VECTOR_MATH`."""
    root = getattr(func.body, "block", None)
    if root is None or not int(root.annotations.get(VECTOR_MATH, 0)):
        return func
    return func.with_body(mapped(func.body, import_tvm().ir.Call, _rewritten))


def _rewritten(call: Any) -> Any:
    made = in_arithmetic(call)
    return call if made is None else made


def in_arithmetic(call: Any) -> Any:
    """Returns what a call comes to in arithmetic; None for one that has to stay."""
    made = _ARITHMETIC.get(str(getattr(call.op, "name", "")))
    return made(call.args[0]) if made is not None and str(call.ty.dtype) == "float32" else None

"""The value of TVM expressions by NumPy, number by number or for whole arrays, and how often conditions hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reasoning_compiler.ir.walk import variables

_BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Min": np.minimum,
    "Max": np.maximum,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "LShift": np.left_shift,
}
_CALLS = {"nearbyint": np.rint, "exp": np.exp, "exp2": np.exp2, "floor": np.floor, "sqrt": np.sqrt}
_MAX_TRIED = 2**18  # iterations, to see how often a condition holds


def evaluate(expr: Any, leaf: Callable[[Any], Any]) -> Any:
    """Returns the value of an expression, in the types of NumPy.

    Args:
        expr: a TVM expression.
        leaf: gives the values of constants, variables and loads; may raise LookupError.

    Raises:
        LookupError: the expression is not understood.
    """

    def of(part: Any) -> Any:
        return evaluate(part, leaf)

    kind = type(expr).__name__
    if kind in _BINARY:
        return _BINARY[kind](of(expr.a), of(expr.b))
    if kind == "Not":
        return np.logical_not(of(expr.a))
    if kind == "Cast":
        return np.asarray(of(expr.value)).astype(str(expr.ty.dtype))[()]
    if kind != "Call":
        return leaf(expr)
    name = str(expr.op.name).rsplit(".", 1)[-1]
    if name == "reinterpret":
        return of(expr.args[-1]).view(str(expr.ty.dtype))
    return _CALLS[name](*(of(argument) for argument in expr.args))


def share_true(condition: Any, extents: Mapping[Any, int]) -> float:
    """Returns the share of iterations in which a condition on loop variables holds; 1 where that cannot be said.

    Args:
        condition: a TVM expression.
        extents: of the loops around it, by their variables; loops begin at 0.
    """
    used = [v for v in dict.fromkeys(variables(condition)) if v in extents]
    grid = tuple(extents[v] for v in used)
    if len(used) < len(set(variables(condition))) or int(np.prod(grid, dtype=object)) > _MAX_TRIED:
        return 1.0
    values = dict(zip(used, np.indices(grid, sparse=True), strict=True)) if used else {}

    def leaf(expr: Any) -> Any:
        return int(expr.value) if type(expr).__name__ == "IntImm" else values[expr]

    try:
        return float(np.mean(np.broadcast_to(evaluate(condition, leaf), grid)))
    except LookupError:
        return 1.0

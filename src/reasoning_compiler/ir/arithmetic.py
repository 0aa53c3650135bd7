"""The value of TVM expressions by NumPy, number by number or for whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

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

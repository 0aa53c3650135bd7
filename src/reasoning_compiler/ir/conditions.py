"""How often a condition holds, by trying all iterations of the loops that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reasoning_compiler.ir.walk import variables

_MAX_TRIED = 2**18
_OPERATIONS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
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
}


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
    try:
        return float(np.mean(np.broadcast_to(_value(condition, values), grid)))
    except LookupError:
        return 1.0


def _value(expr: Any, values: Mapping[Any, Any]) -> Any:
    kind = type(expr).__name__
    if kind == "IntImm":
        return int(expr.value)
    if kind == "Var":
        return values[expr]
    if kind == "Not":
        return np.logical_not(_value(expr.a, values))
    return _OPERATIONS[kind](_value(expr.a, values), _value(expr.b, values))

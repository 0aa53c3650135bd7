"""How often a condition holds, by trying all iterations of the loops that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reasoning_compiler.ir.arithmetic import evaluate
from reasoning_compiler.ir.walk import variables

_MAX_TRIED = 2**18


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

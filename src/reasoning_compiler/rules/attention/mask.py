"""Which columns of each row of a masked score matrix count at all, read from the mask's condition.

A masked score is a huge negative constant. It never is a row's maximum, its exponential is 0, and 0 adds nothing to a
sum: then the score need not be computed either. That this is so is checked block by block, the exponential by
evaluating the block's own expression in float32; where anything is not understood, nothing is left out.

Two things are taken for granted, as every library does: rows whose scores that count lie below half of the mask's
constant do not occur (their softmax would let masked columns in), and 0 times a value of V is 0 (it is not, for
infinite ones).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reasoning_compiler.ir.affine import Affine, Digit, read
from reasoning_compiler.ir.arithmetic import evaluate
from reasoning_compiler.ir.walk import index_of, variables

if TYPE_CHECKING:
    from reasoning_compiler.ir.statements import Statement
    from reasoning_compiler.rules.attention.chain import Stage

_MASKED_BELOW = -1e8
_ROW, _COLUMN = Digit(0, 1, 2**31), Digit(1, 1, 2**31)
_NEGATED = {"LT": "GE", "LE": "GT", "GT": "LE", "GE": "LT", "And": "Or", "Or": "And"}


@dataclass(frozen=True)
class Band:
    """The columns that count: row + first <= column <= row + last; None for no limit."""

    first: int | None
    last: int | None


def live_band(
    after_scores: Sequence[Stage],
    stages: Sequence[Stage],
    weights: Any,
    num_rows: int,
    num_columns: int,
) -> Band | None:
    """Returns which columns of a row count; None if all may.

    Args:
        after_scores: the elementwise stages that follow the scores alone, in order.
        stages: all stages between the two products, in program order.
        weights: the second product's left operand.
        num_rows, num_columns: of the scores.
    """
    found = next((f for f in (_mask(stage) for stage in after_scores) if f is not None), None)
    if found is None:
        return None
    stage, band, constant = found
    if after_scores.index(stage) != len(after_scores) - 1 or not _every_row_counts(band, num_rows, num_columns):
        return None
    # What a buffer may hold in columns that do not count.
    dead: dict[Any, set[float]] = {stage.statement.buffer: {constant}}
    limit = min(abs(constant), float(np.finfo(np.float32).max)) / 2
    row_values = [sign * limit * 10.0**-power for sign in (1, -1) for power in (0, 4, 16, 32, 45)]
    for each in stages[stages.index(stage) + 1 :]:
        statement = each.statement
        read = {load.source: dead[load.source] for load in statement.loads if load.source in dead}
        if not read:
            continue
        if each.reduces:
            if not _ignores(statement, dead):
                return None
            continue
        per_row = [load for load in statement.loads if load.source not in dead]
        if each.column is None or any(each.column in statement.used(load) for load in per_row):
            return None
        summed = [s.statement.buffer for s in stages if s.reduces and _is_sum(s.statement)]
        sums = any(index_of(load.source, summed) is not None for load in per_row)
        tried = [v for v in row_values if v > 0] if sums else row_values
        values = [dict(zip(read, chosen, strict=True)) for chosen in itertools.product(*read.values())]
        results = {_evaluate_or_none(statement.value, v, row) for v in values for row in tried}
        if None in results:
            return None
        dead[statement.buffer] = {result for result in results if result is not None}
    return band if dead.get(weights) == {0.0} else None


def _mask(stage: Stage) -> tuple[Stage, Band, float] | None:
    """Returns the stage with the band that it leaves and the constant that it puts elsewhere; None if it masks not."""
    value = stage.statement.value
    kind = type(value).__name__
    if kind == "Select":
        condition, kept, other = value.condition, value.true_value, value.false_value
    elif kind == "Call" and str(value.op.name).endswith("if_then_else"):
        condition, kept, other = value.args
    else:
        return None
    negated = type(kept).__name__ == "FloatImm"
    constant = kept if negated else other
    if type(constant).__name__ != "FloatImm" or not float(constant.value) <= _MASKED_BELOW or stage.column is None:
        return None
    row, column = stage.statement.variables[stage.row], stage.statement.variables[stage.column]
    band = _band(condition, row, column, negated)
    return None if band is None else (stage, band, float(constant.value))


def _band(condition: Any, row: Any, column: Any, negated: bool) -> Band | None:
    """Returns the band in which a condition (or its opposite) holds; None if it is anything else."""
    kind = type(condition).__name__
    kind = _NEGATED.get(kind, kind) if negated else kind
    if kind == "And":
        parts = [_band(part, row, column, negated) for part in (condition.a, condition.b)]
        if parts[0] is None or parts[1] is None:
            return None
        firsts = [p.first for p in parts if p is not None and p.first is not None]
        lasts = [p.last for p in parts if p is not None and p.last is not None]
        return Band(max(firsts, default=None), min(lasts, default=None))
    if kind not in ("LT", "LE", "GT", "GE"):
        return None
    if any(index_of(v, (row, column)) is None for e in (condition.a, condition.b) for v in variables(e)):
        return None
    known = {row: Affine(0.0, {_ROW: 1.0}), column: Affine(0.0, {_COLUMN: 1.0})}
    small, large = (condition.a, condition.b) if kind in ("LT", "LE") else (condition.b, condition.a)
    rest = read(small, known).plus(read(large, known), -1)  # <= 0, or < 0
    const = int(rest.const) + (1 if kind in ("LT", "GT") else 0)
    slope = (rest.terms.get(_COLUMN, 0.0), rest.terms.get(_ROW, 0.0))
    if slope == (1.0, -1.0):
        return Band(None, -const)
    return Band(const, None) if slope == (-1.0, 1.0) else None


def _every_row_counts(band: Band, num_rows: int, num_columns: int) -> bool:
    """Tells whether each row has a column in the band."""
    first = band.first if band.first is not None else -num_rows - num_columns
    last = band.last if band.last is not None else num_rows + num_columns
    return first <= last and last >= 0 and num_rows - 1 + first <= num_columns - 1


def _is_sum(statement: Statement) -> bool:
    return type(statement.value).__name__ == "Add"


def _ignores(statement: Statement, dead: dict[Any, set[float]]) -> bool:
    """Tells whether a reduction over columns comes to the same without those that do not count."""
    value = statement.value
    if type(value).__name__ not in ("Add", "Max"):
        return False
    term = next((x for x in (value.a, value.b) if type(x).__name__ == "TensorLoad" and x.source in dead), None)
    if term is None:
        return False
    return dead[term.source] == {0.0} if _is_sum(statement) else max(dead[term.source]) <= _MASKED_BELOW


def _evaluate_or_none(expr: Any, dead: dict[Any, float], per_row: float) -> float | None:
    """Returns an expression's value in a column that does not count, as the program's own arithmetic gives it."""

    def leaf(part: Any) -> Any:
        kind = type(part).__name__
        if kind not in ("FloatImm", "IntImm", "TensorLoad"):
            raise LookupError(kind)
        value = dead.get(part.source, per_row) if kind == "TensorLoad" else part.value
        return np.dtype(str(part.ty.dtype)).type(value)

    with np.errstate(all="ignore"):
        try:
            return float(evaluate(expr, leaf))
        except (LookupError, TypeError):  # an operation that is not understood, or a type that NumPy has not
            return None

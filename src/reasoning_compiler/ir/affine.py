"""Index expressions as sums of loops, the quotients and remainders of fused and split loops included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Digit:
    """A digit of a loop's variable: (loop // divisor) % extent. The whole variable has the divisor 1.

    Args:
        loop: the loop's index.
        divisor: see above, ≥ 1.
        extent: how many values it takes, ≥ 1.
    """

    loop: int
    divisor: int
    extent: int


@dataclass(frozen=True)
class Affine:
    """A constant plus a factor for each of some digits."""

    const: float = 0.0
    terms: Mapping[Digit, float] = field(default_factory=dict)

    def plus(self, other: Affine, sign: int = 1) -> Affine:
        terms = dict(self.terms)
        for digit, factor in other.terms.items():
            terms[digit] = terms.get(digit, 0.0) + sign * factor
        return Affine(self.const + sign * other.const, {d: f for d, f in terms.items() if f})

    def times(self, factor: float) -> Affine:
        return Affine(self.const * factor, {d: f * factor for d, f in self.terms.items() if f * factor})

    def divided(self, by: int) -> Affine:
        """Returns the quotient, rounded down. Factors that neither divide `by` nor are divided by it stay fractions."""
        terms: dict[Digit, float] = {}
        below = self.const % by  # what the smaller terms add up to at most: together they may carry
        for digit, factor in sorted(self.terms.items(), key=lambda term: abs(term[1])):
            period = by / factor
            if factor % by == 0:
                terms[digit] = factor / by
            elif period > 0 and period == int(period) and digit.extent % int(period) == 0:
                high = Digit(digit.loop, digit.divisor * int(period), digit.extent // int(period))
                if high.extent > 1:
                    terms[high] = terms.get(high, 0.0) + 1.0
                below += factor * (period - 1)
            else:
                below += abs(factor) * (digit.extent - 1)
                if below >= by:
                    terms[digit] = factor / by
        return Affine(math.floor(self.const / by), terms)

    def remainder(self, by: int) -> Affine:
        """Returns the remainder, as if no term but the last wrapped around."""
        terms: dict[Digit, float] = {}
        for digit, factor in self.terms.items():
            period = by / factor
            if factor % by == 0:
                continue
            if period > 0 and period == int(period) and digit.extent > period:
                digit = Digit(digit.loop, digit.divisor, int(period))
            terms[digit] = terms.get(digit, 0.0) + factor
        return Affine(self.const % by, terms)

    @property
    def loops(self) -> set[int]:
        return {digit.loop for digit in self.terms}

    def steps(self, num_loops: int) -> tuple[float, ...]:
        """Returns by how much one iteration of each loop moves the sum; a fraction where only every so many do."""
        least: dict[int, tuple[int, float]] = {}
        for digit, factor in self.terms.items():
            term = (digit.divisor, factor)
            least[digit.loop] = min(least.get(digit.loop, term), term)
        return tuple(least[i][1] / least[i][0] if i in least else 0.0 for i in range(num_loops))


def read(expr: Any, variables: Mapping[Any, Affine]) -> Affine:
    """Returns a TVM index expression as a sum of loops; what cannot be one counts as a constant 0.

    An index that is read from memory stands for its place there, see `extract`.

    Args:
        expr: the expression.
        variables: what its variables stand for.
    """
    kind = type(expr).__name__
    if kind == "IntImm":
        return Affine(float(expr.value))
    if kind == "Var":
        return variables.get(expr, Affine())
    if kind in ("Add", "Sub"):
        return read(expr.a, variables).plus(read(expr.b, variables), 1 if kind == "Add" else -1)
    if kind == "Mul":
        left, right = read(expr.a, variables), read(expr.b, variables)
        return left.times(right.const) if not right.terms else right.times(left.const)
    if kind == "Cast":
        return read(expr.value, variables)
    if kind in ("FloorDiv", "Div", "FloorMod", "Mod"):
        inner, by = read(expr.a, variables), int(read(expr.b, variables).const)
        if by <= 0:
            return Affine()
        return inner.remainder(by) if kind.endswith("Mod") else inner.divided(by)
    if kind in ("Min", "Max"):
        return read(expr.a, variables)
    if kind == "TensorLoad" and expr.indices:
        return read(expr.indices[-1], variables)
    return Affine()

"""The random proposer: the baseline that every other one has to beat, and the last resort of all of them."""

from __future__ import annotations

import numpy as np

from reasoning_compiler.core.factors import prime_factors
from reasoning_compiler.core.programs import (
    ChoiceDomain,
    Decision,
    Program,
    TileDomain,
    Transformation,
    Value,
    difference,
)
from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.proposer.protocol import Context, ProposerSpace

# MetaSchedule's own mutation probabilities, with a share for structure, which its mutators never change.
_KIND_WEIGHTS = {"tile": 0.80, "location": 0.07, "choice": 0.07, "structure": 0.06}


class RandomProposer:
    """Draws whole programs for the root, and one decision anew everywhere else.

    Args:
        space: where whole programs are drawn from.
    """

    name = "random"

    def __init__(self, space: ProposerSpace) -> None:
        self._space = space

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns `num` random transformations; see `Proposer.propose`."""
        if context.node.program.is_untuned:
            drawn = [self._space.sample(int(rng.integers(1, 2**31 - 1))) for _ in range(num)]
            return Proposal(self.name, "A program drawn at random.", tuple(self._whole(p) for p in drawn))
        picked = [mutate(context.table, rng) for _ in range(num)]
        return Proposal(self.name, "One decision drawn anew.", tuple(t for t in picked if t is not None))

    def _whole(self, program: Program) -> Transformation:
        changed = difference(self._space.start, program)
        return Transformation(tuple((name, new) for name, _, new in changed if new is not None))


def mutate(table: tuple[Decision, ...], rng: np.random.Generator) -> Transformation | None:
    """Returns a transformation that draws one decision of the table anew, or None if nothing changes."""
    movable = [d for d in table if _has_alternatives(d)]
    if not movable:
        return None
    weights = np.array([_KIND_WEIGHTS[d.kind] / sum(o.kind == d.kind for o in movable) for d in movable])
    decision = movable[rng.choice(len(movable), p=weights / weights.sum())]
    value = draw_other(decision.domain, decision.value, rng)
    return None if value is None else Transformation(((decision.name, value),))


def draw_other(domain: TileDomain | ChoiceDomain, present: Value, rng: np.random.Generator) -> Value | None:
    """Returns a value of the domain other than the present one, or None if 16 draws find none."""
    drawn = (draw(domain, rng) for _ in range(16))
    return next((value for value in drawn if value != present), None)


def draw(domain: TileDomain | ChoiceDomain, rng: np.random.Generator) -> Value:
    """Returns a value of the domain, uniform over choices and over the placements of a tile's prime factors."""
    if isinstance(domain, ChoiceDomain):
        return domain.values[int(rng.integers(len(domain.values)))]
    for _ in range(64):
        factors = [1] * domain.num_factors
        for prime in prime_factors(domain.extent):
            factors[int(rng.integers(domain.num_factors))] *= prime
        if domain.why_not(tuple(factors)) is None:
            return tuple(factors)
    if domain.num_factors == 1:
        return (domain.extent,)
    return (domain.extent // domain.inner_multiple, *[1] * (domain.num_factors - 2), domain.inner_multiple)


def _has_alternatives(decision: Decision) -> bool:
    domain = decision.domain
    if isinstance(domain, ChoiceDomain):
        return len(domain.values) > 1
    return domain.extent > 1 and domain.num_factors > 1

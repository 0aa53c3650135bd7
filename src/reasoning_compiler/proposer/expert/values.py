"""The values that a decision may take beside its own."""

from __future__ import annotations

from collections.abc import Iterator

from reasoning_compiler.core.programs import ChoiceDomain, Decision, TileDomain, Value
from reasoning_compiler.proposer.expert.fused import is_fused


def alternatives(decision: Decision) -> Iterator[Value]:
    """Yields the values of a decision's domain other than its own; for a tile, the plain two-way splits.

    Attention that is fused over rows is none of them: it has sizes of its own, see `fused.py`.
    """
    domain = decision.domain
    if isinstance(domain, ChoiceDomain):
        yield from (v for v in domain.values if v != decision.value and not is_fused(v))
        return
    for inner in (4, 8, 16, 32, 64):
        if isinstance(domain, TileDomain) and domain.num_factors > 1 and domain.extent % inner == 0:
            split = (domain.extent // inner, *[1] * (domain.num_factors - 2), inner)
            if domain.why_not(split) is None and split != decision.value:
                yield split

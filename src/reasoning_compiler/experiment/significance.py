"""Is a difference larger than what seeds and noise make? What to say of a paired test."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_compiler.core.paired import ALPHA, Paired

_SMALL = 0.01  # of a ratio: told apart, and of no use


def holm(ps: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for how many there are (Holm, 1979), in the same order."""
    adjusted = [0.0] * len(ps)
    greatest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        greatest = max(greatest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = greatest
    return adjusted


def in_words(name: str, other: str, found: Paired, *, p: float, num_workloads: int) -> str:
    """Returns one or two sentences on a method's times against another's.

    Args:
        name: of the method.
        other: of the one that it is compared with.
        found: of the differences of the logarithms of their times, name's minus other's.
        p: adjusted for how many methods are compared.
        num_workloads: that the pairs are of.
    """
    if found.median is None:
        return f"{name} against {other}: there are no pairs to compare."
    ratio = math.exp(-found.median)
    where = "this workload" if num_workloads == 1 else f"these {num_workloads} workloads"
    pairs = f"{found.num_pairs} pair{'s' if found.num_pairs != 1 else ''} of runs on {where}"
    between = ""
    if found.low is not None and found.high is not None:
        between = f" (95% interval {math.exp(-found.high):.2f}× to {math.exp(-found.low):.2f}×)"
    start = f"{name} is {ratio:.2f}× as fast as {other}{between}, over {pairs}"
    if found.least_p > ALPHA:
        return (
            f"{start}. With so few pairs no difference can be told from chance (the smallest possible p is "
            f"{found.least_p:.2g}); it takes at least {math.ceil(math.log2(2 / ALPHA))} pairs."
        )
    if p < ALPHA:
        small = ", but less than 1%" if abs(ratio - 1) < _SMALL else ""
        return f"{start}, p = {p:.2g}: more than seeds and noise make{small}."
    return f"{start}, p = {p:.2g}: not told from what seeds and noise make."

"""Is a difference larger than what seeds and noise make? A paired test over workloads, and what to say of it.

Seeds of one workload share its space and its machine, so they are no independent evidence. They are taken together
first; a workload is one pair.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.core.statistics import signed_rank_p

_ALPHA = 0.05
_SMALL = 0.01  # of a ratio: told apart, and of no use


@dataclass(frozen=True)
class Paired:
    """What a method's times say against another's, a difference of logarithms for each workload.

    Args:
        differences: below 0 where the method is faster; infinite where one of the two found nothing.
        p: of the Wilcoxon signed-rank test over workloads, two-sided; 1 without differences.
    """

    differences: tuple[float, ...]
    p: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        return cls(tuple(differences), signed_rank_p(differences))

    @property
    def least_p(self) -> float:
        """The smallest p that so many workloads can give."""
        return min(1.0, 2.0 / 2 ** len(self.differences))


def holm(ps: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for how many there are (Holm, 1979), in the same order."""
    adjusted = [0.0] * len(ps)
    greatest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        greatest = max(greatest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = greatest
    return adjusted


def in_words(name: str, other: str, found: Paired, *, p: float) -> str:
    """Returns one or two sentences on a method's times against another's.

    Args:
        name: of the method.
        other: of the one that it is compared with.
        found: of the differences of the logarithms of their times, name's minus other's.
        p: adjusted for how many methods are compared.
    """
    num = len(found.differences)
    if not num:
        return f"{name} against {other}: there is no workload to compare them on."
    ratios = sorted(math.exp(-d) for d in found.differences)
    ratio = statistics.median(ratios)
    between = f" ({_times(ratios[0])} to {_times(ratios[-1])})" if num > 1 else ""
    workloads = f"{num} workload{'s' if num != 1 else ''}"
    start = f"{name} is {_times(ratio)} as fast as {other}{between}, the median over {workloads}"
    if found.least_p > _ALPHA:
        return (
            f"{start}. With so few workloads no difference can be significant (the smallest possible p is "
            f"{found.least_p:.2g}); it takes at least {math.ceil(math.log2(2 / _ALPHA))} workloads."
        )
    if p < _ALPHA:
        small = ", but less than 1%" if abs(ratio - 1) < _SMALL else ""
        return f"{start}, p = {p:.2g}: significant{small}."
    return f"{start}, p = {p:.2g}: not significant."


def _times(ratio: float) -> str:
    """Returns a ratio of speeds; one of the two methods may have found nothing."""
    return f"{ratio:.2f}×" if math.isfinite(ratio) else "infinitely"

"""The paired test: Wilcoxon's signed ranks, with the estimate and the interval that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

ALPHA = 0.05


@dataclass(frozen=True)
class Paired:
    """What pairs say of a difference.

    Args:
        num_pairs: of all pairs; ties count as half a sign each and are left out of the test.
        median: the Hodges–Lehmann estimate of the difference: the median of all means of two; None without pairs.
        low: the end of an interval that holds the difference in at least 95% of all experiments, or in as many as were
            asked for; None where so few pairs give none.
        high: the other end.
        p: of the Wilcoxon signed-rank test, exact, two-sided; 1 without differences.
    """

    num_pairs: int
    median: float | None
    low: float | None
    high: float | None
    p: float

    @property
    def least_p(self) -> float:
        """The smallest p that so many pairs can give."""
        return min(1.0, 2.0 / 2**self.num_pairs)


def paired(differences: Sequence[float], *, alpha: float = ALPHA) -> Paired:
    """Returns what the Wilcoxon signed-rank test says of differences within pairs; nothing is assumed to be normal.

    Args:
        differences: one for each pair.
        alpha: the share of experiments in which the interval may miss the difference.
    """
    num = len(differences)
    if not num:
        return Paired(0, None, None, None, 1.0)
    means = sorted((differences[i] + differences[j]) / 2 for i in range(num) for j in range(i, num))
    middle = len(means) // 2
    median = means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2
    below = _num_means_below(num, alpha)
    low, high = (means[below], means[-1 - below]) if below is not None else (None, None)
    return Paired(num, median, low, high, _signed_rank_p([d for d in differences if d]))


def _signed_rank_p(differences: Sequence[float]) -> float:
    """Returns the exact two-sided p of the signed-rank sum, ranks of equals averaged."""
    if not differences:
        return 1.0
    ranks = _doubled_ranks([abs(d) for d in differences])
    rank_sum = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    counts = _rank_sums(ranks)
    total = 2 ** len(ranks)
    tail = min(sum(counts[: rank_sum + 1]), sum(counts[rank_sum:]))
    return min(1.0, 2 * tail / total)


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Returns twice the rank of each value: whole numbers, also where equals share a mean rank."""
    return [1 + sum(2 * (v < value) for v in values) + sum(v == value for v in values) for value in values]


def _rank_sums(ranks: Sequence[int]) -> list[int]:
    """Returns in how many of the 2ⁿ ways of giving signs each sum of positive ranks comes about."""
    counts = [1] + [0] * sum(ranks)
    for rank in ranks:
        for at in range(len(counts) - 1, rank - 1, -1):
            counts[at] += counts[at - rank]
    return counts


@cache
def _num_means_below(num: int, alpha: float) -> int | None:
    """Returns how many of the ordered means of two lie outside of the interval on each side; None if it has no end."""
    counts = _rank_sums(range(1, num + 1))
    allowed = alpha / 2 * 2**num
    outside, cumulated = None, 0
    for rank_sum, count in enumerate(counts):
        cumulated += count
        if cumulated > allowed:
            break
        outside = rank_sum
    return outside

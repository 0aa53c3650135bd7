"""Whether one program is faster than another, from timings that were taken in turns."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from reasoning_compiler.core.measurements import Comparison

CONFIDENCE = 0.99
NEGLIGIBLE = 0.005
"""A difference that timings may show and nobody should act on: where code lies in memory changes as much."""


def compare(first_secs: Sequence[float], second_secs: Sequence[float]) -> Comparison:
    """Returns whether the first program is faster, slower or neither, and by how much.

    Timings of one round make a pair, so what slows the machine down for longer than a round hits both. The pairs' log
    ratios give an estimate (Hodges and Lehmann, 1963) and an interval (Tukey's, by the null distribution of Wilcoxon's
    signed ranks), for which one wild timing is one wild timing. They assume no normal distribution, only that of two
    equal programs neither has the better moments, which turns see to, every other round in reverse.

    Args:
        first_secs: timings of the first program, one per round; longer than the other, its end is left out.
        second_secs: timings of the second.

    Raises:
        ValueError: one of the two is empty, or a timing is not positive.
    """
    pairs = list(zip(first_secs, second_secs, strict=False))
    if not pairs:
        raise ValueError("`first_secs` and `second_secs` must have a timing each")
    logs = [math.log(first / second) for first, second in pairs]
    upper = np.triu_indices(len(logs))
    means = np.sort(np.add.outer(logs, logs)[upper] / 2)
    outside = _num_outside(len(logs))
    # Too few pairs cannot speak: even if all of them agreed, chance could have done it.
    can_tell = outside > 0
    low, high = (means[outside - 1], means[-outside]) if can_tell else (min(logs), max(logs))
    ratio, low, high = (math.exp(value) for value in (np.median(means), low, high))
    is_faster, is_slower = high < 1 and ratio < 1 - NEGLIGIBLE, low > 1 and ratio > 1 + NEGLIGIBLE
    verdict = "faster" if can_tell and is_faster else "slower" if can_tell and is_slower else "no difference"
    return Comparison(verdict, ratio, low, high, len(pairs))


@cache
def _num_outside(num: int) -> int:
    """Returns how many sums of signed ranks of so many pairs, from 0 upwards, the test calls too small to be chance.

    So many ordered means of two pairs lie at or beyond each end of the interval.
    """
    from scipy.stats import wilcoxon

    def p(rank_sum: int) -> float:
        signed = np.zeros(num)
        for rank in range(num, 0, -1):
            signed[rank - 1] = rank if rank <= rank_sum else -rank
            rank_sum -= rank if rank <= rank_sum else 0
        return float(wilcoxon(signed, method="exact").pvalue)

    return bisect.bisect_right(range(num * (num + 1) // 4), 1 - CONFIDENCE, key=p)

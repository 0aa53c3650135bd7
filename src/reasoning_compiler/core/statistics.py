"""What is asked of statistics in several rooms, by scipy, which is imported where it is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Kendall's τ-b of two equally long sequences, in [-1, 1]; None where one of them has no order.

    1 says that both order their members alike, -1 that they do so the other way round, 0 that they know nothing of
    each other. The b corrects for ties.
    """
    from scipy.stats import kendalltau

    if len(a) != len(b):
        raise ValueError(f"`a` has {len(a)} members and `b` {len(b)}")
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(kendalltau(a, b).statistic)


def signed_rank_p(differences: Sequence[float]) -> float:
    """Returns the two-sided p of the Wilcoxon signed-rank test; 1 without differences.

    Args:
        differences: one for each pair, independent of each other; an infinite one is the largest, whatever its size.
    """
    from scipy.stats import wilcoxon

    told = [d for d in differences if d]
    if not told:
        return 1.0
    largest = max((abs(d) for d in told if math.isfinite(d)), default=0.0)
    return float(wilcoxon([d if math.isfinite(d) else math.copysign(largest + 1.0, d) for d in told]).pvalue)

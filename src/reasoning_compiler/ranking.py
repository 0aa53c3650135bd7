"""How well one order agrees with another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Kendall's τ-b of two equally long sequences, in [-1, 1]; None where one of them has no order.

    1 says that both order their members alike, -1 that they do so the other way round, 0 that they know nothing of
    each other. The b corrects for ties.
    """
    from scipy.stats import kendalltau

    if len(a) < 2:
        return None
    tau = float(kendalltau(a, b).statistic)
    return None if math.isnan(tau) else tau

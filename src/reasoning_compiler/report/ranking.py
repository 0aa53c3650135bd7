"""How well one order agrees with another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Kendall's τ-b of two equally long sequences, in [-1, 1]; None where one of them has no order.

    1 says that both order their members alike, -1 that they do so the other way round, 0 that they know
    nothing of each other. The b corrects for ties. Takes time quadratic in the length, a run's samples.
    """
    agreements = 0
    pairs_a = pairs_b = 0  # pairs that are not tied
    for i in range(len(a)):
        for j in range(i):
            order_a = (a[i] > a[j]) - (a[i] < a[j])
            order_b = (b[i] > b[j]) - (b[i] < b[j])
            agreements += order_a * order_b
            pairs_a += order_a != 0
            pairs_b += order_b != 0
    return agreements / math.sqrt(pairs_a * pairs_b) if pairs_a and pairs_b else None

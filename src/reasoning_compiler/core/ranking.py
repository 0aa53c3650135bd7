"""How well one order agrees with another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Kendall's τ-b of two equally long sequences, in [-1, 1]; None where one of them has no order.

    1 says that both order their members alike, -1 that they do so the other way round, 0 that they know nothing of
    each other. The b corrects for ties.
    """
    if len(a) != len(b):
        raise ValueError(f"`a` has {len(a)} members and `b` {len(b)}")
    x, y = _signs(a), _signs(b)
    ordered = math.sqrt(float(np.abs(x).sum()) * float(np.abs(y).sum()))
    return float((x * y).sum()) / ordered if ordered else None


def _signs(values: Sequence[float]) -> np.ndarray:
    """Returns for each pair of members which is greater: 1, 0 or -1, shape [N, N]."""
    v = np.asarray(values, dtype=float)
    return (v[:, None] > v[None, :]).astype(np.int64) - (v[:, None] < v[None, :])

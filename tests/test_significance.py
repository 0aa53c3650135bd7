"""The paired test against other ways of computing it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from reasoning_compiler.core.paired import paired
from reasoning_compiler.experiment.significance import holm, in_words


def by_enumeration(differences: list[float]) -> float:
    """Returns the two-sided p of the signed-rank sum, all signs tried."""
    sizes = [abs(d) for d in differences]
    ranks = [sum(s < size for s in sizes) + (sum(s == size for s in sizes) + 1) / 2 for size in sizes]
    seen = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in _signs(len(ranks))]
    lower, upper = (sum(s <= seen for s in sums), sum(s >= seen for s in sums))
    return min(1.0, 2 * min(lower, upper) / len(sums))


def _signs(num: int) -> itertools.product:
    return itertools.product((False, True), repeat=num)


@pytest.mark.parametrize("seed", range(8))
def test_p_is_that_of_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = [float(d) for d in rng.normal(0.3, 1.0, 3 + seed)]
    if seed % 2:
        differences = [round(d) or 1.0 for d in differences]  # equals share their ranks
    assert paired(differences).p == pytest.approx(by_enumeration(differences))


def test_six_pairs_are_the_fewest_that_can_tell() -> None:
    assert paired([0.1] * 5).p == 0.0625 and paired([0.1] * 6).p == 0.03125
    assert paired([0.1, 0.2, 0.3, 0.4, 0.5]).low is None
    six = paired([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert (six.low, six.high) == (0.1, 0.6)
    assert paired([]).median is None and paired([0.0, 0.0]).p == 1.0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [paired([float(d) for d in rng.normal(1.0, 1.0, 8)]) for _ in range(400)]
    held = sum(f.low is not None and f.high is not None and f.low <= 1.0 <= f.high for f in found)
    assert held >= 0.93 * 400
    assert abs(np.mean([f.median for f in found]) - 1.0) < 0.06


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_words_say_what_can_be_said() -> None:
    def words(ratios: list[float]) -> str:
        found = paired([math.log(ratio) for ratio in ratios])
        return in_words("mine", "theirs", found, p=found.p, num_workloads=1)

    assert "at least 6 pairs" in words([0.5, 0.5, 0.5])
    assert "more than seeds and noise" in words([0.5, 0.52, 0.51, 0.53, 0.54, 0.55])
    assert "2.00× as fast as theirs (95% interval 2.00× to 2.00×)" in words([0.5] * 6)
    assert words([0.998] * 6).endswith("make, but less than 1%.")
    assert "not told from" in words([0.5, 1.9, 0.6, 1.7, 0.9, 1.1])
    assert "no pairs" in in_words("mine", "theirs", paired([]), p=1.0, num_workloads=1)

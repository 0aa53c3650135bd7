"""Whether a difference is more than chance: what scipy is asked, and what is said of its answer."""

from __future__ import annotations

import math

import pytest

from reasoning_compiler.core.statistics import signed_rank_p
from reasoning_compiler.experiment.significance import Paired, holm, in_words


def test_six_pairs_are_the_fewest_that_can_tell() -> None:
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]) == 0.0625
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 0.03125
    assert signed_rank_p([]) == signed_rank_p([0.0, 0.0]) == 1.0


def test_an_infinite_difference_is_the_largest() -> None:
    assert signed_rank_p([0.1, 0.2, -math.inf, 0.3, 0.4]) == signed_rank_p([0.1, 0.2, -9.0, 0.3, 0.4])
    assert signed_rank_p([math.inf] * 3) == pytest.approx(0.25)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_words_say_what_can_be_said() -> None:
    def words(ratios: list[float]) -> str:
        found = Paired.of([math.log(ratio) for ratio in ratios])
        return in_words("mine", "theirs", found, p=found.p)

    assert "at least 6 workloads" in words([0.5, 0.5, 0.5])
    assert ": significant." in words([0.5, 0.52, 0.51, 0.53, 0.54, 0.55])
    assert "2.00× as fast as theirs (1.00× to 4.00×), the median over 7 workloads" in words(
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 1.0]
    )
    assert words([0.998] * 6).endswith(": significant, but less than 1%.")
    assert ": not significant." in words([0.5, 1.9, 0.6, 1.7, 0.9, 1.1])
    assert "no workload" in in_words("mine", "theirs", Paired.of([]), p=1.0)
    lost = Paired.of([math.inf] * 7)
    assert "mine is 0.00× as fast" in in_words("mine", "theirs", lost, p=lost.p)

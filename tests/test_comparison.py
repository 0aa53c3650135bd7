"""Whether timings tell two programs apart: never one from itself, whatever the noise, and a faster one soon."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reasoning_compiler.measure.timing.comparison import CONFIDENCE, compare

ROUNDS = 12
TRIALS = 2000


def quiet(rng: np.random.Generator) -> np.ndarray:
    return np.exp(0.01 * rng.standard_normal((ROUNDS, 2)))


def drifting(rng: np.random.Generator) -> np.ndarray:
    """The clock falls by 30 % from beginning to end."""
    moments = np.arange(2 * ROUNDS).reshape(ROUNDS, 2)
    return quiet(rng) * (1 + 0.3 * moments / moments.max())


def bursting(rng: np.random.Generator) -> np.ndarray:
    """A neighbour comes and goes, and stays for several timings."""
    state, states = rng.random() < 0.3, []
    for _ in range(2 * ROUNDS):
        state ^= rng.random() < 0.25
        states.append(state)
    return quiet(rng) * np.where(np.reshape(states, (ROUNDS, 2)), 1.5, 1.0)


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return 1 + 0.01 * np.abs(rng.standard_cauchy((ROUNDS, 2)))


def in_turns(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the timings of two programs that took turns, every other round in reverse."""
    moments = moments.copy()
    moments[1::2] = moments[1::2, ::-1]
    return moments[:, 0], moments[:, 1]


@pytest.mark.parametrize("noise", [quiet, drifting, bursting, heavy_tailed])
def test_a_program_is_not_faster_than_itself(noise: Callable[[np.random.Generator], np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    verdicts = [compare(*in_turns(noise(rng))).verdict for _ in range(TRIALS)]
    wrong = sum(verdict != "no difference" for verdict in verdicts) / TRIALS
    assert wrong <= 1.5 * (1 - CONFIDENCE)


@pytest.mark.parametrize("noise", [quiet, bursting, heavy_tailed])
def test_one_that_is_faster_by_a_tenth_is_told(noise: Callable[[np.random.Generator], np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    found = [compare(0.9 * first, second) for first, second in (in_turns(noise(rng)) for _ in range(200))]
    # A neighbour who comes and goes between the two timings of a pair makes twelve rounds too few to be sure.
    least = {quiet: 199, bursting: 20, heavy_tailed: 100}
    assert sum(each.verdict == "faster" for each in found) > least[noise]
    assert not any(each.verdict == "slower" for each in found)
    assert sum(each.low <= 0.9 <= each.high for each in found) >= 190


def test_the_other_way_round_the_verdict_is_the_other_one() -> None:
    first, second = in_turns(quiet(np.random.default_rng(3)))
    there, back = compare(first, 1.2 * second), compare(1.2 * second, first)
    assert (there.verdict, back.verdict) == ("faster", "slower")
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_a_few_timings_cannot_tell_however_clear_they_look() -> None:
    assert compare([1.0] * 7, [2.0] * 7).verdict == "no difference"
    assert compare([1.0] * 8, [2.0] * 8).verdict == "faster"


def test_a_difference_that_nobody_should_act_on_is_none() -> None:
    assert compare([1.0] * 20, [1.004] * 20).verdict == "no difference"
    assert compare([1.0] * 20, [1.006] * 20).verdict == "faster"


def test_one_wild_timing_moves_little() -> None:
    wild = compare([1.0] * 11 + [100.0], [1.0] * 12)
    assert (wild.verdict, wild.ratio) == ("no difference", 1.0)


def test_the_interval_is_wilcoxons() -> None:
    """Ten pairs at 99 %: three of the 55 averages are left out at each end (tables of the signed-rank test)."""
    ratios = np.exp(np.arange(1, 11, dtype=float))
    found = compare(ratios, np.ones(10))
    averages = sorted((a + b) / 2 for i, a in enumerate(range(1, 11)) for b in range(1, 11)[i:])
    assert np.log([found.low, found.high]) == pytest.approx([averages[3], averages[-4]])


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="a timing each"):
        compare([], [1.0])

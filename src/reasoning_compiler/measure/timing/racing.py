"""When to stop timing a program: at once when it has lost, late when it may win."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.records import Record

CUT_RATIO = 1.5
"""A program slower than the best by this factor has lost."""

# Where timings of a program that may win disagree, there are at most so many. They agree if half of the median's 95 %
# interval, over the median, is at most this.
_MAX_REPEATS, _PRECISION = 15, 0.02
# What a first run may take beyond a later one: pages are touched for the first time, threads wake up.
_WARM_UP_SECS = 0.005
# Beyond this ratio to the best, a few timings are enough: more precision would not make it win.
_CONTENDER_RATIO = 1.15
_FEW = 3
# The half-width of a median's 95 % interval, in median absolute deviations over √n, if timings were normal.
_HALF_WIDTH = 1.96 * 1.2533 * 1.4826


@dataclass(frozen=True)
class Race(Record):
    """How long a program is timed.

    Args:
        best_secs: the latency to beat; None where there is none, and everything is timed to the end.
        repeats: timings of a program that may win, at least.
        budget_secs: no further timing starts when this much time has been spent on timings.
        min_timing_secs: a timing of a shorter kernel is of several runs together, so that it lasts this long.
    """

    best_secs: float | None = None
    repeats: int = 5
    budget_secs: float = 1.0
    min_timing_secs: float = 0.01


def verdict(race: Race, first_secs: float, latencies_secs: Sequence[float]) -> Literal["again", "cut", "enough"]:
    """Returns whether to time a program again, or to stop because it has lost or because enough is known.

    Args:
        race: the rules.
        first_secs: its first run, which is also its warm-up.
        latencies_secs: what the timings after that said, per run.
    """
    best = race.best_secs
    if not latencies_secs:
        # A neighbour may have disturbed this one run, so it takes a wider margin to end the race.
        if best is not None and first_secs - _WARM_UP_SECS > CUT_RATIO**2 * best:
            return "cut"
        return "again" if first_secs < race.budget_secs and race.repeats > 1 else "enough"
    fastest = min(latencies_secs)
    if best is not None and fastest > CUT_RATIO * best:
        return "cut"
    if len(latencies_secs) >= race.repeats and (
        len(latencies_secs) >= _MAX_REPEATS or half_width(latencies_secs) <= _PRECISION
    ):
        return "enough"
    if best is not None and fastest > _CONTENDER_RATIO * best and len(latencies_secs) >= _FEW:
        return "enough"
    next_secs = max(fastest, race.min_timing_secs)
    return "again" if first_secs + (len(latencies_secs) + 1) * next_secs <= race.budget_secs else "enough"


def fastest_right(
    measured: Sequence[Measurement], best_secs: float | None, is_right: Callable[[int], bool] = lambda index: True
) -> int | None:
    """Returns the index of the fastest measurement that is right, of those faster than the best; None without one.

    Args:
        measured: of a batch.
        best_secs: the latency to beat, in seconds; None where there is none.
        is_right: is asked, the fastest first, until it says so.
    """
    faster = (index for index, each in enumerate(measured) if each.is_faster_than(best_secs))
    return next(filter(is_right, sorted(faster, key=lambda index: measured[index].latency_secs)), None)


def half_width(latencies_secs: Sequence[float]) -> float:
    """Returns how exactly the median of some timings is known: half of its 95 % interval, over the median."""
    median = statistics.median(latencies_secs)
    deviation = statistics.median(abs(secs - median) for secs in latencies_secs)
    return _HALF_WIDTH * deviation / math.sqrt(len(latencies_secs)) / median


def runs_per_timing(race: Race, run_secs: float) -> int:
    """Returns how many runs one timing takes together."""
    return max(1, min(round(race.min_timing_secs / max(run_secs, 1e-9)), 1_000_000))

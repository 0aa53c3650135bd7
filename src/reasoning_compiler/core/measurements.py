"""What the hardware said, as records: measurements, comparisons, noise. Times are in seconds (`_secs`).

A failure is a value with a kind, never a number.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal, get_args

from reasoning_compiler.core.records import Record

FailureKind = Literal[
    "illegal",  # the schedule could not be applied
    "build",  # code generation or linking failed
    "crash",  # the process that ran it died, or the one that applied its schedule
    "timeout",  # it ran or built longer than allowed
    "wrong_result",  # it ran, and its output differs from the reference
    "nonfinite",  # it ran, and its output holds NaN or Inf where the reference does not
    "device",  # the machine that should have measured it could not
]


@dataclass(frozen=True)
class Failure(Record):
    """Why a program has no latency."""

    kind: FailureKind
    message: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FailureKind):
            raise ValueError(f"`kind` is {self.kind!r}; allowed: {', '.join(get_args(FailureKind))}")


@dataclass(frozen=True)
class Measurement(Record):
    """What the hardware said of a program: latencies or a failure, never both, never neither.

    Args:
        latencies_secs: the timed runs; the first is not a warm-up.
        failure: why there are none.
        cut: timing stopped early because the program had lost; the latency is then a rough one.
        censored: the program was ended in its first run, which had lost already: the one latency is the time that it
            had taken until then, a lower bound. Implies `cut`.
        verified: its output was compared with the workload's reference and agrees.
        build_secs: time to generate and link the code.
        run_secs: time in the runner, timed runs and verification included.
    """

    latencies_secs: tuple[float, ...] = ()
    failure: Failure | None = None
    cut: bool = False
    censored: bool = False
    verified: bool = False
    build_secs: float = 0.0
    run_secs: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.latencies_secs) == (self.failure is not None):
            raise ValueError("a measurement holds either latencies or a failure")
        if self.failure is not None and (self.cut or self.verified):
            raise ValueError("a failure is neither cut nor verified")
        if self.censored and (not self.cut or self.verified or len(self.latencies_secs) != 1):
            raise ValueError("a censored measurement is cut, not verified, and holds one latency: the bound")
        if any(not (math.isfinite(s) and s > 0) for s in self.latencies_secs):
            raise ValueError(f"`latencies_secs` must be finite and positive, not {self.latencies_secs}")

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def is_full(self) -> bool:
        """Whether its latency can be compared with others: it worked, and was timed in full."""
        return self.ok and not self.cut

    def is_faster_than(self, secs: float | None) -> bool:
        """Tells whether it was timed in full, and is faster than a latency in seconds; than none, any is."""
        return self.is_full and (secs is None or self.latency_secs < secs)

    @property
    def counts(self) -> bool:
        """Whether it may make a program the best: it was timed in full, and its output was verified."""
        return self.is_full and self.verified

    @property
    def latency_secs(self) -> float:
        """The median of the timed runs, for a censored one a lower bound of it. Raises ValueError for a failure."""
        if self.failure is not None:
            raise ValueError(f"no latency: {self.failure.kind}: {self.failure.message}")
        return statistics.median(self.latencies_secs)


@dataclass(frozen=True)
class Comparison(Record):
    """What timings of two programs, taken in turns, say of their difference.

    Args:
        verdict: of the first program, against the second.
        ratio: the first's latency over the second's.
        low, high: an interval that holds the true ratio with 99 % confidence.
        num_pairs: timings of each.
    """

    verdict: Literal["faster", "slower", "no difference"]
    ratio: float
    low: float
    high: float
    num_pairs: int


@dataclass(frozen=True)
class Noise(Record):
    """How much timings vary where nothing differs, and so what a difference between two programs can mean.

    Args:
        same: one program timed in turns with itself.
        spread: half of what the middle half of these timings spans, over their median.
        drift: the best program so far, timed again during the run: its latency over the one it became the best with.
        left_out: input sets that nothing was verified on, because the untuned program is not right on them.
        inexact: how the untuned program itself misses what a good order of summation achieves; empty where it does not.
    """

    same: Comparison
    spread: float
    drift: tuple[float, ...] = ()
    left_out: tuple[str, ...] = ()
    inexact: str = ""

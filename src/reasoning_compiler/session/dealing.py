"""Which task gets the session's next samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What a task has to say for itself.

    Args:
        weight: how often it runs, > 0.
        secs: the least latency that was measured of it; None where there is none yet.
        num_samples: samples that it has had.
    """

    weight: float
    secs: float | None
    num_samples: int


def deal(claims: Sequence[Claim], *, left: int, batch: int) -> tuple[int, int]:
    """Returns (which task gets samples next, how many).

    A weighted round-robin: first each task has one turn, in order; from then on samples are in proportion to the share
    of the time that a task takes, weight × latency, by the method of highest averages (D'Hondt). A task without a
    latency counts as the mean of the others.

    Args:
        claims: of the tasks that can use samples, one at least.
        left: samples that the session has left, at least one for each task that has had none.
        batch: the most samples of one turn, ≥ 1.
    """
    untried = [index for index, claim in enumerate(claims) if not claim.num_samples]
    if untried:
        return untried[0], min(batch, left - len(untried) + 1)
    times = [claim.weight * claim.secs for claim in claims if claim.secs is not None]
    mean = sum(times) / len(times) if times else 1.0

    def average(index: int) -> float:
        claim = claims[index]
        time = mean if claim.secs is None else claim.weight * claim.secs
        return time / (claim.num_samples + 1)

    return max(range(len(claims)), key=average), min(batch, left)

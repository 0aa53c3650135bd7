"""Experience: which decisions were worth changing so far, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_compiler.core.steps import Step
from reasoning_compiler.proposer.expert.ideas import Idea, changed

_MOST = 0.5  # that experience adds to an idea's gain or takes from it


class Experience:
    """The logarithmic gains that edits of each decision have brought.

    Args:
        measured: the programs so far, each with the transformation that led to it.
    """

    def __init__(self, measured: Sequence[Step]) -> None:
        self._lessons: dict[str, tuple[float, int]] = {}  # the sum of the gains, and how many there were
        latency = {s.node: s.measurement.latency_secs for s in measured if s.measurement and s.measurement.ok}
        for step in measured:
            if step.node in latency and step.parent in latency and step.parent != 0 and step.transformation:
                gain = math.log(latency[step.parent] / latency[step.node])
                for name in changed(step.transformation):
                    total, count = self._lessons.get(name, (0.0, 0))
                    self._lessons[name] = (total + gain, count + 1)

    def gain(self, idea: Idea) -> float:
        """Returns the mean gain that such changes have brought, shrunk towards none while there are few."""
        gains = [total / (count + 2) for total, count in (self._lessons.get(n, (0.0, 0)) for n in changed(idea))]
        return max(-_MOST, min(_MOST, sum(gains) / max(1, len(gains))))

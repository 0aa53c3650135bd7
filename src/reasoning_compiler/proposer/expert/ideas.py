"""Ideas: changes of a program, each with its reason and expected gain, and what such changes have brought so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import Transformation, Value
from reasoning_compiler.core.steps import Step

_PRIMITIVES = "primitives"
"""Stands for an idea's primitives among the names of its decisions."""

CURIOSITY = 0.05
"""The spread of the noise that lets equals take turns, and the size of a gain that is hoped for, not computed."""

Edits = tuple[tuple[str, Value], ...]
"""New values by the names of their decisions."""

_WORTH_SAYING = 0.01
_MOST = 0.5  # that experience adds to an idea's gain or takes from it


@dataclass(frozen=True)
class Idea:
    """Edits and primitives with their reason, and the logarithm of the gain that the analysis sees in them."""

    edits: Edits
    reasoning: str
    gain: float = 0.0
    primitives: tuple[Primitive, ...] = ()

    @property
    def transformation(self) -> Transformation:
        """The idea as it is proposed, with a word of what is expected of it."""
        expectation = f"speed-up {math.exp(self.gain):.2f}×, estimated" if self.gain > _WORTH_SAYING else ""
        return Transformation(self.edits, expectation, reasoning=self.reasoning, primitives=self.primitives)


def changed(idea: Idea | Transformation) -> tuple[str, ...]:
    """Returns the names of what is changed: its decisions, and one for its primitives."""
    return (*(name for name, _ in idea.edits), *((_PRIMITIVES,) if idea.primitives else ()))


def varied(ideas: Sequence[Idea]) -> list[Idea]:
    """Returns the ideas with those that edit the same decisions taking turns, best first within each."""
    rounds: dict[tuple[str, ...], int] = {}
    keyed = []
    for position, idea in enumerate(ideas):
        names = tuple(name for name, _ in idea.edits) or (_PRIMITIVES,)
        rounds[names] = rounds.get(names, 0) + 1
        keyed.append((rounds[names], position, idea))
    return [idea for _, _, idea in sorted(keyed, key=lambda k: k[:2])]


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

"""Ideas: changes of a program with the reason for them and the gain that the analysis expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import Transformation, Value

_PRIMITIVES = "primitives"
"""Stands for an idea's primitives among the names of its decisions."""

CURIOSITY = 0.05
"""The spread of the noise that lets equals take turns, and the size of a gain that is hoped for, not computed."""

Edits = tuple[tuple[str, Value], ...]
"""New values by the names of their decisions."""

_WORTH_SAYING = 0.01


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
        expectation = f"{math.exp(self.gain):.2f} times as fast, by the analysis" if self.gain > _WORTH_SAYING else ""
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

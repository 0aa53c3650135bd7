"""The programs that nobody has asked for yet, the most promising first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection

import numpy as np

from reasoning_compiler.core.steps import Step

Rank = tuple[bool, float]
"""Whether a stand-in proposed a program, and its predicted seconds."""


class Waiting:
    """Nodes in order of rank: a stand-in's programs come after all others, and within both, those without a prediction.

    Args:
        fillers: names of proposers that only fill in.
    """

    def __init__(self, fillers: Collection[str]) -> None:
        self._fillers = frozenset(fillers)
        self._numbers: set[int] = set()
        self._heap: list[tuple[Rank, int]] = []  # one entry for each node, and left-over ones of nodes that are gone

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, step: Step) -> None:
        """Adds a node that does not wait yet."""
        self._numbers.add(step.node)
        self.place(step)

    def discard(self, number: int) -> None:
        """Removes a node if it waits."""
        self._numbers.discard(number)

    def pop_best(self) -> int:
        """Removes the most promising node and returns its number. Raises IndexError where none waits."""
        number = self.lift(1)[0]
        self.discard(number)
        return number

    def pop_any(self, rng: np.random.Generator) -> int:
        """Removes a node drawn at random and returns its number. Raises ValueError where none waits."""
        number = sorted(self._numbers)[int(rng.integers(len(self._numbers)))]
        self.discard(number)
        return number

    def lift(self, num: int) -> list[int]:
        """Returns up to `num` nodes, the most promising first, lifted out of the order until each is placed again."""
        lifted: dict[int, None] = {}
        while self._heap and len(lifted) < num:
            _, number = heapq.heappop(self._heap)
            if number in self._numbers:
                lifted[number] = None
        return list(lifted)

    def place(self, step: Step) -> None:
        """Gives a lifted node its place in the order."""
        secs = math.inf if step.predicted_secs is None else step.predicted_secs
        heapq.heappush(self._heap, ((step.proposer in self._fillers, secs), step.node))

"""How the search searches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import Record

_LEAST = {"branching": 1, "root_branching": 1, "nodes_per_sample": 1, "rollout_depth": 0}


@dataclass(frozen=True)
class SearchConfig(Record):
    """How the search searches.

    Args:
        exploration: UCT's constant c, ≥ 0.
        branching: most children of a node, ≥ 1.
        root_branching: most children of the untuned program: whole programs to start from, ≥ 1.
        nodes_per_sample: programs proposed and predicted for each one that is measured, ≥ 1.
        explore_share: share of the measured programs that is drawn blindly from the proposed ones, in [0, 1].
        rollout_depth: random transformations after a new node, at whose end the surrogate is asked, once, for the
            node's prediction; 0 asks it about the node itself, and again after every batch.
        measured_feedback: whether measured latencies replace predictions in the tree. What failed loses its value
            anyway.

    Raises:
        UsageError: a value is out of range.
    """

    exploration: float = math.sqrt(2)
    branching: int = 2
    root_branching: int = 8
    nodes_per_sample: int = 4
    explore_share: float = 0.1
    rollout_depth: int = 0
    measured_feedback: bool = True

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"`{name}` is {value!r}; it must be a whole number of at least {least}")
        if not 0 <= self.exploration < math.inf:
            raise UsageError(f"`exploration` is {self.exploration!r}; it must be a number of at least 0")
        if not 0 <= self.explore_share <= 1:
            raise UsageError(f"`explore_share` is {self.explore_share!r}; it must lie between 0 and 1")

"""What the search needs of a surrogate, and what it hands out to be proposed for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.core.steps import Known, Step
from reasoning_compiler.proposer.protocol import Context

Refused = tuple[str, Transformation | None, str]
"""Who proposed, the refused transformation (None where nothing was proposed), and why it was refused."""

OnExpanded = Callable[[int, Sequence[Step], Sequence[Refused]], None]


class Predictor(Protocol):
    """What the search needs of a surrogate."""

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> Sequence[float | None]:
        """Returns predicted latencies in seconds; None where nothing can be said.

        Args:
            programs: to be predicted.
            anchors: for each, its nearest measured ancestor, or None.
        """
        ...

    def learn(self, known: Sequence[Known]) -> None:
        """Takes in all measured programs so far."""
        ...


@dataclass(frozen=True)
class Expansion:
    """A node waiting for a proposal: what `next_expansion` hands out and `expand` takes back.

    Args:
        node: its number.
        num: how many children are wanted.
        context: what the proposer may look at.
        draw: which expansion of the node this is; names its random streams.
    """

    node: int
    num: int
    context: Context
    draw: int

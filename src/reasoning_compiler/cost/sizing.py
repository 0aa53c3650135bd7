"""The decisions that size a treatment of a block, and who knows which of their values are worth starting from.

A rule says with these what its alternatives cost; the expert ranks them, whatever rule they come from. Knows nothing
of TVM.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Protocol

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import Value


class Choice(Protocol):
    """Values for the decisions of a sizing, and what the cost model says of them."""

    @property
    def secs(self) -> float:
        """The cost model's time for what is sized, in seconds."""
        ...

    @property
    def unroll(self) -> int:
        """The unroll limit that the program should have at least; 0 where it does not matter."""
        ...


class Chooser(Protocol):
    """Who chooses values for the decisions of one sizing on one machine."""

    @property
    def sizing(self) -> Sizing:
        """What is sized."""
        ...

    def ranked(self, num: int) -> Sequence[Choice]:
        """Returns up to `num` choices to start from, the most promising first."""
        ...

    def present(self, values: Mapping[str, Value], unroll: int) -> Choice | None:
        """Returns the choice that a program's values make; None where they are none of this sizing's.

        Args:
            values: of the program's decisions, by name.
            unroll: the program's unroll limit.
        """
        ...

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """Yields the choices that are one step away."""
        ...

    def values(self, choice: Choice) -> dict[str, Value]:
        """Returns the values of a choice by the names of their decisions."""
        ...

    def explain(self, choice: Choice) -> str:
        """Returns in a sentence or two why a choice should be fast."""
        ...


class Sizing(Protocol):
    """The decisions that together size one treatment of a block."""

    @property
    def block(self) -> str:
        """The block's name."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the decisions."""
        ...

    @property
    def needs(self) -> tuple[tuple[str, str], ...]:
        """The structure choices, (site, alternative), under which the block has these decisions."""
        ...

    @property
    def spans(self) -> bool:
        """Whether the treatment takes several blocks together, so that their own sizings have no meaning beside it."""
        ...

    @property
    def family(self) -> Hashable:
        """What ways of treatment have in common whose best choices are much alike."""
        ...

    def on(self, machine: Machine, unrolls: Sequence[int]) -> Chooser:
        """Returns who chooses values on a machine.

        Args:
            machine: a CPU.
            unrolls: the unroll limits that a program may choose, ascending.
        """
        ...

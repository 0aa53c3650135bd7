"""The decisions that size a treatment of a block, and who knows which of their values are worth starting from.

A rule says with these what its alternatives cost; the expert ranks them, whatever rule they come from. Knows nothing
of TVM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from reasoning_compiler.core.factors import prime_moves
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import ChoiceDomain, TileDomain, Value

Domain = TileDomain | ChoiceDomain


class Choice(Protocol):
    """Values for the decisions of a sizing, and what the cost model says of them."""

    @property
    def sizes(self) -> tuple[Value, ...]:
        """The values, in the sizing's order."""
        ...

    @property
    def secs(self) -> float:
        """The cost model's time for what is sized, in seconds."""
        ...

    @property
    def unroll(self) -> int:
        """The unroll limit that the program should have at least; 0 where it does not matter."""
        ...


AnyChoice = TypeVar("AnyChoice", bound=Choice)


class Sizing(ABC):
    """The decisions that together size one treatment of a block.

    Attributes:
        block: the block's name.
        needs: the structure choices, (decision, alternative), under which the block has these decisions.
        family: what ways of treatment have in common whose best choices are much alike.
        spans: the treatment takes several blocks together, so that their own sizings have no meaning beside it.
    """

    block: str
    needs: tuple[tuple[str, str], ...]
    family: Hashable
    spans: ClassVar[bool] = False

    @property
    @abstractmethod
    def domains(self) -> dict[str, Domain]:
        """The decisions' names and domains."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the decisions."""
        return tuple(self.domains)

    @abstractmethod
    def on(self, machine: Machine, unrolls: Sequence[int]) -> Chooser[Any]:
        """Returns who chooses values on a machine.

        Args:
            machine: a CPU.
            unrolls: the unroll limits that a program may choose, ascending.
        """


class Chooser(ABC, Generic[AnyChoice]):
    """Who chooses values for the decisions of one sizing on one machine.

    Args:
        sizing: the decisions.
    """

    def __init__(self, sizing: Sizing) -> None:
        self.sizing = sizing
        self.domains = tuple(sizing.domains.values())

    @abstractmethod
    def judge(self, sizes: Any, unroll: int) -> AnyChoice:
        """Returns values, in the sizing's order, with their cost."""

    @abstractmethod
    def ranked(self, num: int) -> Sequence[AnyChoice]:
        """Returns up to `num` choices to start from, the most promising first."""

    @abstractmethod
    def explain(self, choice: AnyChoice) -> str:
        """Returns in a sentence or two why a choice should be fast."""

    def values(self, choice: AnyChoice) -> dict[str, Value]:
        """Returns the values of a choice by the names of their decisions."""
        return dict(zip(self.sizing.names, choice.sizes, strict=True))

    def allows(self, sizes: Sequence[Any]) -> bool:
        """Tells whether values lie inside their domains."""
        return all(domain.why_not(size) is None for domain, size in zip(self.domains, sizes, strict=True))

    def present(self, values: Mapping[str, Value], unroll: int) -> AnyChoice | None:
        """Returns the choice that a program's values make; None where they are none of this sizing's.

        Args:
            values: of the program's decisions, by name.
            unroll: the program's unroll limit.
        """
        sizes = tuple(values.get(name) for name in self.sizing.names)
        return self.judge(sizes, unroll) if self.allows(sizes) else None

    def neighbours(self, choice: AnyChoice) -> Iterator[AnyChoice]:
        """Yields the choices that are one step away: a prime factor moved to another level, or another value."""
        for index, (domain, size) in enumerate(zip(self.domains, choice.sizes, strict=True)):
            moves = prime_moves(size) if isinstance(domain, TileDomain) else domain.values  # type: ignore[arg-type]
            for moved in moves:
                if moved != size and domain.why_not(moved) is None:
                    yield self.judge((*choice.sizes[:index], moved, *choice.sizes[index + 1 :]), choice.unroll)

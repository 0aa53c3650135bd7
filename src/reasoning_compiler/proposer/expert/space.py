"""What the expert needs of a space: enough to be tried on one that knows nothing of TVM."""

from __future__ import annotations

from typing import Protocol

from reasoning_compiler.core.programs import Decision, Program, Transformation
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.space.named import NamedBlock


class ExpertSpace(Protocol):
    """What the expert needs of a space."""

    start: Program
    takes_primitives: bool

    @property
    def sizings(self) -> tuple[Sizing, ...]:
        """The decisions that size its blocks together."""
        ...

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns a program's decisions."""
        ...

    def edit(self, program: Program, transformation: Transformation) -> Program:
        """Returns the program that a transformation leads to, or raises IllegalProgramError."""
        ...

    def nests(self, program: Program) -> tuple[Nest, ...]:
        """Returns a program's loop nests."""
        ...

    def named_blocks(self, program: Program) -> tuple[NamedBlock, ...]:
        """Returns what further primitives of a program may name."""
        ...

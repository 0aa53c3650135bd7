"""What a proposer sees and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reasoning_compiler.core.programs import Decision, Program, Transformation
from reasoning_compiler.core.steps import Proposal, Step
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.space.named import NamedBlock

SAME_PROGRAM = "the same program as"
"""How the reason begins for which a transformation to a known program is refused."""


@dataclass(frozen=True)
class Rejection:
    """A transformation of a node that the space refused, or whose program is known, and why."""

    transformation: Transformation
    why: str

    @property
    def is_known(self) -> bool:
        """Whether it was refused for its program being known already."""
        return self.why.startswith(SAME_PROGRAM)


@dataclass(frozen=True)
class Context:
    """What a proposer may look at when it is asked for children of a node.

    Args:
        lineage: the node itself, its parent, its grandparent, and so on; the untuned program is last.
        table: the node's decisions with their domains and present values. For the untuned program this is the table
            of the space's start program, from which its edits are counted.
        children: the children that the node already has.
        best: the fastest verified node so far, None before there is one.
        measured: every node with a measurement, in the order of measuring.
        rejected: what was proposed for this node and refused.
        unmeasured: the newest programs anywhere in the tree that have no measurement yet, newest first; a few.
        num_samples: measurements so far.
        max_samples: the run's budget of measurements; None where it has none.
    """

    lineage: tuple[Step, ...]
    table: tuple[Decision, ...]
    children: tuple[Step, ...] = ()
    best: Step | None = None
    measured: tuple[Step, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    unmeasured: tuple[Step, ...] = ()
    num_samples: int = 0
    max_samples: int | None = None

    @property
    def node(self) -> Step:
        return self.lineage[0]


class ProposerSpace(Protocol):
    """What proposers need of a space: enough to be tried on one that knows nothing of TVM."""

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

    def sample(self, seed: int) -> Program:
        """Returns a program drawn at random."""
        ...


class Proposer(Protocol):
    """Proposes transformations: the expert, a language model, or a random proposer."""

    name: str

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns reasoning and up to `num` transformations of the context's node, best first.

        The transformations may be fewer than `num`, repeat known programs, or be illegal: the search checks each.
        An empty tuple means that there is nothing left to propose for this node.
        """
        ...

"""The start program with other values for its decisions, as the space allows them and the analysis judges them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

from reasoning_compiler.errors import IllegalProgramError
from reasoning_compiler.proposer.expert.fused import is_fused
from reasoning_compiler.proposer.expert.ideas import Edits
from reasoning_compiler.records import (
    UNTUNED,
    ChoiceDomain,
    Decision,
    Machine,
    Program,
    TileDomain,
    Transformation,
    Value,
)
from reasoning_compiler.space.analysis import analyze
from reasoning_compiler.space.free import NamedBlock
from reasoning_compiler.space.nest import Nest
from reasoning_compiler.space.tiling import TileGroup


class ExpertSpace(Protocol):
    """What the expert needs of a space."""

    start: Program
    tile_groups: tuple[TileGroup, ...]
    takes_primitives: bool

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


class Start:
    """The start program, and what becomes of it.

    Args:
        space: the decisions, and the nests behind them.
        machine: what programs are to run on.
    """

    def __init__(self, space: ExpertSpace, machine: Machine) -> None:
        self._space, self._machine = space, machine
        self._values_with: dict[Edits, dict[str, Value]] = {}

    @cached_property
    def table(self) -> tuple[Decision, ...]:
        """Its decisions."""
        return self._space.table(self._space.start)

    @cached_property
    def values(self) -> dict[str, Value]:
        """Their values."""
        return {d.name: d.value for d in self.table}

    def edits(self, values: dict[str, Value]) -> Edits:
        """Returns the values that differ from the start program; what a structure leaves without meaning goes."""
        structures = {d.name for d in self.table if d.kind == "structure"}
        chosen = tuple((n, v) for n, v in values.items() if n in structures)
        if chosen not in self._values_with:
            self._values_with[chosen] = (self.program(chosen) or self._space.start).values
        known = self._values_with[chosen]
        return tuple((n, v) for n, v in values.items() if n in known and (known[n] != v or n in structures))

    def program(self, edits: Edits) -> Program | None:
        """Returns the start program with these edits; None if it is illegal."""
        try:
            return self._space.edit(UNTUNED, Transformation(edits))
        except IllegalProgramError:
            return None

    def table_with(self, values: dict[str, Value]) -> tuple[Decision, ...]:
        """Returns the decisions of the start program with these values; its own if they are illegal."""
        program = self.program(self.edits(values))
        try:
            return self.table if program is None else self._space.table(program)
        except IllegalProgramError:
            return self.table

    def secs(self, edits: Edits) -> float:
        """Returns the analysis' time of the start program with these edits; infinite if it is illegal."""
        program = self.program(edits)
        if program is None:
            return math.inf
        try:
            return analyze(self._space.nests(program), self._machine).secs
        except IllegalProgramError:
            return math.inf


def alternatives(decision: Decision) -> Iterator[Value]:
    """Yields the values of a decision's domain other than its own; for a tile, the plain two-way splits.

    Attention that is fused over rows is none of them: it has sizes of its own, see `fused.py`.
    """
    domain = decision.domain
    if isinstance(domain, ChoiceDomain):
        yield from (v for v in domain.values if v != decision.value and not is_fused(v))
        return
    for inner in (4, 8, 16, 32, 64):
        if isinstance(domain, TileDomain) and domain.num_factors > 1 and domain.extent % inner == 0:
            split = (domain.extent // inner, *[1] * (domain.num_factors - 2), inner)
            if domain.why_not(split) is None and split != decision.value:
                yield split

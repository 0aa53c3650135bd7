"""The start program with other values for its decisions, as the space allows them and the analysis judges them."""

from __future__ import annotations

import math
from functools import cached_property

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import UNTUNED, Decision, Program, Transformation, Value
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.proposer.expert.ideas import Edits
from reasoning_compiler.proposer.protocol import ProposerSpace


class Start:
    """The start program, and what becomes of it.

    Args:
        space: the decisions, and the nests behind them.
        machine: what programs are to run on.
    """

    def __init__(self, space: ProposerSpace, machine: Machine) -> None:
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

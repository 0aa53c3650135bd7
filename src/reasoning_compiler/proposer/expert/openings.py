"""Openings: whole programs to begin with, the best sizes that the rules know and then other structures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from reasoning_compiler.core.programs import Value
from reasoning_compiler.cost.sizing import Choice, Chooser
from reasoning_compiler.proposer.expert.ideas import Edits, Idea
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.expert.ways import NUM_CHOICES, Ways, describe_move, other_values

_CLEARLY_BETTER = 0.97

Plan = tuple[Edits, str]
"""Edits of the start program, with the reason for them."""


class Openings:
    """The ideas for the untuned program, best first.

    Each is worked out when it is first asked for, since somebody waits for the first, and remembered.

    Args:
        start: the space's start program.
        ways: to treat its blocks.
        sums: ways to sum up in vector lanes.
    """

    def __init__(self, *, start: Start, ways: Ways, sums: SumsInLanes) -> None:
        self._start, self._ways, self._sums = start, ways, sums
        self._settled: dict[frozenset[tuple[str, Value]], tuple[dict[str, Value], str]] = {}
        self._ideas = self._in_order()

    def __iter__(self) -> Iterator[Idea]:
        self._ideas, again = itertools.tee(self._ideas)
        return again

    def _in_order(self) -> Iterator[Idea]:
        ideas = (Idea(edits, text) for edits, text in self._plans_in_order())
        for first in itertools.islice(ideas, 1):
            yield first
            yield from self._with_sums_in_lanes(first)
        yield from ideas

    def _with_sums_in_lanes(self, opening: Idea) -> list[Idea]:
        """Returns ways to sum up in vector lanes on top of an opening."""
        program = self._start.program(opening.edits)
        if program is None:
            return []
        return [
            replace(idea, edits=opening.edits, reasoning=f"{opening.reasoning} {idea.reasoning}")
            for idea in self._sums.of(program)
        ]

    def _plans_in_order(self) -> Iterator[Plan]:
        """Yields edits of the start program with the reasons for them: the best sizes, structures, several blocks'."""
        num = min(NUM_CHOICES, max([1, *(len(ranking) for ranking in self._ways.rankings)]))
        first = self._plan(0)
        chosen, _ = self._ways.chosen(0)
        rest = {**chosen, **self._settled_with(chosen)[0]}
        plans = itertools.chain([first], (self._plan(rank) for rank in range(1, min(3, num))))
        more = (self._plan(rank) for rank in range(3, num))
        usual = itertools.chain(plans, self._other_structures(rest), more)
        spanning = [self._spanning(chooser, choice, rest) for chooser, choice in self._ways.spanning[:NUM_CHOICES]]
        # Block by block, the analysis has results read from the last cache as if nothing else used it.
        if spanning and _CLEARLY_BETTER * self._start.secs(spanning[0][0]) < self._start.secs(first[0]):
            yield from spanning[:5]
            yield from itertools.islice(usual, 3)
            yield from spanning[5:]
            yield from usual
        else:
            yield from itertools.islice(usual, 3)
            yield from spanning[:1]
            yield from usual
            yield from spanning[1:]

    def _spanning(self, chooser: Chooser, choice: Choice, rest: dict[str, Value]) -> Plan:
        """Returns a choice for several blocks, with what of the other blocks' values has a meaning beside it."""
        needs = dict(chooser.sizing.needs)
        beside = {decision.name for decision in self._start.table_with(needs)}
        values = {name: value for name, value in rest.items() if name in beside} | needs | chooser.values(choice)
        return self._start.edits(values), chooser.explain(choice)

    # -- the best sizes, with what goes with them ---------------------------------------------------------------

    def _plan(self, rank: int) -> Plan:
        """Returns the choices of that rank with what goes with them."""
        chosen, text = self._ways.chosen(rank)
        more, why = self._settled_with(chosen)
        return self._start.edits({**chosen, **more}), f"{text} {why}".strip()

    def _settled_with(self, chosen: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns what goes with sizes, the same for all of one way of treatment; it may not even exist in another."""
        ways = frozenset((name, chosen[name]) for name in self._ways.structures if name in chosen)
        if ways not in self._settled:
            self._settled[ways] = self._settle(chosen)
        return self._settled[ways]

    def _settle(self, chosen: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns values for everything that is not chosen, each the best of its domain with the others fixed."""
        start = self._start
        settled: dict[str, Value] = {}
        words = []
        present = start.secs(start.edits(chosen))
        for decision in start.table_with(chosen):
            if decision.name in chosen or decision.name in self._ways.structures:
                continue
            for value in other_values(decision):
                trial = start.secs(start.edits({**chosen, **settled, decision.name: value}))
                if trial < _CLEARLY_BETTER * present:
                    settled[decision.name], present = value, trial
        known = {decision.name: decision for decision in start.table_with({**chosen, **settled})}
        words = [describe_move(known[name], value) for name, value in settled.items() if name in known]
        return settled, ("Besides: " + "; ".join(words) + ".") if words else ""

    # -- other structures ---------------------------------------------------------------------------------------

    def _other_structures(self, values: dict[str, Value]) -> Iterator[Plan]:
        for decision in self._start.table_with(values):
            if decision.kind == "structure" and decision.name not in self._ways.structures:
                for value in other_values(decision):
                    if values.get(decision.name, decision.value) == value:
                        continue
                    edits = self._start.edits({**values, decision.name: value})
                    if self._start.program(edits) is not None:
                        yield edits, f"The same tiling with {describe_move(decision, value)}."

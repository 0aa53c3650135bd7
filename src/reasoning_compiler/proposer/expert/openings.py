"""Openings: whole programs to begin with, the best tilings that the analysis knows and then other structures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import ChoiceDomain, Value
from reasoning_compiler.proposer.expert.fused import FusedChoice, FusedChooser, fused_chooser, is_fused
from reasoning_compiler.proposer.expert.ideas import Edits, Idea
from reasoning_compiler.proposer.expert.space import ExpertSpace
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.expert.values import alternatives
from reasoning_compiler.proposer.expert.ways import NUM_TILINGS, Ways
from reasoning_compiler.proposer.expert.words import describe_move

_CLEARLY_BETTER = 0.97

Plan = tuple[Edits, str]
"""Edits of the start program, with the reason for them."""


class Openings:
    """The ideas for the untuned program, best first.

    Each is worked out when it is first asked for, since somebody waits for the first, and remembered.

    Args:
        space: the decisions, and the nests behind them.
        machine: what programs are to run on.
        start: the space's start program.
        ways: to tile its blocks.
        sums: ways to sum up in vector lanes.
    """

    def __init__(self, space: ExpertSpace, machine: Machine, *, start: Start, ways: Ways, sums: SumsInLanes) -> None:
        self._space, self._machine = space, machine
        self._start, self._ways, self._sums = start, ways, sums
        self._settled: dict[frozenset[tuple[str, Value]], tuple[dict[str, Value], str]] = {}
        self._source = self._in_order()
        self._known: list[Idea] = []

    def __iter__(self) -> Iterator[Idea]:
        for position in itertools.count():
            if position == len(self._known):
                self._known.extend(itertools.islice(self._source, 1))
            if position == len(self._known):
                return
            yield self._known[position]

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
        """Yields edits of the start program with the reasons for them: the best tilings, structures, fused ones."""
        num = min(NUM_TILINGS, max([1, *(len(r) for r in self._ways.rankings)]))
        first = self._plan(0)
        tiles, _ = self._ways.tiled(0)
        rest = {**tiles, **self._settled_with(tiles)[0]}
        plans = itertools.chain([first], (self._plan(rank) for rank in range(1, min(3, num))))
        more = (self._plan(rank) for rank in range(3, num))
        usual = itertools.chain(plans, self._other_structures(rest), more)
        fused = [(chooser.edits_beside(rest, choice.sizes), choice.reasoning) for chooser, choice in self._fused]
        # The analysis has the plain one's scores read from the last cache as if nothing else used it.
        if fused and _CLEARLY_BETTER * self._start.secs(fused[0][0]) < self._start.secs(first[0]):
            yield from fused[:5]
            yield from itertools.islice(usual, 3)
            yield from fused[5:]
            yield from usual
        else:
            yield from itertools.islice(usual, 3)
            yield from fused[:1]
            yield from usual
            yield from fused[1:]

    # -- the best tilings, with what goes with them -------------------------------------------------------------

    def _plan(self, rank: int) -> Plan:
        """Returns the tilings of that rank with what goes with them."""
        tiles, text = self._ways.tiled(rank)
        more, why = self._settled_with(tiles)
        return self._start.edits({**tiles, **more}), f"{text} {why}".strip()

    def _settled_with(self, tiles: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns what goes with tiles, the same for all of one way of tiling; it may not even exist in another."""
        ways = frozenset((site, tiles[site]) for site in self._ways.sites if site in tiles)
        if ways not in self._settled:
            self._settled[ways] = self._settle(tiles)
        return self._settled[ways]

    def _settle(self, tiles: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns values for everything that is not tiled, each the best of its domain with the others fixed."""
        start = self._start
        settled: dict[str, Value] = {}
        words = []
        present = start.secs(start.edits(tiles))
        for decision in start.table_with(tiles):
            if decision.name in tiles or decision.name in self._ways.sites:
                continue
            for value in alternatives(decision):
                trial = start.secs(start.edits({**tiles, **settled, decision.name: value}))
                if trial < _CLEARLY_BETTER * present:
                    settled[decision.name], present = value, trial
        known = {decision.name: decision for decision in start.table_with({**tiles, **settled})}
        for name, value in settled.items():
            words.append(describe_move(name, value, known.get(name)))
        return settled, ("Besides: " + "; ".join(words) + ".") if words else ""

    # -- other structures ---------------------------------------------------------------------------------------

    def _other_structures(self, values: dict[str, Value]) -> Iterator[Plan]:
        for decision in self._start.table_with(values):
            if decision.kind == "structure" and decision.name not in self._ways.sites:
                for value in alternatives(decision):
                    if values.get(decision.name, decision.value) == value:
                        continue
                    edits = self._start.edits({**values, decision.name: value})
                    if self._start.program(edits) is not None:
                        text = f"The same tiling with {describe_move(decision.name, value, decision)}."
                        yield edits, text

    @cached_property
    def _fused(self) -> list[tuple[FusedChooser, FusedChoice]]:
        """The best sizes of the first attention that can be fused over rows; none where there is none."""
        start = self._start
        for decision in start.table:
            for value in decision.domain.values if isinstance(decision.domain, ChoiceDomain) else ():
                if value == decision.value or not is_fused(value):
                    continue
                table = start.table_with({decision.name: value})
                if table is not start.table:
                    chooser = fused_chooser(table, self._space.tile_groups, self._machine)
                    return [(chooser, choice) for choice in chooser.ranked(NUM_TILINGS)]
        return []

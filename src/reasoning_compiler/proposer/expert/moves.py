"""Moves: single decisions of a program, or those of one block, towards what the analysis and other programs favour."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reasoning_compiler.core.programs import UNROLL
from reasoning_compiler.cost.sizing import Choice, Chooser
from reasoning_compiler.proposer.expert.ideas import CURIOSITY, Idea
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.expert.ways import Ways, describe_move, other_values
from reasoning_compiler.proposer.protocol import Context


class Moves:
    """What may be changed of a program that is tuned already.

    Args:
        start: the space's start program.
        ways: to treat its blocks.
        sums: ways to sum up in vector lanes.
    """

    def __init__(self, *, start: Start, ways: Ways, sums: SumsInLanes) -> None:
        self._start, self._ways, self._sums = start, ways, sums

    def of(self, context: Context) -> Iterator[Idea]:
        """Yields the ideas for the context's program, in no order of worth."""
        yield from self._sizes(context)
        yield from self._values(context)
        yield from self._other_ways(context)
        yield from self._crossings(context)
        yield from self._sums.of(context.node.program)

    def _sizes(self, context: Context) -> Iterator[Idea]:
        """Yields sizes that are a step away from a block's present ones."""
        values = {d.name: d.value for d in context.table}
        unroll = next((int(d.value) for d in context.table if d.role == UNROLL), 0)  # type: ignore[arg-type]
        present: list[tuple[Chooser, Choice]] = []
        for chooser in self._ways.choosers:
            choice = chooser.present(values, unroll) if self._ways.fits(chooser, values) else None
            if choice is not None:
                present.append((chooser, choice))
        total = sum(choice.secs for _, choice in present)
        for chooser, choice in present:
            old = chooser.values(choice)
            for moved in chooser.neighbours(choice):
                new = chooser.values(moved)
                edits = tuple((name, new[name]) for name in chooser.sizing.names if new[name] != old[name])
                gain = math.log(total / max(1e-12, total - choice.secs + moved.secs))
                yield Idea(edits, chooser.explain(moved), gain)

    def _values(self, context: Context) -> Iterator[Idea]:
        """Yields other values of what is not chosen together with sizes."""
        for decision in context.table:
            if decision.name not in self._ways.settled:
                for value in other_values(decision):
                    text = f"Try {describe_move(decision, value)}: the cost model cannot rank it, a measurement can."
                    yield Idea(((decision.name, value),), text, -CURIOSITY)

    def _other_ways(self, context: Context) -> Iterator[Idea]:
        """Yields each block's best choice of another way: structure choices together with sizes.

        Where only one block is sized, the openings have been all of these.
        """
        if len(self._ways.rankings) < 2:
            return
        values = {d.name: d.value for d in context.table}
        for ranking in self._ways.rankings:
            mine = next((choice for chooser, choice in ranking if self._ways.fits(chooser, values)), None)
            for chooser, choice in ranking:
                structures = {name for c, _ in ranking for name, _ in c.sizing.needs}
                if mine is None or self._ways.fits(chooser, values) or not structures <= set(values):
                    continue
                needs = dict(chooser.sizing.needs)
                ordered = [name for name in values if name in structures]
                last = next((i for i, name in enumerate(ordered) if name in needs), len(ordered) - 1)  # ends the others
                wanted = {name: needs.get(name, self._start.values[name]) for name in ordered[: last + 1]}
                edits = (*wanted.items(), *chooser.values(choice).items())
                yield Idea(edits, chooser.explain(choice), math.log(mine.secs / choice.secs))
                break

    def _crossings(self, context: Context) -> Iterator[Idea]:
        """Yields the sizes that the fastest program has and this one has not, a block at a time."""
        if context.best is None or len(self._ways.rankings) < 2:
            return
        mine, theirs = {d.name: d.value for d in context.table}, context.best.program.values
        for chooser in self._ways.choosers:
            if not self._ways.fits(chooser, theirs) or chooser.present(theirs, 0) is None:
                continue
            names = [*self._ways.structures_of(chooser), *chooser.sizing.names]
            edits = tuple((n, theirs[n]) for n in names if n in theirs and mine.get(n) != theirs[n])
            if edits and all(name in mine for name in names):
                text = f"Take the tiling of {chooser.sizing.block} from the fastest program so far."
                yield Idea(edits, text, CURIOSITY)

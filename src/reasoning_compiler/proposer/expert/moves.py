"""Moves: single decisions of a program, or those of one block, towards what the analysis and other programs favour."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.proposer.expert.fused import fused_chooser, is_fused
from reasoning_compiler.proposer.expert.ideas import CURIOSITY, Idea
from reasoning_compiler.proposer.expert.space import ExpertSpace
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.expert.tiles import TileChooser, Tiling
from reasoning_compiler.proposer.expert.values import alternatives
from reasoning_compiler.proposer.expert.ways import Ways, tiles_of
from reasoning_compiler.proposer.expert.words import describe_move, describe_tiling
from reasoning_compiler.proposer.protocol import Context


class Moves:
    """What may be changed of a program that is tuned already.

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

    def of(self, context: Context) -> Iterator[Idea]:
        """Yields the ideas for the context's program, in no order of worth."""
        yield from self._tiles(context)
        yield from self._fused_sizes(context)
        yield from self._choices(context)
        yield from self._other_ways(context)
        yield from self._crossings(context)
        yield from self._sums.of(context.node.program)

    def _tiles(self, context: Context) -> Iterator[Idea]:
        """Yields tilings that are a step away from a block's present one."""
        values = {d.name: d.value for d in context.table}
        unroll = int(values.get("unroll", 0))
        present: list[tuple[TileChooser, Tiling]] = []
        for chooser in self._ways.choosers:
            factors = tuple(values.get(name) for _, name, _ in chooser.group.decisions)
            if self._ways.fits(chooser, values) and chooser.allows(factors):
                present.append((chooser, chooser.judge(factors, unroll)))
        total = sum(tiling.secs for _, tiling in present)
        for chooser, tiling in present:
            for factors in chooser.neighbours(tiling.factors):
                moved = chooser.judge(factors, unroll)
                edits = tuple(
                    (name, new)
                    for (_, name, _), old, new in zip(chooser.group.decisions, tiling.factors, factors, strict=True)
                    if old != new
                )
                gain = math.log(total / max(1e-12, total - tiling.secs + moved.secs))
                yield Idea(edits, describe_tiling(chooser.group, moved, self._machine), gain)

    def _fused_sizes(self, context: Context) -> Iterator[Idea]:
        """Yields other sizes of an attention that is fused over rows."""
        try:
            chooser = fused_chooser(context.table, self._space.tile_groups, self._machine)
        except LookupError:
            return
        present = chooser.judge(chooser.present)
        for sizes in chooser.neighbours(present.sizes):
            moved = chooser.judge(sizes)
            changed = zip(chooser.names, present.sizes, sizes, strict=True)
            edits = tuple((name, new) for name, old, new in changed if old != new)
            yield Idea(edits, moved.reasoning, math.log(present.cycles / moved.cycles))

    def _choices(self, context: Context) -> Iterator[Idea]:
        """Yields other values of what neither tiles a block nor sizes a fused one."""
        settled = {name for c in self._ways.choosers for _, name, _ in c.group.decisions} | self._ways.sites
        fused = {d.name.rpartition(" ")[0] for d in context.table if is_fused(d.value)}
        settled |= {d.name for d in context.table if d.name.rpartition(".")[0] in fused or is_fused(d.value)}
        for decision in context.table:
            if decision.name not in settled:
                for value in alternatives(decision):
                    move = describe_move(decision.name, value, decision)
                    text = f"Try {move}: the analysis cannot tell, measuring can."
                    yield Idea(((decision.name, value),), text, -CURIOSITY)

    def _other_ways(self, context: Context) -> Iterator[Idea]:
        """Yields each block's best tiling of the other kind: a structure choice together with its tiles.

        Where only one block is tiled, the openings have been all of these.
        """
        if len(self._ways.rankings) < 2:
            return
        values = {d.name: d.value for d in context.table}
        for ranking in self._ways.rankings:
            mine = next((tiling for chooser, tiling in ranking if self._ways.fits(chooser, values)), None)
            for chooser, tiling in ranking:
                sites = {site for c, _ in ranking for site, _ in c.group.needs}
                if mine is None or self._ways.fits(chooser, values) or not sites <= set(values):
                    continue
                needs = dict(chooser.group.needs)
                ordered = [site for site in values if site in sites]
                last = next((i for i, site in enumerate(ordered) if site in needs), len(ordered) - 1)  # ends the others
                wanted = {site: needs.get(site, self._start.values[site]) for site in ordered[: last + 1]}
                text = describe_tiling(chooser.group, tiling, self._machine)
                edits = (*wanted.items(), *tiles_of(chooser, tiling).items())
                yield Idea(edits, text, math.log(mine.secs / tiling.secs))
                break

    def _crossings(self, context: Context) -> Iterator[Idea]:
        """Yields the tilings that the fastest program has and this one has not, a block at a time."""
        if context.best is None or len(self._ways.rankings) < 2:
            return
        mine, theirs = {d.name: d.value for d in context.table}, context.best.program.values
        for chooser in self._ways.choosers:
            if not self._ways.fits(chooser, theirs):
                continue
            tiles = [name for _, name, _ in chooser.group.decisions]
            names = [*self._ways.sites_of(chooser), *tiles]
            known = all(n in mine for n in names) and chooser.allows([theirs.get(n) for n in tiles])
            edits = tuple((n, theirs[n]) for n in names if n in theirs and mine.get(n) != theirs[n])
            if edits and known:
                text = f"Take the tiling of {chooser.group.block} from the fastest program so far."
                yield Idea(edits, text, CURIOSITY)

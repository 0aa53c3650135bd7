"""The ways in which a program's blocks may be tiled, and the best tilings of each.

A way is a structure, as MetaSchedule's or our own with the sums in registers, with what belongs to it: padded loops, an
operand that is copied. Each has a chooser (`tiles.py`) that ranks its tilings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Value
from reasoning_compiler.proposer.expert.space import ExpertSpace
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.tiles import TileChooser, Tiling
from reasoning_compiler.proposer.expert.words import describe_tiling

NUM_TILINGS = 12
"""Of each way, the best."""


class Ways:
    """The ways to tile the blocks of a space's programs.

    Args:
        space: the decisions, and the nests behind them.
        machine: what programs are to run on.
        start: the space's start program.
    """

    def __init__(self, space: ExpertSpace, machine: Machine, *, start: Start) -> None:
        self._space, self._start, self._machine = space, start, machine

    @cached_property
    def choosers(self) -> tuple[TileChooser, ...]:
        """One for each way and block."""
        unrolls = sorted(self._unroll.domain.values) if self._unroll else [0]
        return tuple(TileChooser(group, self._machine, unrolls) for group in self._space.tile_groups)

    @cached_property
    def sites(self) -> frozenset[str]:
        """The structure choices that come with tilings of their own."""
        return frozenset(site for group in self._space.tile_groups for site, _ in group.needs)

    @cached_property
    def rankings(self) -> list[list[tuple[TileChooser, Tiling]]]:
        """The best tilings of each block: the best of each structure first, then all others, best first.

        With an operand packed in each call it counts as another structure.
        """
        found: dict[str, dict[tuple[str, bool], list[tuple[TileChooser, Tiling]]]] = {}
        for chooser in self.choosers:
            ranked = [(chooser, tiling) for tiling in chooser.ranked(NUM_TILINGS)]
            structure = (chooser.group.structure, bool(chooser.group.packed))
            found.setdefault(chooser.group.block, {}).setdefault(structure, []).extend(ranked)
        rankings = []
        for structures in found.values():
            ways = [sorted(way, key=lambda choice: choice[1].secs) for way in structures.values()]
            first = sorted((way[0] for way in ways if way), key=lambda choice: choice[1].secs)
            rest = sorted((choice for way in ways for choice in way[1:]), key=lambda choice: choice[1].secs)
            rankings.append([*first, *rest])
        return rankings

    def tiled(self, rank: int) -> tuple[dict[str, Value], str]:
        """Returns the decisions of each block's tiling of that rank, and the reasons for them."""
        values: dict[str, Value] = {}
        reasons = []
        unroll = 0
        for ranking in self.rankings:
            if not ranking:
                continue
            chooser, tiling = ranking[min(rank, len(ranking) - 1)]
            values.update(chooser.group.needs)
            values.update(tiles_of(chooser, tiling))
            unroll = max(unroll, tiling.unroll)
            reasons.append(describe_tiling(chooser.group, tiling, self._machine))
        if self._unroll is not None and self.choosers:
            values["unroll"] = unroll
        return values, " ".join(reasons)

    def fits(self, chooser: TileChooser, values: Mapping[str, Value]) -> bool:
        """Tells whether a program with these values is tiled in the chooser's way."""
        start = {site: self._start.values[site] for site in self.sites_of(chooser)}
        wanted = start | dict(chooser.group.needs)
        return all(values.get(site, start[site]) == value for site, value in wanted.items())

    def sites_of(self, chooser: TileChooser) -> list[str]:
        """Returns the structure choices of all ways of a chooser's block."""
        same = (c for c in self.choosers if c.group.block == chooser.group.block)
        return list(dict.fromkeys(site for c in same for site, _ in c.group.needs))

    @cached_property
    def _unroll(self) -> Decision | None:
        table = self._start.table
        return next((d for d in table if d.name == "unroll" and isinstance(d.domain, ChoiceDomain)), None)


def tiles_of(chooser: TileChooser, tiling: Tiling) -> dict[str, Value]:
    """Returns the values of a tiling's decisions, by name."""
    values: dict[str, Value] = {
        name: factors for (_, name, _), factors in zip(chooser.group.decisions, tiling.factors, strict=True)
    }
    if tiling.prefetch_bytes and chooser.group.prefetch is not None:
        values[chooser.group.prefetch.name] = tiling.prefetch_bytes
    return values

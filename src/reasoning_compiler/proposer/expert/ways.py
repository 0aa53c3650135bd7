"""The ways in which a program's blocks may be treated, and the best sizes of each, whatever rules they come from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import UNROLL, ChoiceDomain, Decision, TileDomain, Value
from reasoning_compiler.cost.sizing import Choice, Chooser
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.protocol import ProposerSpace

NUM_CHOICES = 12
"""Of each way, the best."""


class Ways:
    """The ways to treat the blocks of a space's programs.

    Args:
        space: the decisions, and the nests behind them.
        machine: what programs are to run on.
        start: the space's start program.
    """

    def __init__(self, space: ProposerSpace, machine: Machine, *, start: Start) -> None:
        self._space, self._start, self._machine = space, start, machine

    @cached_property
    def choosers(self) -> tuple[Chooser, ...]:
        """One for each way and block."""
        unrolls = sorted(self._unroll.domain.values) if self._unroll else [0]
        return tuple(sizing.on(self._machine, unrolls) for sizing in self._space.sizings)

    @cached_property
    def structures(self) -> frozenset[str]:
        """The structure choices that come with sizes of their own."""
        return frozenset(name for sizing in self._space.sizings for name, _ in sizing.needs)

    @cached_property
    def settled(self) -> frozenset[str]:
        """All decisions that are chosen together: these structure choices and the sizes."""
        return self.structures | {name for sizing in self._space.sizings for name in sizing.names}

    @cached_property
    def rankings(self) -> list[list[tuple[Chooser, Choice]]]:
        """The best choices of each block: the best of each family first, then all others, best first."""
        found: dict[str, dict[Hashable, list[tuple[Chooser, Choice]]]] = {}
        for chooser in self.choosers:
            if not chooser.sizing.spans:  # then it stands for several blocks
                ranked = [(chooser, choice) for choice in chooser.ranked(NUM_CHOICES)]
                found.setdefault(chooser.sizing.block, {}).setdefault(chooser.sizing.family, []).extend(ranked)
        rankings = []
        for families in found.values():
            ways = [sorted(way, key=lambda each: each[1].secs) for way in families.values()]
            first = sorted((way[0] for way in ways if way), key=lambda each: each[1].secs)
            rest = sorted((each for way in ways for each in way[1:]), key=lambda each: each[1].secs)
            rankings.append([*first, *rest])
        return rankings

    @cached_property
    def spanning(self) -> list[tuple[Chooser, Choice]]:
        """The best choices for several blocks together, best first."""
        choosers = (chooser for chooser in self.choosers if chooser.sizing.spans)
        found = [(chooser, choice) for chooser in choosers for choice in chooser.ranked(NUM_CHOICES)]
        return sorted(found, key=lambda each: each[1].secs)

    def chosen(self, rank: int) -> tuple[dict[str, Value], str]:
        """Returns the decisions of each block's choice of that rank, and the reasons for them."""
        values: dict[str, Value] = {}
        reasons = []
        unroll = 0
        for ranking in filter(None, self.rankings):
            chooser, choice = ranking[min(rank, len(ranking) - 1)]
            values.update(chooser.sizing.needs)
            values.update(chooser.values(choice))
            unroll = max(unroll, choice.unroll)
            reasons.append(chooser.explain(choice))
        if self._unroll is not None and self.rankings:
            values[self._unroll.name] = unroll
        return values, " ".join(reasons)

    def fits(self, chooser: Chooser, values: Mapping[str, Value]) -> bool:
        """Tells whether a program with these values treats the chooser's block in its way."""
        start = {name: self._start.values[name] for name in self.structures_of(chooser)}
        wanted = start | dict(chooser.sizing.needs)
        return all(values.get(name, start[name]) == value for name, value in wanted.items())

    def structures_of(self, chooser: Chooser) -> list[str]:
        """Returns the structure choices of all ways of a chooser's block."""
        same = (c for c in self.choosers if c.sizing.block == chooser.sizing.block)
        return list(dict.fromkeys(name for c in same for name, _ in c.sizing.needs))

    @cached_property
    def _unroll(self) -> Decision | None:
        table = self._start.table
        return next((d for d in table if d.role == UNROLL and isinstance(d.domain, ChoiceDomain)), None)


def other_values(decision: Decision) -> Iterator[Value]:
    """Yields the values of a decision's domain other than its own; for a tile, the plain two-way splits."""
    domain = decision.domain
    if isinstance(domain, ChoiceDomain):
        yield from (value for value in domain.values if value != decision.value)
        return
    for inner in (4, 8, 16, 32, 64):
        if isinstance(domain, TileDomain) and domain.num_factors > 1 and domain.extent % inner == 0:
            split = (domain.extent // inner, *[1] * (domain.num_factors - 2), inner)
            if domain.why_not(split) is None and split != decision.value:
                yield split


def describe_move(decision: Decision, value: Value) -> str:
    """Returns words for setting a decision to a value."""
    if isinstance(value, tuple):
        return f"{decision.name} {' × '.join(map(str, value))}"
    if isinstance(decision.domain, ChoiceDomain) and value in decision.domain.values:
        return f"{decision.name}: {decision.domain.label(value)}"
    return f"{decision.name}: {value}"

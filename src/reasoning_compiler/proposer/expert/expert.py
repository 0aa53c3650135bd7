"""The expert: what an experienced kernel engineer would try, and why, computed from the analysis of the program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from reasoning_compiler.errors import IllegalProgramError
from reasoning_compiler.language import Primitive
from reasoning_compiler.proposer.expert.fused import FusedChoice, FusedChooser
from reasoning_compiler.proposer.expert.sums import in_lanes, scalar_sums
from reasoning_compiler.proposer.expert.tiles import TileChooser, Tiling
from reasoning_compiler.proposer.expert.words import describe_move, describe_tiling
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.records import (
    UNTUNED,
    ChoiceDomain,
    Decision,
    Machine,
    Program,
    Proposal,
    Step,
    TileDomain,
    Transformation,
    Value,
)
from reasoning_compiler.space.analysis import analyze
from reasoning_compiler.space.free import NamedBlock
from reasoning_compiler.space.nest import Nest
from reasoning_compiler.space.own_rules.fused_label import FUSED
from reasoning_compiler.space.tiling import TileGroup

_NUM_TILINGS = 12
_NUM_JOINED = 3
_CLEARLY_BETTER = 0.97
_CURIOSITY = 0.05  # spread of the noise that lets equals take turns
_WORTH_SAYING = 0.01
_WORTH_PRIMITIVES = 0.5  # as a logarithm; the analysis asks more cycles for an addition than some machines need
_PRIMITIVES = "primitives"  # stands for them among the names of decisions
_MAX_SUMS = 2  # ways to sum up in lanes, of one program


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


@dataclass(frozen=True)
class _Idea:
    """Edits and primitives with their reason, and the logarithm of the gain that the analysis sees in them."""

    edits: tuple[tuple[str, Value], ...]
    reasoning: str
    gain: float = 0.0
    primitives: tuple[Primitive, ...] = ()

    @property
    def expectation(self) -> str:
        return f"{math.exp(self.gain):.2f} times as fast, by the analysis" if self.gain > _WORTH_SAYING else ""


_Plan = tuple[tuple[tuple[str, Value], ...], str]
"""Edits of the start program, with the reason for them."""


class _Remembered:
    """What an iterator yields, as often as anybody goes through it; it is asked no further than they go."""

    def __init__(self, source: Iterator[_Idea]) -> None:
        self._source = source
        self._items: list[_Idea] = []

    def __iter__(self) -> Iterator[_Idea]:
        for position in itertools.count():
            if position == len(self._items):
                self._items.extend(itertools.islice(self._source, 1))
            if position == len(self._items):
                return
            yield self._items[position]


class Expert:
    """Proposes from rules and a static analysis; learns which decisions matter from what was measured.

    For the untuned program it opens with the best tilings that the analysis knows, then with other structures.
    For every other program it moves single decisions towards what the analysis and the measurements so far favour.

    Args:
        space: the decisions, and the nests behind them.
        machine: what the program is to run on.
    """

    name = "expert"

    def __init__(self, space: ExpertSpace, machine: Machine) -> None:
        self._space, self._machine = space, machine
        self._in_lanes: dict[Program, list[_Idea]] = {}
        self._values_with: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
        self._settled: dict[frozenset[tuple[str, Value]], tuple[dict[str, Value], str]] = {}

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns up to `num` transformations, best first, each with a sentence of reasoning; see `Proposer`."""
        known = [*(r.transformation for r in context.rejected), *(c.transformation for c in context.children)]
        tried = {_key(t) for t in known if t}
        fresh: list[Transformation] = []
        for idea in self._ideas(context, num, rng):
            if len(fresh) == num:
                break
            if _key(idea) not in tried:
                tried.add(_key(idea))
                fresh.append(
                    Transformation(idea.edits, idea.expectation, reasoning=idea.reasoning, primitives=idea.primitives)
                )
        return Proposal(self.name, fresh[0].reasoning if fresh else "", tuple(fresh))

    def _ideas(self, context: Context, num: int, rng: np.random.Generator) -> Iterator[_Idea]:
        """Yields ideas, best first: what the rules say and, for a program of ours, a few guesses after that."""
        if context.node.program.is_untuned:
            yield from self._openings
        else:
            yield from self._refinements(context, rng)
            for guess in (mutate(context.table, rng) for _ in range(num)):
                if guess is not None:
                    yield _Idea(guess.edits, "Nothing left that the rules favour: a random change.")

    # -- openings: whole programs -------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> tuple[Decision, ...]:
        return self._space.table(self._space.start)

    @cached_property
    def _unroll(self) -> Decision | None:
        return next((d for d in self._table if d.name == "unroll" and isinstance(d.domain, ChoiceDomain)), None)

    @cached_property
    def _ways(self) -> frozenset[str]:
        """The structure choices that come with tilings of their own."""
        return frozenset(site for group in self._space.tile_groups for site, _ in group.needs)

    @cached_property
    def _choosers(self) -> tuple[TileChooser, ...]:
        unrolls = sorted(self._unroll.domain.values) if self._unroll else [0]
        return tuple(TileChooser(group, self._machine, unrolls) for group in self._space.tile_groups)

    @cached_property
    def _rankings(self) -> list[list[tuple[TileChooser, Tiling]]]:
        """The best tilings of each block: the best of each structure first, then all others, best first.

        With an operand packed in each call it counts as another structure.
        """
        found: dict[str, dict[tuple[str, bool], list[tuple[TileChooser, Tiling]]]] = {}
        for chooser in self._choosers:
            if chooser.group.products:
                continue  # instead of several blocks
            ranked = [(chooser, tiling) for tiling in chooser.ranked(_NUM_TILINGS)]
            structure = (chooser.group.structure, bool(chooser.group.packed))
            found.setdefault(chooser.group.block, {}).setdefault(structure, []).extend(ranked)
        rankings = []
        for structures in found.values():
            ways = [sorted(way, key=lambda choice: choice[1].secs) for way in structures.values()]
            first = sorted((way[0] for way in ways if way), key=lambda choice: choice[1].secs)
            rest = sorted((choice for way in ways for choice in way[1:]), key=lambda choice: choice[1].secs)
            rankings.append([*first, *rest])
        return rankings

    @cached_property
    def _openings(self) -> _Remembered:
        """The openings, best first; each is worked out when it is asked for, since somebody waits for the first."""
        return _Remembered(self._in_order())

    def _in_order(self) -> Iterator[_Idea]:
        ideas = (_Idea(edits, text) for edits, text in self._plans_in_order())
        for first in itertools.islice(ideas, 1):
            yield first
            yield from self._openings_in_lanes(first)
        yield from ideas

    def _plans_in_order(self) -> Iterator[_Plan]:
        """Yields edits of the start program with the reasons for them: the best tilings, structures, fused ones."""
        num = min(_NUM_TILINGS, max([1, *(len(r) for r in self._rankings)]))
        first = self._plan(0)
        tiles, _ = self._tiled(0)
        rest = {**tiles, **self._settled_with(tiles)[0]}
        plans = itertools.chain([first], (self._plan(rank) for rank in range(1, min(3, num))))
        more = (self._plan(rank) for rank in range(3, num))
        usual = itertools.chain(plans, self._other_structures(rest), more)
        if joined := self._joined_plans():
            usual = self._with_joined(joined, usual, first)
        fused = [(_fused_edits(chooser, choice, rest), choice.reasoning) for chooser, choice in self._fused]
        # The analysis has the plain one's scores read from the last cache as if nothing else used it.
        if fused and _CLEARLY_BETTER * self._judged(fused[0][0]) < self._judged(first[0]):
            yield from fused[:5]
            yield from itertools.islice(usual, 3)
            yield from fused[5:]
            yield from usual
        else:
            yield from itertools.islice(usual, 3)
            yield from fused[:1]
            yield from usual
            yield from fused[1:]

    def _plan(self, rank: int) -> _Plan:
        """Returns the tilings of that rank with what goes with them."""
        tiles, text = self._tiled(rank)
        more, why = self._settled_with(tiles)
        return self._edits({**tiles, **more}), f"{text} {why}".strip()

    def _joined_plans(self) -> list[_Plan]:
        """Returns the best tilings of blocks in one pass with their products, those of all other blocks the best."""
        tiles, _ = self._tiled(0)
        plans = []
        for chooser in self._choosers:
            if not chooser.group.products:
                continue
            blocks = {name for name in tiles if name.partition(".")[0].partition(" ")[0] in chooser.group.products}
            others = {name: value for name, value in tiles.items() if name not in blocks}
            for tiling in chooser.ranked(_NUM_JOINED):
                values = {**others, **_tiles_of(chooser, tiling), **dict(chooser.group.needs)}
                more, why = self._settled_with(values)
                own = describe_tiling(chooser.group, tiling, self._machine)
                plans.append((self._edits({**values, **more}), f"{own} {why}".strip()))
        return plans

    def _with_joined(self, joined: list[_Plan], usual: Iterator[_Plan], first: _Plan) -> Iterator[_Plan]:
        """Yields plans: those that join products first where the analysis clearly prefers them, else one soon."""
        if self._judged(joined[0][0]) < _CLEARLY_BETTER * self._judged(first[0]):
            yield from joined
        else:
            yield from itertools.islice(usual, 3)
            yield from joined[:1]
            yield from itertools.islice(usual, 3)
            yield from joined[1:]
        yield from usual

    def _settled_with(self, tiles: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns what goes with tiles, the same for all of one way of tiling; it may not even exist in another."""
        ways = frozenset((site, tiles[site]) for site in self._ways if site in tiles)
        if ways not in self._settled:
            self._settled[ways] = self._settle(tiles)
        return self._settled[ways]

    def _openings_in_lanes(self, opening: _Idea) -> list[_Idea]:
        """Returns ways to sum up in vector lanes on top of an opening."""
        if not self._space.takes_primitives:
            return []
        program = self._program(opening.edits)
        if program is None:
            return []
        return [
            replace(idea, edits=opening.edits, reasoning=f"{opening.reasoning} {idea.reasoning}")
            for idea in self._sums_in_lanes(program)
        ]

    @cached_property
    def _fused(self) -> list[tuple[FusedChooser, FusedChoice]]:
        """The best sizes of the first attention that can be fused over rows; none where there is none."""
        for decision in self._table:
            for value in _alternatives(decision):
                if not _is_fused(value):
                    continue
                table = self._table_with({decision.name: value})
                if table is not self._table:
                    chooser = self._fused_chooser(table)
                    return [(chooser, choice) for choice in chooser.ranked(_NUM_TILINGS)]
        return []

    def _fused_chooser(self, table: tuple[Decision, ...]) -> FusedChooser:
        """Returns who chooses the sizes. Raises LookupError where nothing is fused over rows."""
        chooser = FusedChooser(table, self._machine)
        group = next((g for g in self._space.tile_groups if g.block == chooser.block), None)
        if group is None:
            return chooser
        *others, _ = (loop.extent for loop in group.nest.loops if not loop.reduces)  # the last is depth
        heads = math.prod(others) // math.prod(chooser.present.rows)
        return FusedChooser(table, self._machine, heads=heads)

    def _tiled(self, rank: int) -> tuple[dict[str, Value], str]:
        """Returns the decisions of each group's tiling of that rank, and the reasons for them."""
        values: dict[str, Value] = {}
        reasons = []
        unroll = 0
        for ranking in self._rankings:
            if not ranking:
                continue
            chooser, tiling = ranking[min(rank, len(ranking) - 1)]
            values.update(chooser.group.needs)
            values.update(_tiles_of(chooser, tiling))
            unroll = max(unroll, tiling.unroll)
            reasons.append(describe_tiling(chooser.group, tiling, self._machine))
        if self._unroll is not None and self._choosers:
            values["unroll"] = unroll
        return values, " ".join(reasons)

    def _settle(self, tiles: dict[str, Value]) -> tuple[dict[str, Value], str]:
        """Returns values for everything that is not tiled, each the best of its domain with the others fixed."""
        settled: dict[str, Value] = {}
        words = []
        present = self._secs(tiles)
        for decision in self._table_with(tiles):
            if decision.name in tiles or decision.name in self._ways:
                continue
            for value in _alternatives(decision):
                if _is_fused(value):
                    continue  # it has sizes of its own
                trial = self._secs({**tiles, **settled, decision.name: value})
                if trial < _CLEARLY_BETTER * present:
                    settled[decision.name], present = value, trial
        known = {decision.name: decision for decision in self._table_with({**tiles, **settled})}
        for name, value in settled.items():
            words.append(describe_move(name, value, known.get(name)))
        return settled, ("Besides: " + "; ".join(words) + ".") if words else ""

    def _other_structures(self, values: dict[str, Value]) -> Iterator[_Plan]:
        for decision in self._table_with(values):
            if decision.kind == "structure" and decision.name not in self._ways:
                for value in _alternatives(decision):
                    other = {**values, decision.name: value}
                    if values.get(decision.name, decision.value) == value or _is_fused(value):
                        continue
                    edits = self._edits(other)
                    if self._program(edits) is not None:
                        text = f"The same tiling with {describe_move(decision.name, value, decision)}."
                        yield edits, text

    def _edits(self, values: dict[str, Value]) -> tuple[tuple[str, Value], ...]:
        """Returns the values that differ from the start program; what a structure leaves without meaning goes."""
        structures = {d.name for d in self._table if d.kind == "structure"}
        chosen = tuple((n, v) for n, v in values.items() if n in structures)
        if chosen not in self._values_with:
            self._values_with[chosen] = (self._program(chosen) or self._space.start).values
        known = self._values_with[chosen]
        return tuple((n, v) for n, v in values.items() if n in known and (known[n] != v or n in structures))

    def _secs(self, values: dict[str, Value]) -> float:
        """Returns the analysis' time of the start program with these values; infinite if it is illegal."""
        return self._judged(self._edits(values))

    def _judged(self, edits: tuple[tuple[str, Value], ...]) -> float:
        """Returns the analysis' time of the start program with these edits; infinite if it is illegal."""
        program = self._program(edits)
        if program is None:
            return math.inf
        try:
            return analyze(self._space.nests(program), self._machine).secs
        except IllegalProgramError:
            return math.inf

    def _program(self, edits: tuple[tuple[str, Value], ...]) -> Program | None:
        """Returns the start program with these edits; None if it is illegal."""
        try:
            return self._space.edit(UNTUNED, Transformation(edits))
        except IllegalProgramError:
            return None

    def _table_with(self, values: dict[str, Value]) -> tuple[Decision, ...]:
        """Returns the decisions of the start program with these values; its own if they are illegal."""
        program = self._program(self._edits(values))
        try:
            return self._table if program is None else self._space.table(program)
        except IllegalProgramError:
            return self._table

    # -- refinements: single decisions --------------------------------------------------------------------------

    def _refinements(self, context: Context, rng: np.random.Generator) -> list[_Idea]:
        """Returns ideas for a program, by the analysis' gain, experience with each decision, and a little curiosity."""
        lessons = _lessons(context.measured)
        ideas = [*self._tile_moves(context), *self._fused_moves(context), *self._choice_moves(context)]
        ideas += [*self._other_ways(context), *self._crossings(context)]
        ideas += self._sums_in_lanes(context.node.program)
        noise = rng.normal(0.0, _CURIOSITY, len(ideas))
        worth = [idea.gain + _experience(lessons, idea) + n for idea, n in zip(ideas, noise, strict=True)]
        order = sorted(range(len(ideas)), key=lambda i: -worth[i])
        return _varied([ideas[i] for i in order])

    def _tile_moves(self, context: Context) -> Iterator[_Idea]:
        values = {d.name: d.value for d in context.table}
        unroll = int(values.get("unroll", 0))
        present: list[tuple[TileChooser, Tiling]] = []
        for chooser in self._choosers:
            factors = tuple(values.get(name) for _, name, _ in chooser.group.decisions)
            if self._fits(chooser, values) and chooser.allows(factors):
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
                yield _Idea(edits, describe_tiling(chooser.group, moved, self._machine), gain)

    def _fits(self, chooser: TileChooser, values: dict[str, Value]) -> bool:
        """Tells whether a program with these values is tiled in the chooser's way."""
        ways = (c.group.needs for c in self._choosers if c.group.block == chooser.group.block)
        start = {site: self._start_values[site] for needs in ways for site, _ in needs}
        wanted = start | dict(chooser.group.needs)
        return all(values.get(site, start[site]) == value for site, value in wanted.items())

    def _other_ways(self, context: Context) -> Iterator[_Idea]:
        """Yields each block's best tiling of the other kind: a structure choice together with its tiles.

        Where only one block is tiled, the openings have been all of these.
        """
        if len(self._rankings) < 2:
            return
        values = {d.name: d.value for d in context.table}
        for ranking in self._rankings:
            mine = next((tiling for chooser, tiling in ranking if self._fits(chooser, values)), None)
            for chooser, tiling in ranking:
                sites = {site for c, _ in ranking for site, _ in c.group.needs}
                if mine is None or self._fits(chooser, values) or not sites <= set(values):
                    continue
                needs = dict(chooser.group.needs)
                ordered = [site for site in values if site in sites]
                last = next((i for i, site in enumerate(ordered) if site in needs), len(ordered) - 1)  # ends the others
                wanted = {site: needs.get(site, self._start_values[site]) for site in ordered[: last + 1]}
                tiles = _tiles_of(chooser, tiling)
                text = describe_tiling(chooser.group, tiling, self._machine)
                yield _Idea((*wanted.items(), *tiles.items()), text, math.log(mine.secs / tiling.secs))
                break

    @cached_property
    def _start_values(self) -> dict[str, Value]:
        return {d.name: d.value for d in self._table}

    def _fused_moves(self, context: Context) -> list[_Idea]:
        """Returns other sizes of an attention that is fused over rows."""
        try:
            chooser = self._fused_chooser(context.table)
        except LookupError:
            return []
        present = chooser.judge(chooser.present)
        ideas = []
        for sizes in chooser.neighbours(present.sizes):
            moved = chooser.judge(sizes)
            changed = zip(chooser.names, present.sizes, sizes, strict=True)
            edits = tuple((name, new) for name, old, new in changed if old != new)
            ideas.append(_Idea(edits, moved.reasoning, math.log(present.cycles / moved.cycles)))
        return ideas

    def _choice_moves(self, context: Context) -> Iterator[_Idea]:
        settled = {name for c in self._choosers for _, name, _ in c.group.decisions} | self._ways
        fused = {d.name.rpartition(" ")[0] for d in context.table if _is_fused(d.value)}
        settled |= {d.name for d in context.table if d.name.rpartition(".")[0] in fused or _is_fused(d.value)}
        for decision in context.table:
            if decision.name not in settled:
                for value in _alternatives(decision):
                    if _is_fused(value):
                        continue  # it has sizes of its own
                    move = describe_move(decision.name, value, decision)
                    text = f"Try {move}: the analysis cannot tell, measuring can."
                    yield _Idea(((decision.name, value),), text, -_CURIOSITY)

    def _sums_in_lanes(self, program: Program) -> list[_Idea]:
        """Returns ways to sum up in vector lanes what a program sums up one by one, where the analysis favours them."""
        if not self._space.takes_primitives or program.primitives:
            return []
        if program not in self._in_lanes:
            self._in_lanes[program] = list(self._favoured_sums(program))
        return self._in_lanes[program]

    def _favoured_sums(self, program: Program) -> Iterator[_Idea]:
        present = analyze(self._space.nests(program), self._machine)
        names = scalar_sums(present)
        if not names:
            return
        ideas = []
        for name, primitives in in_lanes(names, self._space.named_blocks(program), self._machine):
            try:
                changed = self._space.edit(program, Transformation((), primitives=primitives))
                secs = analyze(self._space.nests(changed), self._machine).secs
            except IllegalProgramError:
                continue
            text = f"{name}: partial sums fill the vector lanes, where one addition waits for the other now."
            ideas.append(_Idea((), text, math.log(present.secs / secs), primitives))
        ideas.sort(key=lambda idea: -idea.gain)
        yield from (idea for idea in ideas[:_MAX_SUMS] if idea.gain > _WORTH_PRIMITIVES)

    def _crossings(self, context: Context) -> Iterator[_Idea]:
        """Yields the tilings that the fastest program has and this one has not, a block at a time."""
        if context.best is None or len(self._rankings) < 2:
            return
        mine, theirs = {d.name: d.value for d in context.table}, context.best.program.values
        for chooser in self._choosers:
            if not self._fits(chooser, theirs):
                continue
            ways = [c.group.needs for c in self._choosers if c.group.block == chooser.group.block]
            sites = [site for needs in ways for site, _ in needs]
            tiles = [name for _, name, _ in chooser.group.decisions]
            known = all(n in mine for n in (*sites, *tiles)) and chooser.allows([theirs.get(n) for n in tiles])
            edits = tuple((n, theirs[n]) for n in (*sites, *tiles) if n in theirs and mine.get(n) != theirs[n])
            if edits and known:
                text = f"Take the tiling of {chooser.group.block} from the fastest program so far."
                yield _Idea(edits, text, _CURIOSITY)


def _tiles_of(chooser: TileChooser, tiling: Tiling) -> dict[str, Value]:
    """Returns the values of a group's decisions, by name."""
    values: dict[str, Value] = {
        name: factors for (_, name, _), factors in zip(chooser.group.decisions, tiling.factors, strict=True)
    }
    if tiling.prefetch_bytes and chooser.group.prefetch is not None:
        values[chooser.group.prefetch.name] = tiling.prefetch_bytes
    return values


def _alternatives(decision: Decision) -> Iterator[Value]:
    """Yields the values of a decision's domain other than its own; for a tile, the plain two-way splits."""
    domain = decision.domain
    if isinstance(domain, ChoiceDomain):
        yield from (v for v in domain.values if v != decision.value)
        return
    for inner in (4, 8, 16, 32, 64):
        if isinstance(domain, TileDomain) and domain.num_factors > 1 and domain.extent % inner == 0:
            split = (domain.extent // inner, *[1] * (domain.num_factors - 2), inner)
            if domain.why_not(split) is None and split != decision.value:
                yield split


def _is_fused(value: Value) -> bool:
    return isinstance(value, str) and value.startswith(FUSED)


def _fused_edits(chooser: FusedChooser, choice: FusedChoice, rest: dict[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Returns the sizes of a fused attention with what of the other values has a meaning beside it."""
    wanted = {**rest, **chooser.edits(choice.sizes)}
    here = [d for d in chooser.table if d.name in wanted and d.domain.why_not(wanted[d.name]) is None]
    return tuple((d.name, wanted[d.name]) for d in here if d.kind == "structure" or d.value != wanted[d.name])


def _key(change: _Idea | Transformation) -> object:
    """Returns what is changed, whatever the order of the edits."""
    return frozenset(change.edits), change.primitives


def _lessons(measured: Sequence[Step]) -> dict[str, tuple[float, int]]:
    """Returns for each decision the sum of the logarithmic gains that its edits brought, and how many there were."""
    latency = {s.node: s.measurement.latency_secs for s in measured if s.measurement and s.measurement.ok}
    lessons: dict[str, tuple[float, int]] = {}
    for step in measured:
        if step.node in latency and step.parent in latency and step.parent != 0 and step.transformation:
            gain = math.log(latency[step.parent] / latency[step.node])
            for name in _changed(step.transformation):
                total, count = lessons.get(name, (0.0, 0))
                lessons[name] = (total + gain, count + 1)
    return lessons


def _changed(transformation: Transformation | _Idea) -> list[str]:
    """Returns the names of what is changed: its decisions, and one for its primitives."""
    return [name for name, _ in transformation.edits] + ([_PRIMITIVES] if transformation.primitives else [])


def _experience(lessons: dict[str, tuple[float, int]], idea: _Idea) -> float:
    """Returns the mean gain that such changes have brought, shrunk towards none while there are few."""
    gains = [total / (count + 2) for total, count in (lessons.get(name, (0.0, 0)) for name in _changed(idea))]
    return max(-0.5, min(0.5, sum(gains) / max(1, len(gains))))


def _varied(ideas: list[_Idea]) -> list[_Idea]:
    """Returns the ideas with those that edit the same decisions taking turns, best first within each."""
    rounds: dict[tuple[str, ...], int] = {}
    keyed = []
    for position, idea in enumerate(ideas):
        names = tuple(name for name, _ in idea.edits) or (_PRIMITIVES,)
        rounds[names] = rounds.get(names, 0) + 1
        keyed.append((rounds[names], position, idea))
    return [idea for _, _, idea in sorted(keyed, key=lambda k: k[:2])]

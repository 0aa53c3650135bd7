"""A space small enough to be recorded whole: fewer levels of tiles first, then decisions that are fixed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import UNTUNED, Decision, Program, Transformation
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Step
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.experiment.tabular import Structure, values_of
from reasoning_compiler.machine import tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.rules.discovery import coarse_rules
from reasoning_compiler.space.space import Space

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload

TILINGS = ("SSRSRS", "SRSRS", "SSRS", "SRRS", "SRS")
"""Tiling structures from MetaSchedule's own to the coarsest that still has a register tile."""

_MAX_STRUCTURES = 64


@dataclass(frozen=True)
class Restricted:
    """A part of a workload's space.

    Args:
        space: the space, its tiles with fewer levels.
        tiling: their structure.
        start: its plainest program, the fixed decisions at their values.
        tables: for each structure, the open decisions.
        tile_groups: of the tiled blocks that are open.
    """

    space: Space
    tiling: str
    start: Program
    tables: dict[Structure, tuple[Decision, ...]]
    tile_groups: tuple[TileGroup, ...]

    @property
    def num_programs(self) -> int:
        """How many programs there are, those that TVM will refuse among them."""
        open_ = ([d for d in table if d.kind != "structure"] for table in self.tables.values())
        return sum(math.prod(len(values_of(d.domain)) for d in decisions) for decisions in open_)

    def programs(self) -> Iterator[Program]:
        """Yields all of them as they are named, whether TVM accepts them or not."""
        for structure, table in self.tables.items():
            open_ = [d for d in table if d.kind != "structure"]
            fixed = dict(self.start.decisions) if structure == self.start.structure else {}
            names = list(fixed) or [d.name for d in open_]
            for values in itertools.product(*(values_of(d.domain) for d in open_)):
                chosen = fixed | {d.name: v for d, v in zip(open_, values, strict=True)}
                yield Program(structure, tuple((name, chosen[name]) for name in names))


def restrict(workload: Workload, machine: Machine, *, max_programs: int) -> Restricted:
    """Returns the largest restricted space with at most so many programs.

    Tiles have fewer and fewer levels; and then, at each number of levels, decisions are fixed at what the expert opens
    with: the structure and the places of blocks, then the tiles of one block after the other, the one with the most
    operations last.

    Args:
        workload: what is to be recorded.
        machine: with as many cores as programs may use.
        max_programs: at least 2.

    Raises:
        UsageError: it is too much for so few programs, or there is nothing to decide.
    """
    options = [part for tiling in TILINGS for part in _parts(workload, machine, tiling)]
    options = [part for part in options if part.num_programs > 1]
    if not options:
        raise UsageError(f"`{workload.name}` leaves nothing to decide; there is nothing to record")
    fitting = [part for part in options if part.num_programs <= max_programs]
    if not fitting:
        least = min(part.num_programs for part in options)
        raise UsageError(
            f"`samples` is {max_programs}; the smallest space of `{workload.spec}` has {least} programs: "
            "allow that many, or take smaller shapes"
        )
    return max(fitting, key=lambda part: part.num_programs)


def _parts(workload: Workload, machine: Machine, tiling: str) -> Iterator[Restricted]:
    """Yields the space with these tiles, and its parts with more and more decisions fixed.

    Nothing where TVM's rules have no program for such tiles.
    """
    target = tvm_target(machine)
    try:
        space = Space(workload.mod, target, rules=coarse_rules(workload.mod, target, tiling))
    except (IllegalProgramError, UsageError):
        return
    whole = Restricted(space, tiling, space.start, _tables(space), space.tile_groups)
    yield whole
    opening = _opening(space, machine)
    table = space.table(opening)
    groups = sorted(whole.tile_groups, key=lambda group: group.nest.flops * group.nest.iterations)
    fixed = {d.name for d in table if d.kind == "location"}
    for names in ((), *(group.names for group in groups[:-1])):
        fixed |= set(names)
        kept = tuple(d for d in table if d.name not in fixed and d.kind != "structure")
        yield replace(
            whole,
            start=_plainest(space, opening, kept),
            tables={opening.structure: kept},
            tile_groups=tuple(group for group in groups if fixed.isdisjoint(group.names)),
        )


def _tables(space: Space) -> dict[Structure, tuple[Decision, ...]]:
    """Returns the decisions of every structure, of the first so many at most."""
    tables: dict[Structure, tuple[Decision, ...]] = {}
    found = [space.start]
    while found and len(tables) < _MAX_STRUCTURES:
        program = found.pop(0)
        if program.structure in tables:
            continue
        table = tables[program.structure] = space.table(program)
        for decision in table:
            if decision.kind == "structure":
                for value in values_of(decision.domain):
                    try:
                        edits = (*program.structure, (decision.name, value))
                        found.append(space.edit(UNTUNED, Transformation(tuple(dict(edits).items()))))
                    except IllegalProgramError:
                        continue
    return tables


def _opening(space: Space, machine: Machine) -> Program:
    """Returns the program that the expert would measure first."""
    context = Context((Step(0, None, UNTUNED),), space.table(space.start))
    for transformation in Expert(space, machine).propose(context, 8, stream(0, "opening")).transformations:
        try:
            return space.edit(UNTUNED, transformation)
        except IllegalProgramError:
            continue
    return space.start


def _plainest(space: Space, opening: Program, table: tuple[Decision, ...]) -> Program:
    """Returns the opening with its open decisions at their plainest; the opening itself where that is illegal."""
    open_ = {d.name for d in table}
    plain = [(n, v) for n, v in space.start.decisions if n in open_]
    try:
        return space.edit(opening, Transformation(tuple(plain)))
    except IllegalProgramError:
        return opening

"""The space: programs, the decisions that each leaves open, and how to turn one into a schedule."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from reasoning_compiler.codegen.postprocess import postprocess, repeats_a_reduction
from reasoning_compiler.core.crash_markers import Risk, at_risk
from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.primitives import MAX_PRIMITIVES, Primitive
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Program, Transformation, Value
from reasoning_compiler.cost.tiling import TileGroup, tile_groups
from reasoning_compiler.ir.extract import nests
from reasoning_compiler.ir.marks import PACKED
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.ir.walk import blocks
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.free import NamedBlock, apply_primitives, apply_what_fits, named_blocks
from reasoning_compiler.space.legality import why_wrong
from reasoning_compiler.space.replay import Replay, Replayer, edits_of, show
from reasoning_compiler.space.sketch import INSTRUCTION, PACKING, PADDING, Sketch, SketchGenerator

_KEPT_SCHEDULES = 512
_MAX_DRAWS = 32


@dataclass
class _Applied:
    """What is kept of a program that has been applied.

    Args:
        program: as it was applied; equal to it are also programs with other types of numbers.
        schedule: postprocessed.
        table: the program's decisions; None until somebody asks.
        nests: of the schedule; None until somebody asks.
    """

    program: Program
    schedule: Any
    table: tuple[Decision, ...] | None = None
    nests: tuple[Nest, ...] | None = None


class Space:
    """All programs that MetaSchedule's rules span for one module and target, as decisions with names.

    Programs are plain records; a schedule is made by replaying the sketch's trace with the program's values
    (a few milliseconds) and running the target's postprocessors on it. A program is canonical: it names every
    structure choice and decision that its schedule takes, and no other. `start` is the plainest one.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`, static shapes.
        target: the TVM target, of any kind that MetaSchedule has rules for.
        rules: MetaSchedule schedule rules; None for the target's own.
        fatal: what TVM has ended a process over; it is refused, and not tried again.

    Raises:
        UsageError: the rules change nothing about this module, or there are none for this kind of target.
    """

    takes_primitives = True

    def __init__(self, mod: Any, target: Any, *, rules: list[Any] | None = None, fatal: Collection[Risk] = ()) -> None:
        self._tvm = import_tvm()
        self._fatal = {risk.text for risk in fatal}
        self.target = self._tvm.target.Target(target)
        self._sketches = SketchGenerator(mod, self.target, rules=rules)
        self.mod = self._sketches.mod
        self._unscheduled = self._tvm.s_tir.Schedule(self.mod, debug_mask="none", error_render_level="fast")
        self._replayers: dict[tuple[tuple[str, str], ...], Replayer] = {}
        self._kept: OrderedDict[Program, _Applied] = OrderedDict()
        self._last: tuple[Program, Replay, Any] | None = None  # what was replayed, and what holds its statements
        self._plain = self._sketches.make({})
        self.start = self._find_start()
        if self.start.is_untuned:
            raise UsageError(f"there is nothing to tune: no rule for `{self.target.kind.name}` changes this kernel")

    # -- what a program leaves open -----------------------------------------------------------------------------

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns the program's decisions with their domains and values, structure first.

        The domain of a location depends on the other decisions and is asked of TVM. The untuned program has
        the table of the start program, from which its edits are counted.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        program = self.start if program.is_untuned else program
        applied = self._kept.get(program)
        if applied is None or applied.table is None:
            table = self._table_of(self._sketch_of(program), self._replay(program, with_locations=True))
            if applied is None:
                return table
            applied.table = table
        return applied.table

    def sample(self, seed: int) -> Program:
        """Returns a program drawn as MetaSchedule draws one: every structure choice and decision at random.

        Where the postprocessors refuse everything drawn, as they may on a GPU, it is the start program.
        """
        rng = np.random.default_rng(seed)
        wanted: dict[str, str] = {}
        sketch = self._sketches.make(wanted)
        while open_sites := [(s, d) for s, d in sketch.alternatives if s not in wanted]:  # a choice may open others
            wanted |= {site: str(rng.choice(domain.values)) for site, domain in open_sites}
            sketch = self._sketches.make(wanted)
        for _ in range(_MAX_DRAWS):
            draw = int(rng.integers(1, 2**30))
            try:
                with self._survived(Risk(None, seed=draw)):
                    replay = self._replayer(sketch).draw(draw)
                    program = _program(sketch, replay)
                    self._finish(program, replay.schedule)
            except IllegalProgramError:
                continue
            return program
        return self.start

    # -- from program to program --------------------------------------------------------------------------------

    def edit(self, program: Program, transformation: Transformation) -> Program:
        """Returns the program that a transformation leads to, in canonical form.

        What the transformation does not name is carried over where the new structure has a decision of that
        name and its domain still holds the value. So are the primitives of the program that still can be applied;
        those of the transformation come after them. Edits of the untuned program count from the start program.

        Raises:
            IllegalProgramError: a name is unknown or given twice, a value is outside its domain, a primitive does not
                fit, or the schedule is refused.
        """
        base = self.start if program.is_untuned else program
        edits = edits_of(transformation)
        sketch = self._sketches.make(_only_text({**dict(base.structure), **edits}))
        _check_structure(sketch, edits)
        replayer = self._replayer(sketch)
        sites = {site for site, _ in sketch.structure}
        unknown = [name for name in edits if name not in sites and name not in replayer.kinds]
        if unknown:
            known = ", ".join(f"`{name}`" for name in (*sites, *replayer.kinds))
            raise IllegalProgramError(f"there is no decision `{unknown[0]}` here; there are {known}")
        wanted = {**base.values, **edits}
        with self._survived(Risk(base, tuple(edits.items()), primitives=transformation.primitives)):
            if not transformation.primitives and (known := self._known(sketch, wanted, base.primitives)):
                return known
            replay = replayer.take(wanted, strict=frozenset(edits) - sites) if edits else self._replay(base)
            schedule, kept = apply_what_fits(replay.schedule, base.primitives)
            if len(kept) + len(transformation.primitives) > MAX_PRIMITIVES:
                raise IllegalProgramError(
                    f"a program has at most {MAX_PRIMITIVES} primitives; {len(kept)} are there, "
                    f"and {len(transformation.primitives)} would follow"
                )
            primitives = (*kept, *apply_primitives(schedule, transformation.primitives))
            edited = replace(_program(sketch, replay), primitives=primitives)
            if edited not in self._kept:
                self._finish(edited, schedule)
        if replay.values.keys() <= replay.domains.keys():  # there are no locations
            self._kept[edited].table = self._table_of(sketch, replay)
        return edited

    def why_not(self, program: Program, transformation: Transformation) -> str | None:
        """Returns why the space refuses a transformation, or None if it is legal."""
        try:
            self.edit(program, transformation)
        except IllegalProgramError as error:
            return str(error)
        return None

    def schedule(self, program: Program) -> Any:
        """Returns the program's schedule (`tvm.s_tir.Schedule`), postprocessed and ready to be built.

        It is shared: take a copy to change it.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program.is_untuned:
            return self._unscheduled.copy()
        return self._applied(program).schedule

    def raw_schedule(self, program: Program) -> Any:
        """Returns the program's schedule before the postprocessors: loops are not yet fused or annotated.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program.is_untuned:
            return self._unscheduled.copy()
        schedule = self._replay(program).schedule
        with self._survived(Risk(program)):
            apply_primitives(schedule, program.primitives)
        return schedule

    def named_blocks(self, program: Program) -> tuple[NamedBlock, ...]:
        """Returns the blocks, loops and buffers that further primitives of a program may name.

        Those of the untuned program are the start program's, from which its edits are counted.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        return named_blocks(self.raw_schedule(self.start if program.is_untuned else program))

    def nests(self, program: Program) -> tuple[Nest, ...]:
        """Returns the program's loop nests after the postprocessors, as the analysis reads them.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program.is_untuned:
            return nests(self._unscheduled.mod)
        applied = self._applied(program)
        if applied.nests is None:
            with self._survived(Risk(program)):
                applied.nests = nests(applied.schedule.mod)
        return applied.nests

    @cached_property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        """The blocks that multi-level tiling splits, with their plain nests and tile decisions; CPU targets only.

        A block whose sums may stay in registers stands there a second time, see `TileGroup.needs`; one whose loops may
        be padded, for each way to do that again, as does one whose operand may be packed in each call; and one more
        time where an instruction of the target's takes it.
        """
        if self.target.kind.name != "llvm":
            return ()
        offered = self._plain.alternatives
        in_registers = {site: IN_REGISTERS for site, domain in offered if IN_REGISTERS in domain.values}
        by_instruction = {site: domain.values[-1] for site, domain in offered if site.endswith(f" {INSTRUCTION}")}
        contractions = ({}, in_registers) if in_registers else ({},)
        ways = [a | b | c for a, b, c in itertools.product(_paddings(offered), _packings(offered), contractions)]
        groups: list[TileGroup] = []
        for chosen in [*ways, by_instruction] if by_instruction else ways:
            words = dict.fromkeys(site.rpartition(" ")[2] for site in chosen)
            sketch = self._sketches.make(chosen)
            if not chosen.items() <= dict(sketch.structure).items():
                continue  # what one rule has copied for itself another one leaves alone
            for group in self._tile_groups_of(sketch):
                sites = [f"{group.block} {word}" for word in words]
                if all(site in chosen for site in sites):
                    groups.append(replace(group, needs=tuple((site, chosen[site]) for site in sites)))
        return tuple(groups)

    def _tile_groups_of(self, sketch: Sketch) -> tuple[TileGroup, ...]:
        """Returns the tile groups of a sketch; none where TVM cannot make its plainest program."""
        try:
            program = _program(sketch, self._replayer(sketch).take({}))
            raw, table = self.raw_schedule(program), self.table(program)
        except IllegalProgramError:
            return ()
        limits = raw.get(raw.get_sblock("root")).annotations  # what the rules leave for the postprocessors
        return tile_groups(
            nests(raw.mod),
            table,
            max_jobs=int(limits.get("meta_schedule.parallel", 1)),
            max_vector=int(limits.get("meta_schedule.vectorize", 1)),
            own={nest.block for nest in nests(self.mod)},
            packing={str(r.block.name_hint) for r, _ in blocks(raw.mod["main"].body) if PACKED in r.block.annotations},
        )

    def trace_json(self, program: Program) -> Any:
        """Returns the program's trace in MetaSchedule's own JSON form, as its databases keep it."""
        return self.raw_schedule(program).trace.as_json()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _applied(self, program: Program) -> _Applied:
        """Returns what is kept of a program, which is applied where nothing is."""
        if program not in self._kept:
            self._finish(program, self.raw_schedule(program))
        self._kept.move_to_end(program)
        return self._kept[program]

    def _known(self, sketch: Sketch, values: Mapping[str, Value], primitives: tuple[Primitive, ...]) -> Program | None:
        """Returns the program that takes all these values as they are, if it has been applied."""
        kinds = self._replayer(sketch).kinds
        if not kinds.keys() <= values.keys():
            return None
        program = Program(sketch.structure, tuple((name, values[name]) for name in kinds), primitives)
        try:
            applied = self._kept.get(program)
        except TypeError:  # a model may propose values of any kind, of which not all can be hashed
            return None
        # True equals 1, and is in no domain.
        return applied.program if applied and repr(applied.program.decisions) == repr(program.decisions) else None

    def _table_of(self, sketch: Sketch, replay: Replay) -> tuple[Decision, ...]:
        """Returns the decisions of a program that has been replayed with the domains of all of them."""
        structure = [
            Decision(site, "structure", domain, value)
            for (site, value), (_, domain) in zip(sketch.structure, sketch.alternatives, strict=True)
        ]
        kinds = self._replayer(sketch).kinds
        return (*structure, *(Decision(n, kinds[n], replay.domains[n], v) for n, v in replay.values.items()))

    def _find_start(self) -> Program:
        """Returns the plainest program, or a drawn one of its structure where the postprocessors refuse that."""
        replayer = self._replayer(self._plain)
        plainest = _program(self._plain, replayer.take({}))
        for draw in range(_MAX_DRAWS):
            try:
                replay = replayer.draw(draw) if draw else replayer.take({})
                start = _program(self._plain, replay)
                self._finish(start, replay.schedule)
            except IllegalProgramError:
                continue
            return start
        return plainest

    def _replayer(self, sketch: Sketch) -> Replayer:
        if sketch.structure not in self._replayers:
            self._replayers[sketch.structure] = Replayer(self._unscheduled, sketch)
        return self._replayers[sketch.structure]

    def _sketch_of(self, program: Program) -> Sketch:
        sketch = self._sketches.make(dict(program.structure))
        if sketch.structure != program.structure:
            raise IllegalProgramError("the program's structure does not belong to this workload and target")
        return sketch

    def _replay(self, program: Program, *, with_locations: bool = False) -> Replay:
        """Returns the sketch of a program with its values, its primitives left out."""
        program = replace(program, primitives=())
        if with_locations:
            return self._replay_anew(program, with_locations=True)
        if self._last is None or self._last[0] != program:
            replay = self._replay_anew(program)
            # Copies share statements, and TVM would change those that nobody else holds in all of them.
            self._last = program, replay, list(blocks(replay.schedule.mod["main"].body))
        replay = self._last[1]
        return replace(replay, schedule=replay.schedule.copy())

    def _replay_anew(self, program: Program, *, with_locations: bool = False) -> Replay:
        with self._survived(Risk(program)):
            replay = self._replayer(self._sketch_of(program)).take(program.values, with_locations=with_locations)
        if tuple(replay.values.items()) != program.decisions:
            names = [n for n, v in program.decisions if replay.values.get(n) != v]
            names = names or [n for n in replay.values if n not in program.values]
            raise IllegalProgramError(f"the program's values do not fit this workload: {', '.join(names)}")
        return replay

    @contextmanager
    def _survived(self, risk: Risk) -> Iterator[None]:
        """Notes what TVM is asked to do until the block's end; refuses what a process has ended over."""
        if self._fatal and risk.text in self._fatal:
            raise IllegalProgramError("TVM crashes when this is applied")
        with at_risk(risk):
            yield

    def _finish(self, program: Program, schedule: Any) -> None:
        """Postprocesses a program's schedule and keeps it."""
        with self._survived(Risk(program)):
            mod = postprocess(schedule, self._sketches.postprocs).mod
            wrong = why_wrong(nests(mod)) if repeats_a_reduction(mod) else None
        if wrong is not None:
            raise IllegalProgramError(wrong)
        self._kept[program] = _Applied(program, schedule)
        if len(self._kept) > _KEPT_SCHEDULES:
            self._kept.popitem(last=False)


def _program(sketch: Sketch, replay: Replay) -> Program:
    return Program(sketch.structure, tuple(replay.values.items()))


def _paddings(offered: Sequence[tuple[str, ChoiceDomain]]) -> list[dict[str, str]]:
    """Returns alternatives for the sites that pad blocks, one for each: none, then the first of each, and so on."""
    ways = {site: domain.values[1:] for site, domain in offered if site.endswith(f" {PADDING}")}
    ranks = range(max(map(len, ways.values()), default=0))
    return [{}, *({site: str(each[rank]) for site, each in ways.items() if rank < len(each)} for rank in ranks)]


def _packings(offered: Sequence[tuple[str, ChoiceDomain]]) -> list[dict[str, str]]:
    """Returns alternatives for the sites that pack operands: none of them packed, then all."""
    sites = {site: str(domain.values[-1]) for site, domain in offered if site.endswith(f" {PACKING}")}
    return [{}, sites] if sites else [{}]


def _only_text(values: Mapping[str, Value]) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _check_structure(sketch: Sketch, edits: Mapping[str, Value]) -> None:
    for site, domain in sketch.alternatives:
        why = domain.why_not(edits[site]) if site in edits else None
        if why is not None:
            raise IllegalProgramError(f"`{site}` = {show(edits[site])} {why}")

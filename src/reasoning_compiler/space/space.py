"""The space: programs, the decisions that each leaves open, and how to turn one into a schedule."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from reasoning_compiler.codegen.pipeline import rewritten
from reasoning_compiler.codegen.postprocess import postprocess
from reasoning_compiler.core.crash_markers import CrashMarker, marked
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, Decision, Program, Transformation, Value
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.extract import nests
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.ir.walk import blocks
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.metaschedule import MetaSchedule
from reasoning_compiler.rules.rule import Kernel, Rule
from reasoning_compiler.space.free import add_primitives, apply_primitives
from reasoning_compiler.space.legality import why_wrong
from reasoning_compiler.space.named import NamedBlock, named_blocks
from reasoning_compiler.space.replay import Replay, Replayer, edits_of, show
from reasoning_compiler.space.sizings import find_sizings
from reasoning_compiler.space.sketch import Sketch, SketchGenerator

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
    structure choice and decision that its schedule takes, and no other. `start` is the plainest one; where no rule
    applies it is the untuned program, which leaves nothing open.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`, static shapes.
        target: the TVM target, of any kind that MetaSchedule has rules for.
        rules: made for this module and target, in order, see `rules.discovery`; None for MetaSchedule's own.
        fatal: what TVM has ended a process over; it is refused, and not tried again.

    Raises:
        UsageError: there are no rules for this kind of target.
    """

    takes_primitives = True

    def __init__(
        self, mod: Any, target: Any, *, rules: Sequence[Rule] | None = None, fatal: Collection[CrashMarker] = ()
    ) -> None:
        self._tvm = import_tvm()
        self._fatal = {marker.text for marker in fatal}
        self.target = self._tvm.target.Target(target)
        theirs = MetaSchedule(mod, self.target)
        self.mod, self._postprocs = theirs.mod, theirs.postprocs
        self._sketches = SketchGenerator(self.mod, theirs.rules(Kernel(mod, self.target)) if rules is None else rules)
        self._unscheduled = self._tvm.s_tir.Schedule(self.mod, debug_mask="none", error_render_level="fast")
        self._replayers: dict[tuple[tuple[str, str], ...], Replayer] = {}
        self._kept: OrderedDict[Program, _Applied] = OrderedDict()
        self._last: tuple[Program, Replay, Any] | None = None  # what was replayed, and what holds its statements
        self._plain = self._sketches.make({})
        self.start = self._find_start()

    # -- what a program leaves open -----------------------------------------------------------------------------

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns the program's decisions with their domains and values, structure first.

        The domain of a location depends on the other decisions and is asked of TVM. The untuned program has
        the table of the start program, from which its edits are counted.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        program = self.start if program.is_untuned else program
        if program.is_untuned:
            return ()
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
        while open_sites := [site for site in sketch.sites if site.name not in wanted]:  # a choice may open others
            wanted |= {site.name: str(rng.choice(site.domain.values)) for site in open_sites}  # type: ignore[union-attr]
            sketch = self._sketches.make(wanted)
        for _ in range(_MAX_DRAWS):
            draw = int(rng.integers(1, 2**30))
            try:
                with self._marked(CrashMarker(None, seed=draw)):
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
        chosen = {**dict(base.structure), **edits}
        sketch = self._sketches.make({name: value for name, value in chosen.items() if isinstance(value, str)})
        _check_structure(sketch, edits)
        replayer = self._replayer(sketch)
        sites = {site.name for site in sketch.sites}
        unknown = [name for name in edits if name not in sites and name not in replayer.names]
        if unknown:
            known = ", ".join(f"`{name}`" for name in (*sites, *replayer.names))
            raise IllegalProgramError(f"there is no decision `{unknown[0]}` here; there are {known}")
        wanted = {**base.values, **edits}
        with self._marked(CrashMarker(base, tuple(edits.items()), primitives=transformation.primitives)):
            if not transformation.primitives and (known := self._known(sketch, wanted, base.primitives)):
                return known
            replay = replayer.take(wanted, strict=frozenset(edits) - sites) if edits else self._replay(base)
            schedule, primitives = add_primitives(replay.schedule, base.primitives, transformation.primitives)
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
        with self._marked(CrashMarker(program)):
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
        """Returns the program's loop nests after the postprocessors and the code generator's first passes.

        So masked blocks are skipped there, and `exp` is arithmetic, as in the program's code.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program.is_untuned:
            return nests(self._unscheduled.mod)
        applied = self._applied(program)
        if applied.nests is None:
            with self._marked(CrashMarker(program)):
                applied.nests = nests(rewritten(applied.schedule.mod))
        return applied.nests

    @cached_property
    def sizings(self) -> tuple[Sizing, ...]:
        """The decisions that size blocks together, as the rules say; CPU targets only. See `sizings.find_sizings`."""
        return find_sizings(self._sketches, self._as_structure) if self.target.kind.name == "llvm" else ()

    @property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        """Those of them that are of one block, which multi-level tiling splits."""
        return tuple(sizing for sizing in self.sizings if isinstance(sizing, TileGroup))

    def _as_structure(self, sketch: Sketch) -> tuple[tuple[Decision, ...], Any] | None:
        """Returns table and schedule of a sketch's plainest program; None where TVM cannot make it."""
        try:
            program = _program(sketch, self._replayer(sketch).take({}))
            return self.table(program), self.raw_schedule(program)
        except IllegalProgramError:
            return None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _applied(self, program: Program) -> _Applied:
        """Returns what is kept of a program, which is applied where nothing is."""
        if program not in self._kept:
            self._finish(program, self.raw_schedule(program))
        self._kept.move_to_end(program)
        return self._kept[program]

    def _known(self, sketch: Sketch, values: Mapping[str, Value], primitives: tuple[Primitive, ...]) -> Program | None:
        """Returns the program that takes all these values as they are, if it has been applied."""
        names = self._replayer(sketch).names
        if not values.keys() >= set(names):
            return None
        program = Program(sketch.structure, tuple((name, values[name]) for name in names), primitives)
        try:
            applied = self._kept.get(program)
        except TypeError:  # a model may propose values of any kind, of which not all can be hashed
            return None
        # True equals 1, and is in no domain.
        return applied.program if applied and repr(applied.program.decisions) == repr(program.decisions) else None

    def _table_of(self, sketch: Sketch, replay: Replay) -> tuple[Decision, ...]:
        """Returns the decisions of a program that has been replayed with the domains of all of them."""
        return (*sketch.sites, *self._replayer(sketch).table(replay))

    def _find_start(self) -> Program:
        """Returns the plainest program, or a drawn one of its structure where the postprocessors refuse that.

        Where TVM cannot apply the structure at all, it is the untuned program.
        """
        try:
            replayer = self._replayer(self._plain)
            plainest = _program(self._plain, replayer.take({}))
        except IllegalProgramError:
            return UNTUNED
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
        with self._marked(CrashMarker(program)):
            replay = self._replayer(self._sketch_of(program)).take(program.values, with_locations=with_locations)
        if tuple(replay.values.items()) != program.decisions:
            names = [n for n, v in program.decisions if replay.values.get(n) != v]
            names = names or [n for n in replay.values if n not in program.values]
            raise IllegalProgramError(f"the program's values do not fit this workload: {', '.join(names)}")
        return replay

    @contextmanager
    def _marked(self, marker: CrashMarker) -> Iterator[None]:
        """Notes what TVM is asked to do until the block's end; refuses what a process has ended over."""
        if self._fatal and marker.text in self._fatal:
            raise IllegalProgramError("TVM crashes when this is applied")
        with marked(marker):
            yield

    def _finish(self, program: Program, schedule: Any) -> None:
        """Postprocesses a program's schedule and keeps it."""
        with self._marked(CrashMarker(program)):
            wrong = why_wrong(postprocess(schedule, self._postprocs).mod)
        if wrong is not None:
            raise IllegalProgramError(wrong)
        self._kept[program] = _Applied(program, schedule)
        if len(self._kept) > _KEPT_SCHEDULES:
            self._kept.popitem(last=False)


def _program(sketch: Sketch, replay: Replay) -> Program:
    return Program(sketch.structure, tuple(replay.values.items()))


def _check_structure(sketch: Sketch, edits: Mapping[str, Value]) -> None:
    for site in sketch.sites:
        why = site.domain.why_not(edits[site.name]) if site.name in edits else None
        if why is not None:
            raise IllegalProgramError(f"`{site.name}` = {show(edits[site.name])} {why}")

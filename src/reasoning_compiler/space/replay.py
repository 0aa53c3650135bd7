"""Replaying a sketch: each of its sampling instructions is a decision with a name, taken as wanted or drawn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.programs import (
    PREFETCH_BYTES,
    TILE,
    UNROLL,
    ChoiceDomain,
    Decision,
    DecisionKind,
    TileDomain,
    Transformation,
    Value,
    as_value,
)
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm, last_line
from reasoning_compiler.rules.rule import unique
from reasoning_compiler.space.placing import ROOT, is_location, legal_locations, meant, place
from reasoning_compiler.space.sketch import Sketch

_KINDS: dict[str, DecisionKind] = {"SampleCategorical": "choice", "SampleComputeLocation": "location"}
_METASCHEDULE_INNERMOST = 64
"""MetaSchedule's limit of innermost factors on CPUs: longer ones are no vectors, and legal. Our rules' limits hold."""
_ROLES = {
    "unroll_explicit": UNROLL,
    "unroll_implicit": UNROLL,
    "cooperative_fetch": "fetch vector",
    "prefetch": PREFETCH_BYTES,
}


class _Purpose(NamedTuple):
    """What a sampled value is for, see `Decision`."""

    block: str = ""
    loop: str = ""
    role: str = ""

    def __str__(self) -> str:
        where = ".".join(filter(None, (self.block, self.loop)))
        return " ".join(filter(None, (where, self.role)))


@dataclass(frozen=True)
class _Slot:
    """One sampling instruction of a sketch.

    Args:
        index: of the instruction in the trace.
        name: the decision's, unique in the sketch; empty where nothing uses the sample: then there is none.
        kind: the decision's.
        purpose: the decision's.
        rule: that has made the instruction.
        block: the trace's block that a location is for; None where other instructions than one `ComputeAt` use it.
        placement: the index of that instruction.
        choices: the domain of a choice, which depends on nothing.
    """

    index: int
    name: str
    kind: DecisionKind
    purpose: _Purpose
    rule: str
    block: Any = None
    placement: int = 0
    choices: ChoiceDomain | None = None

    def decision(self, domain: TileDomain | ChoiceDomain, value: Value) -> Decision:
        """Returns the decision with a domain and a value."""
        return Decision(self.name, self.kind, domain, value, *self.purpose[:2], self.rule, self.purpose.role)


@dataclass
class Replay:
    """A sketch with values for its decisions.

    Args:
        schedule: before the postprocessors.
        values: by decision name, in the trace's order, as TVM took them.
        domains: by decision name, without those of locations unless they were asked for.
        refused: why a value that had to be taken was not.
        asked: the locations that had to be taken, by decision name, as positions of loops.
    """

    schedule: Any  # tvm.s_tir.Schedule
    values: dict[str, Value] = field(default_factory=dict)
    domains: dict[str, TileDomain | ChoiceDomain] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    asked: dict[str, Value] = field(default_factory=dict)


@contextmanager
def _refused_by_tvm() -> Iterator[None]:
    try:
        yield
    except TVM_ERRORS as error:
        raise IllegalProgramError(f"the schedule cannot be applied: {last_line(error)}") from error


class Replayer:
    """Makes schedules of one sketch.

    Args:
        unscheduled: a schedule of the module, to which nothing was done yet; a copy costs a hundredth of a new one.
        sketch: whose trace is replayed.

    Attributes:
        names: of the decisions, in the trace's order.

    Raises:
        IllegalProgramError: the sketch cannot be applied as MetaSchedule made it.
    """

    def __init__(self, unscheduled: Any, sketch: Sketch) -> None:
        self._tvm = import_tvm()
        self._unscheduled = unscheduled
        self._trace, self._makers = sketch.trace, sketch.makers
        all_insts = list(sketch.trace.insts)
        self._slots = self._find_slots(all_insts)
        # Blocks are placed between the instructions, not by them.
        left_out = {index for slot in self._slots if slot.block is not None for index in (slot.index, slot.placement)}
        kept = [index for index in range(len(all_insts)) if index not in left_out]
        self._insts = [all_insts[index] for index in kept]
        by_index = {slot.index: slot for slot in self._slots}
        self._sampled = {position: by_index[index] for position, index in enumerate(kept) if index in by_index}
        self._due: dict[int, list[_Slot]] = {}
        for slot in self._slots:
            if slot.block is not None:
                position = slot.placement - sum(index < slot.placement for index in left_out)
                self._due.setdefault(position, []).append(slot)
        blocks = {slot.block for slot in self._slots if slot.block is not None}
        self._block_makers = {
            i for i, inst in enumerate(self._insts) if any(output in blocks for output in inst.outputs)
        }
        self.names = tuple(slot.name for slot in self._slots if slot.name)

    def table(self, replay: Replay) -> tuple[Decision, ...]:
        """Returns the decisions of a replay that knows the domains of all of them."""
        named = (slot for slot in self._slots if slot.name)
        return tuple(slot.decision(replay.domains[slot.name], replay.values[slot.name]) for slot in named)

    def draw(self, seed: int) -> Replay:
        """Returns the sketch with values as TVM draws them.

        Raises:
            IllegalProgramError: what TVM drew cannot be applied together.
        """
        replay = Replay(self._unscheduled.copy())
        replay.schedule.seed(seed)
        with _refused_by_tvm():
            self._tvm.s_tir.Trace(self._trace.insts, {}).apply_to_schedule(replay.schedule, remove_postproc=True)
        self._read_values(replay, {})
        return replay

    def take(
        self, wanted: Mapping[str, Value], *, strict: frozenset[str] = frozenset(), with_locations: bool = False
    ) -> Replay:
        """Returns the sketch with the wanted values.

        Args:
            wanted: values by decision name; a decision without one takes its plainest.
            strict: names whose values must be taken as they are. Any other value that does not fit gives way to the
                plainest one; a location gives way to the nearest legal one outside it.
            with_locations: find the domains of locations, too.

        Raises:
            IllegalProgramError: TVM refuses the schedule, or a strict value was not taken.
        """
        replay = self._take(wanted, strict, with_locations)
        for slot in self._slots:
            wish = replay.asked.get(slot.name, wanted.get(slot.name))
            if slot.kind == "location" and slot.name in strict and replay.values[slot.name] != wish:
                domain = self._take(wanted, frozenset(), True).domains[slot.name]
                replay.refused.append(f"`{slot.name}` = {show(wanted[slot.name])} is not {domain}")
        if replay.refused:
            raise IllegalProgramError("; ".join(replay.refused))
        return replay

    # -- inside ---------------------------------------------------------------------------------------------------

    def _take(self, wanted: Mapping[str, Value], strict: frozenset[str], with_locations: bool) -> Replay:
        schedule = self._unscheduled.copy()
        replay = Replay(schedule)
        blocks: dict[Any, Any] = {}  # the trace's blocks as this schedule knows them
        placed: dict[int, int] = {}
        positions = itertools.count()

        def settle(position: int) -> None:
            """Places the blocks whose turn it is before the instruction at that position."""
            if position - 1 in self._block_makers:
                blocks.update(zip(self._insts[position - 1].outputs, schedule.trace.insts[-1].outputs, strict=True))
            for slot in self._due.get(position, ()):
                block, wish = blocks[slot.block], wanted.get(slot.name)
                if slot.name in strict:
                    wish = replay.asked[slot.name] = meant(schedule, block, wish)
                if with_locations:
                    replay.domains[slot.name] = legal_locations(schedule, block)
                placed[slot.index] = place(schedule, block, wish if is_location(wish) else ROOT)

        def decide(inst: Any, inputs: Any, attrs: Any, decision: Any) -> Any:
            position = next(positions)
            settle(position)
            slot = self._sampled.get(position)
            if slot is None:
                return decision
            wish = wanted.get(slot.name)
            if slot.kind == "location":
                if with_locations:
                    replay.domains[slot.name] = legal_locations(schedule, inputs[0])
                return wish if is_location(wish) else ROOT
            domain = slot.choices or _tile_domain(schedule, inst.kind.name, inputs, attrs)
            replay.domains[slot.name] = domain
            why = domain.why_illegal(wish)
            if why is not None:
                if slot.name in strict:
                    replay.refused.append(f"`{slot.name}` = {show(wish)} {why}")
                wish = plainest(domain)
            return domain.values.index(wish) if isinstance(domain, ChoiceDomain) else list(wish)

        with _refused_by_tvm():
            trace = self._tvm.s_tir.Trace(self._insts, {})
            trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=decide)
            settle(next(positions))
        self._read_values(replay, placed)
        return replay

    def _read_values(self, replay: Replay, placed: Mapping[int, int]) -> None:
        trace = replay.schedule.trace
        decisions = trace.decisions
        samples = (inst for inst in trace.insts[:] if inst.kind.name.startswith("Sample"))
        for slot in self._slots:
            if slot.index in placed:
                replay.values[slot.name] = placed[slot.index]
                continue
            inst = next(samples)
            taken = decisions[inst]
            if not slot.name:
                continue
            if slot.kind == "choice":
                replay.values[slot.name] = int(inst.attrs[0][int(taken)])
            else:
                replay.values[slot.name] = int(taken) if slot.kind == "location" else tuple(map(int, taken))

    def _find_slots(self, insts: list[Any]) -> tuple[_Slot, ...]:
        """Returns the trace's sampling instructions with their names, for which the trace is applied once."""
        schedule = self._unscheduled.copy()
        purposes: dict[int, _Purpose] = {}
        kinds: dict[int, DecisionKind] = {}
        choices: dict[Any, int] = {}  # sampled value -> index of the instruction that sampled it
        bound = {inst.inputs[0] for inst in insts if inst.kind.name == "Bind"}
        positions = itertools.count()

        def look(inst: Any, inputs: Any, attrs: Any, decision: Any) -> Any:
            index, kind = next(positions), inst.kind.name
            for value in inst.inputs:
                sampled = choices.get(value) if isinstance(value, self._tvm.tirx.Var) else None
                if sampled is not None and not purposes[sampled].role:
                    purposes[sampled] = _purpose(schedule, inst, inputs, bound)
            if kind.startswith("Sample"):
                kinds[index] = _KINDS.get(kind, "tile")
                purposes[index] = _Purpose()
            if kind == "SampleCategorical":
                choices[inst.outputs[0]] = index
            elif kind == "SampleComputeLocation":
                purposes[index] = _Purpose(_block_name(schedule.get(inputs[0])), role="at")
            elif kind.startswith("Sample"):
                purposes[index] = _of_loop(schedule.get(inputs[0]), TILE)
            return decision

        with _refused_by_tvm():
            self._trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=look)
        slots: list[_Slot] = []
        for index, purpose in purposes.items():
            name = ""
            if purpose.role or self._is_used(index):
                name = unique(str(purpose) or "choice", [slot.name for slot in slots])
            is_choice = kinds[index] == "choice"
            domain = ChoiceDomain(tuple(int(c) for c in insts[index].attrs[0])) if is_choice else None
            placed = _placed_block(insts, index)
            slots.append(_Slot(index, name, kinds[index], purpose, self._makers[index], *placed, domain))
        return tuple(slots)

    def _is_used(self, index: int) -> bool:
        lines = [str(line) for line in self._trace.as_python()]
        output = re.escape(lines[index].partition(" = ")[0])
        return any(re.search(rf"\b{output}\b", line) for line in lines[index + 1 :])


def _placed_block(insts: list[Any], index: int) -> tuple[Any, int]:
    """Returns the block that a sampled location is for and the index of the `ComputeAt`; (None, 0) if not just that."""
    if insts[index].kind.name != "SampleComputeLocation":
        return None, 0
    location, block = insts[index].outputs[0], insts[index].inputs[0]
    users = [i for i, inst in enumerate(insts) if any(location.same_as(value) for value in inst.inputs)]
    return (block, users[0]) if len(users) == 1 and insts[users[0]].kind.name == "ComputeAt" else (None, 0)


# -- edits ---------------------------------------------------------------------------------------------------------


def edits_of(transformation: Transformation) -> dict[str, Value]:
    """Returns the new values by decision name. Raises IllegalProgramError where a name is given twice, or is none."""
    edits: dict[str, Value] = {}
    for name, value in transformation.edits:
        if not isinstance(name, str):
            raise IllegalProgramError(f"`{name!r}` is no decision's name")
        if name in edits:
            raise IllegalProgramError(f"`{name}` is given twice; give it one value")
        edits[name] = as_value(value)
    return edits


# -- domains ------------------------------------------------------------------------------------------------------


def _tile_domain(schedule: Any, kind: str, inputs: Any, attrs: Any) -> TileDomain:
    look_up = type(schedule).get
    # Without TVM's check of the argument's type, which takes longer than the answer.
    extent = int(getattr(look_up, "__wrapped__", look_up)(schedule, inputs[0]).extent)
    if kind == "SamplePerfectTile":
        num, innermost = int(attrs[0]), int(attrs[1])
        limit = innermost if innermost > 0 else None
        return TileDomain(extent, num, limit, wider_is_legal=innermost == _METASCHEDULE_INNERMOST)
    num, position, multiple = (int(a) for a in attrs[:3])
    return TileDomain(extent, num, None, multiple, position)


def plainest(domain: TileDomain | ChoiceDomain) -> Any:
    """Returns the first choice, or a loop left whole as far as its domain lets it."""
    if isinstance(domain, ChoiceDomain):
        return domain.values[0]
    inner = [1] * (domain.num_factors - 1)
    if domain.inner_multiple > 1 and domain.inner_from > 0:
        inner[domain.inner_from - 1] = domain.inner_multiple
        return (domain.extent // domain.inner_multiple, *inner)
    return (domain.extent, *inner)


# -- what decisions are for ----------------------------------------------------------------------------------------


def _purpose(schedule: Any, inst: Any, inputs: Any, bound: set[Any]) -> _Purpose:
    """Returns what an instruction makes of a sampled value: an annotation, or a loop's split."""
    kind = inst.kind.name
    if kind == "Annotate":
        key = str(inst.attrs[0]).removeprefix("meta_schedule.").removeprefix("reasoning_compiler.")
        role = _ROLES.get(key, key.replace("_", " "))
        target = schedule.get(inputs[0])
        if hasattr(target, "loop_var"):
            return _of_loop(target, role)
        return _Purpose("" if target.name_hint == "root" else _block_name(target), role=role)
    if kind == "Split":
        loop = schedule.get(inputs[0])
        if any(output in bound for output in inst.outputs):
            return _Purpose(_block_name(_first_block(loop)), role="threads")
        return _of_loop(loop, "factor")
    return _Purpose()


def _of_loop(loop: Any, role: str) -> _Purpose:
    return _Purpose(_block_name(_first_block(loop)), str(loop.loop_var.name), role)


def _block_name(block: Any) -> str:
    name = str(block.name_hint)
    # A tensor intrinsic's loops go into a block of their own, around which TVM puts one with this suffix.
    return name.removesuffix("_o") if "meta_schedule.auto_tensorize" in block.annotations else name


def _first_block(stmt: Any) -> Any:
    """Returns the first block inside a loop."""
    while not hasattr(stmt, "block"):
        stmt = stmt.seq[0] if hasattr(stmt, "seq") else stmt.then_case if hasattr(stmt, "then_case") else stmt.body
    return stmt.block


def show(value: Value) -> str:
    """Returns a value as people and language models write it."""
    return str(list(value)) if isinstance(value, tuple) else repr(value)

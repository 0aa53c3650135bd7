"""The space: programs, the decisions that each leaves open, and how to turn one into a schedule."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reasoning_compiler.errors import IllegalProgramError, UsageError
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.records import (
    UNTUNED,
    ChoiceDomain,
    Decision,
    Program,
    TileDomain,
    Transformation,
    Value,
)
from reasoning_compiler.space.extract import nests
from reasoning_compiler.space.legality import why_wrong
from reasoning_compiler.space.nest import Nest
from reasoning_compiler.space.sketch import Sketch, SketchGenerator
from reasoning_compiler.space.tiling import TileGroup, tile_groups

_ROOT, _INLINE = -1, -2  # MetaSchedule's compute locations that are no loop
_KEPT_SCHEDULES = 512


class Space:
    """All programs that MetaSchedule's rules span for one module and target, as decisions with names.

    Programs are plain records; a schedule is made by replaying the sketch's trace with the program's values
    (a few milliseconds) and running the target's postprocessors on it.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`, static shapes.
        target: the TVM target, of any kind that MetaSchedule has rules for.
        rules: MetaSchedule schedule rules; None for the target's own.

    Raises:
        UsageError: there is nothing to decide about this module.
    """

    def __init__(self, mod: Any, target: Any, *, rules: list[Any] | None = None) -> None:
        self._tvm = import_tvm()
        self.target = target
        self._sketches = SketchGenerator(mod, target, rules=rules)
        self.mod = self._sketches.mod
        self._names: dict[tuple[tuple[str, str], ...], list[str]] = {}
        self._kept: OrderedDict[Program, Any] = OrderedDict()
        start = self._sketches.make({})
        self.start, _ = self._canonical(start, {}, strict=frozenset())
        if not self.start.decisions and not self.start.structure:
            raise UsageError(f"there is nothing to tune for target `{target.kind.name}`: no loop is left to decide about")

    # -- what a program leaves open -----------------------------------------------------------------------------

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns the program's decisions with their domains and values, structure first.

        The domain of a location depends on the other decisions and is asked of TVM. The untuned program has
        the table of the start program, from which its edits are counted.
        """
        program = self.start if program.is_untuned else program
        sketch = self._sketches.make(dict(program.structure))
        structure = [
            Decision(site, "structure", domain, value)
            for (site, value), (_, domain) in zip(sketch.structure, sketch.alternatives, strict=True)
        ]
        replay = self._replay(sketch, program.values, strict=frozenset(), with_locations=True)
        return (*structure, *replay.decisions)

    def sample(self, seed: int) -> Program:
        """Returns a program drawn as MetaSchedule draws one: every structure choice and decision at random."""
        import numpy as np

        rng = np.random.default_rng(seed)
        wanted: dict[str, str] = {}
        sketch = self._sketches.make(wanted)
        for _ in range(64):  # a choice may open further sites
            open_sites = [(s, d) for s, d in sketch.alternatives if s not in wanted]
            if not open_sites:
                break
            wanted |= {site: str(rng.choice(domain.values)) for site, domain in open_sites}
            sketch = self._sketches.make(wanted)
        for _ in range(32):
            program, _ = self._canonical(sketch, None, strict=frozenset(), seed=int(rng.integers(1, 2**30)))
            try:
                self.schedule(program)
            except IllegalProgramError:
                continue
            return program
        return self.start

    # -- from program to program --------------------------------------------------------------------------------

    def edit(self, program: Program, transformation: Transformation) -> Program:
        """Returns the program that a transformation leads to, in canonical form.

        What the transformation does not name is carried over where the new structure has a decision of that
        name and its domain still holds the value. Edits of the untuned program count from the start program.

        Raises:
            IllegalProgramError: a name is unknown, a value is outside its domain, or the schedule is refused.
        """
        base = self.start if program.is_untuned else program
        edits = dict(transformation.edits)
        structure = self._edited_structure(base, edits)
        sketch = self._sketches.make(structure)
        for site, value in sketch.structure:
            if site in edits and edits[site] != value:
                raise IllegalProgramError(f"`{site}` cannot be {edits[site]!r} together with the other structure choices")
        sites = {site for site, _ in sketch.structure}
        wanted = {n: v for n, v in (base.values | edits).items() if n not in sites}
        strict = frozenset(edits) - sites - set(structure)
        edited, schedule = self._canonical(sketch, wanted, strict=strict)
        self._keep(edited, self._postprocess(schedule))
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

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program in self._kept:
            self._kept.move_to_end(program)
            return self._kept[program]
        if program.is_untuned:
            return self._tvm.s_tir.Schedule(self.mod)
        return self._keep(program, self._postprocess(self.raw_schedule(program)))

    def raw_schedule(self, program: Program) -> Any:
        """Returns the program's schedule before the postprocessors: loops are not yet fused or annotated.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        if program.is_untuned:
            return self._tvm.s_tir.Schedule(self.mod)
        sketch = self._sketches.make(dict(program.structure))
        if sketch.structure != program.structure:
            raise IllegalProgramError("the program's structure does not belong to this workload and target")
        canonical, schedule = self._canonical(sketch, program.values, strict=frozenset())
        if canonical != program:
            names = [n for n, v in program.decisions if canonical.values.get(n) != v]
            raise IllegalProgramError(f"the program's values do not fit this workload: {', '.join(names) or 'decisions'}")
        return schedule

    def nests(self, program: Program) -> tuple[Nest, ...]:
        """Returns the program's loop nests after the postprocessors, as the analysis reads them.

        Raises:
            IllegalProgramError: it cannot be applied to this module.
        """
        return nests(self.schedule(program).mod)

    @cached_property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        """The blocks that multi-level tiling splits, with their plain nests and tile decisions; CPU targets only."""
        if self.target.kind.name != "llvm":
            return ()
        jobs = 16 * int(self.target.attrs.get("num-cores", 1))  # MetaSchedule's jobs per core
        raw = nests(self.raw_schedule(self.start).mod)
        return tile_groups(raw, self.table(self.start), max_jobs=jobs, max_vector=64)

    def trace_json(self, program: Program) -> Any:
        """Returns the program's trace in MetaSchedule's own JSON form, as its databases keep it."""
        return self.raw_schedule(program).trace.as_json()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _edited_structure(self, base: Program, edits: Mapping[str, Value]) -> dict[str, str]:
        wanted: dict[str, str] = dict(base.structure)
        domains = dict(self._sketches.make(wanted).alternatives)
        for name, value in edits.items():
            if name in domains:
                why = domains[name].why_not(value)
                if why:
                    raise IllegalProgramError(f"`{name}` = {_show(value)} {why}")
                wanted[name] = str(value)
        opened = dict(self._sketches.make(wanted).alternatives)
        wanted |= {n: str(v) for n, v in edits.items() if n in opened and opened[n].why_not(v) is None}
        return wanted

    def _canonical(
        self, sketch: Sketch, wanted: Mapping[str, Value] | None, *, strict: frozenset[str], seed: int = 1
    ) -> tuple[Program, Any]:
        replay = self._replay(sketch, wanted, strict=strict, seed=seed)
        unknown = strict - {d.name for d in replay.decisions}
        if unknown:
            known = ", ".join(f"`{name}`" for name in [s for s, _ in sketch.structure] + [d.name for d in replay.decisions])
            raise IllegalProgramError(f"there is no decision `{sorted(unknown)[0]}`; there are {known}")
        program = Program(sketch.structure, tuple((d.name, d.value) for d in replay.decisions))
        return program, replay.schedule

    def _replay(
        self,
        sketch: Sketch,
        wanted: Mapping[str, Value] | None,
        *,
        strict: frozenset[str],
        with_locations: bool = False,
        seed: int = 1,
    ) -> _Replay:
        """Returns the schedule of a sketch with the wanted values, and its decisions as they were taken.

        Args:
            sketch: whose trace is replayed.
            wanted: values by decision name; a decision without one takes its default. None draws all at random.
            strict: names whose value must be taken as it is; others that do not fit take their default.
            with_locations: ask TVM for the legal locations too, which costs a copy of the schedule each.
            seed: of TVM's own sampling, where `wanted` is None.
        """
        schedule = self._tvm.s_tir.Schedule(self.mod, seed=seed, debug_mask="none", error_render_level="none")
        names = self._slot_names(sketch)
        replay = _Replay(schedule)

        def decide(inst: Any, inputs: Any, attrs: Any, decision: Any) -> Any:
            if not inst.kind.name.startswith("Sample"):
                return decision
            slot = _Slot(schedule, inst.kind.name, inputs, attrs)
            name = names[len(replay.decisions)]
            domain = slot.domain(with_locations)
            if wanted is None:
                value = slot.draw()
            elif name in wanted and (domain.why_not(wanted[name]) is None or (slot.is_location and not with_locations)):
                value = wanted[name]
            elif name in strict:
                replay.errors.append(f"`{name}` = {_show(wanted[name])} {domain.why_not(wanted[name])}")
                value = slot.default(domain)
            else:
                value = slot.default(domain)
            replay.decisions.append(Decision(name, slot.decision_kind, domain, value))
            return slot.to_tvm(domain, value)

        try:
            sketch.trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=decide)
        except (self._tvm.s_tir.ScheduleError, self._tvm.error.InternalError, ValueError) as error:
            raise IllegalProgramError(f"the schedule cannot be applied: {_last_line(error)}") from error
        self._adopt_locations(replay, wanted or {}, strict)
        if replay.errors:
            raise IllegalProgramError("; ".join(replay.errors))
        return replay

    def _adopt_locations(self, replay: _Replay, wanted: Mapping[str, Value], strict: frozenset[str]) -> None:
        """Takes over the locations that TVM chose: the nearest legal one outside the wanted one."""
        if all(d.kind != "location" for d in replay.decisions):
            return
        taken = [int(v) for i, v in _sampled(replay.schedule.trace) if i.kind.name == "SampleComputeLocation"]
        for index, decision in enumerate(replay.decisions):
            if decision.kind == "location":
                actual = taken.pop(0)
                if decision.name in strict and wanted[decision.name] != actual:
                    replay.errors.append(
                        f"`{decision.name}` = {_show(wanted[decision.name])} is no legal location here; the nearest is {actual}"
                    )
                replay.decisions[index] = Decision(decision.name, "location", decision.domain, actual)

    def _slot_names(self, sketch: Sketch) -> list[str]:
        if sketch.structure not in self._names:
            self._names[sketch.structure] = _decision_names(self._tvm, self.mod, sketch)
        return self._names[sketch.structure]

    def _postprocess(self, schedule: Any) -> Any:
        for postproc in self._sketches.postprocs:
            try:
                accepted = postproc.apply(schedule)
            except (self._tvm.s_tir.ScheduleError, self._tvm.error.InternalError, ValueError) as error:
                raise IllegalProgramError(f"{type(postproc).__name__} failed: {_last_line(error)}") from error
            if not accepted:
                raise IllegalProgramError(f"{type(postproc).__name__} refuses the schedule for this target")
        wrong = why_wrong(nests(schedule.mod))
        if wrong:
            raise IllegalProgramError(wrong)
        return schedule

    def _keep(self, program: Program, schedule: Any) -> Any:
        self._kept[program] = schedule
        if len(self._kept) > _KEPT_SCHEDULES:
            self._kept.popitem(last=False)
        return schedule


@dataclass
class _Replay:
    schedule: Any
    decisions: list[Decision] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class _Slot:
    """One sampling instruction at the moment at which its trace is replayed on `schedule`."""

    def __init__(self, schedule: Any, kind: str, inputs: Any, attrs: Any) -> None:
        self._schedule, self._kind, self._inputs, self._attrs = schedule, kind, inputs, attrs
        self.is_location = kind == "SampleComputeLocation"

    @property
    def decision_kind(self) -> str:
        return {"SampleCategorical": "choice", "SampleComputeLocation": "location"}.get(self._kind, "tile")

    def domain(self, with_locations: bool) -> TileDomain | ChoiceDomain:
        if self._kind == "SampleCategorical":
            return ChoiceDomain(tuple(int(c) for c in self._attrs[0]))
        if self.is_location:
            return self._locations() if with_locations else ChoiceDomain((_ROOT,), ("root",))
        extent = int(self._schedule.get(self._inputs[0]).extent)
        if self._kind == "SamplePerfectTile":
            num, innermost = int(self._attrs[0]), int(self._attrs[1])
            return TileDomain(extent, num, innermost if innermost > 0 else None)
        num, position, multiple = (int(a) for a in self._attrs[:3])
        return TileDomain(extent, num, None, multiple, position)

    def draw(self) -> Value:
        """Returns what TVM's own sampler draws here."""
        if self._kind == "SampleCategorical":
            probe = self._schedule.sample_categorical(list(self._attrs[0]), [float(p) for p in self._attrs[1]])
            value = int(self._schedule.get(probe))
            self._schedule.trace.pop()
            return value
        probe = self._schedule.copy()
        if self.is_location:
            probe.sample_compute_location(self._inputs[0])
            return int(_last_decision(probe))
        if self._kind == "SamplePerfectTile":
            factors = probe.sample_perfect_tile(self._inputs[0], int(self._attrs[0]), int(self._attrs[1]))
        else:
            factors = probe.sample_partitioned_tile(self._inputs[0], *(int(a) for a in self._attrs[:3]))
        return tuple(int(probe.get(f)) for f in factors)

    def default(self, domain: TileDomain | ChoiceDomain) -> Value:
        """Returns the plainest value: a loop left whole, nothing unrolled, computed at the root."""
        if isinstance(domain, ChoiceDomain):
            return _ROOT if self.is_location else domain.values[0]
        inner = [1] * (domain.num_factors - 1)
        if domain.inner_multiple > 1 and domain.inner_from > 0:
            inner[domain.inner_from - 1] = domain.inner_multiple
            return (domain.extent // domain.inner_multiple, *inner)
        return (domain.extent, *inner)

    def to_tvm(self, domain: TileDomain | ChoiceDomain, value: Value) -> Any:
        if isinstance(domain, TileDomain):
            return list(value)
        return value if self.is_location else domain.values.index(value)

    def _locations(self) -> ChoiceDomain:
        """Returns the legal compute locations, by trying each: TVM answers with the nearest legal one."""
        probe = self._schedule.copy()
        block = self._inputs[0]
        loops: list[str] = []
        for consumer in probe.get_consumers(block)[:1]:
            loops = [str(probe.get(loop).loop_var.name) for loop in probe.get_loops(consumer)]
        values, labels = [], []
        for location in range(_INLINE, len(loops)):
            probe.sample_compute_location(block, decision=location)
            if int(_last_decision(probe)) == location:
                values.append(location)
                labels.append({_ROOT: "root", _INLINE: "inlined"}.get(location) or f"in loop {loops[location]}")
        return ChoiceDomain(tuple(values or (_ROOT,)), tuple(labels or ("root",)))


def _decision_names(tvm: Any, mod: Any, sketch: Sketch) -> list[str]:
    """Returns a readable, unique name for each sampling instruction of a sketch, in order."""
    schedule = tvm.s_tir.Schedule(mod, debug_mask="none")
    names: list[str] = []
    used_by = _consumers(sketch.trace)
    blocks_of_loops = _blocks_of_loops(sketch.trace)

    def name(inst: Any, inputs: Any, attrs: Any, decision: Any) -> Any:
        kind = inst.kind.name
        if kind == "SampleCategorical":
            text = used_by.get(inst.outputs[0], "choice")
        elif kind == "SampleComputeLocation":
            text = f"{schedule.get(inputs[0]).name_hint} at"
        elif kind.startswith("Sample"):
            loop = str(schedule.get(inputs[0]).loop_var.name)
            text = f"{blocks_of_loops.get(inst.inputs[0], 'block')}.{loop} tile"
        else:
            return decision
        number, unique = 2, text
        while unique in names:
            unique, number = f"{text} {number}", number + 1
        names.append(unique)
        return decision

    sketch.trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=name)
    return names


_ANNOTATION_WORDS = {"unroll_explicit": "unroll", "unroll_implicit": "unroll", "cooperative_fetch": "fetch vector"}


def _consumers(trace: Any) -> dict[Any, str]:
    """Returns for each sampled choice the words for what it sets: an annotation or a loop's split."""
    words: dict[Any, str] = {}
    blocks: dict[Any, str] = {}
    cached_from: dict[Any, str] = {}
    for inst in trace.insts:
        kind = inst.kind.name
        if kind == "GetSBlock":
            blocks[inst.outputs[0]] = str(inst.attrs[0])
        elif kind in ("CacheRead", "CacheWrite"):
            cached_from[inst.outputs[0]] = f"{blocks.get(inst.inputs[0], 'block')} operand {int(inst.attrs[0])}"
        elif kind == "Annotate":
            target, value = inst.inputs[0], inst.inputs[1]
            key = str(inst.attrs[0]).removeprefix("meta_schedule.")
            word = _ANNOTATION_WORDS.get(key, key.replace("_", " "))
            owner = cached_from.get(target)
            words[value] = f"{owner} {word}" if owner else word
        elif kind == "Split":
            for factor in list(inst.inputs)[1:]:
                words.setdefault(factor, "threads")
    return words


def _blocks_of_loops(trace: Any) -> dict[Any, str]:
    """Returns the name of the block that each loop of a trace was taken from."""
    blocks: dict[Any, str] = {}
    loops: dict[Any, str] = {}
    for inst in trace.insts:
        kind = inst.kind.name
        if kind == "GetSBlock":
            blocks[inst.outputs[0]] = str(inst.attrs[0])
        elif kind == "GetLoops":
            loops.update({loop: blocks.get(inst.inputs[0], "block") for loop in inst.outputs})
        elif kind in ("Fuse", "Split"):
            owner = next((loops[x] for x in inst.inputs if x in loops), "block")
            loops.update({loop: owner for loop in inst.outputs})
        elif kind in ("CacheRead", "CacheWrite", "RFactor"):
            source = blocks.get(inst.inputs[0]) or loops.get(inst.inputs[0], "block")
            blocks[inst.outputs[0]] = source + ("_rf" if kind == "RFactor" else "_cached")
    return loops


def _sampled(trace: Any) -> list[tuple[Any, Any]]:
    decisions = trace.decisions
    return [(inst, decisions[inst]) for inst in trace.insts if inst.kind.name.startswith("Sample")]


def _last_decision(schedule: Any) -> Any:
    trace = schedule.trace
    return trace.get_decision(trace.insts[-1])


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("Error message:"):
            return line.removeprefix("Error message:").strip()[:300]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _show(value: Value) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)


Edit = Callable[[Program, Transformation], Program]
"""The type of `Space.edit`."""

__all__ = ["UNTUNED", "Space"]

"""A tabular benchmark: all programs of a small space, each measured once. Searches run on it without hardware.

The space is a restricted one: fewer levels of tiles, and perhaps some decisions fixed, so that all its programs could
be tried. What a search proposes inside of it has an exact answer; what lies outside, or what TVM refused when it was
recorded, is refused as illegal. Nothing is interpolated. Knows no TVM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import Decision, Program, Transformation, Value
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.proposer.random import draw
from reasoning_compiler.space.named import NamedBlock
from reasoning_compiler.space.replay import edits_of, plainest, show

_MAX_DRAWS = 64
_OUTSIDE = "it lies outside of what was recorded"

Structure = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RecordedWorkload:
    """What a search needs to know of the kernel that was recorded; see `Workload`."""

    name: str
    spec: str
    key: str
    flops: float
    bytes: float
    arguments: tuple[Argument, ...]
    script: str

    reference = True  # what was recorded has been verified

    @property
    def mod(self) -> Mapping[str, Any]:
        """The module as far as prompts need it: its text."""
        return {"main": _Text(self.script)}


@dataclass(frozen=True)
class _Text:
    text: str

    def script(self) -> str:
        return self.text


@dataclass(frozen=True)
class Entry:
    """What is known of one program.

    Args:
        program: with all its decisions, the fixed ones too.
        measurement: its latencies, or why it has none: `illegal` where TVM refused it.
        nests: returns its loop nests; none where it is illegal.
    """

    program: Program
    measurement: Measurement
    nests: Callable[[], tuple[Nest, ...]]

    @property
    def is_legal(self) -> bool:
        return self.measurement.failure is None or self.measurement.failure.kind != "illegal"


@dataclass(frozen=True)
class _Scheduled:
    """Stands for a schedule: the program itself is what the recorded instrument looks up."""

    mod: Program
    trace: None = None


@dataclass
class TabularBenchmark:
    """A space whose programs have all been measured.

    Args:
        workload: the kernel.
        machine: what it was measured on, with as many cores as programs had threads.
        fingerprint: of that environment.
        tiling: the tiling structure of the space, as "SRRS".
        start: the plainest program.
        tables: for each structure, its decisions with the values of its first program; the fixed ones not among them.
        tile_groups: see `Space.tile_groups`; those with fixed decisions are left out.
        untuned: the untuned program's measurement.
        entries: by program.
        about: command, date and versions of the recording.
    """

    workload: RecordedWorkload
    machine: Machine
    fingerprint: dict[str, Any]
    tiling: str
    start: Program
    tables: dict[Structure, tuple[Decision, ...]]
    tile_groups: tuple[TileGroup, ...]
    untuned: Measurement
    entries: dict[Program, Entry]
    about: dict[str, Any] = field(default_factory=dict)

    takes_primitives = False

    @property
    def sizings(self) -> tuple[Sizing, ...]:
        """See `Space.sizings`."""
        return self.tile_groups

    # -- as a space -------------------------------------------------------------------------------------------------

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns a program's decisions, structure first, the fixed ones left out; see `Space.table`."""
        program = self.start if program.is_untuned else program
        values = program.values
        return tuple(replace(d, value=values[d.name]) for d in self.tables[program.structure])

    def edit(self, program: Program, transformation: Transformation) -> Program:
        """Returns the program that a transformation leads to; see `Space.edit`.

        Raises:
            IllegalProgramError: a name is unknown, fixed or given twice, a value is outside its domain, or the program
                was not recorded, or was refused when it was.
        """
        if transformation.primitives:
            raise IllegalProgramError(
                f"a recording has the decisions of its space alone; {transformation.primitives[0]} needs hardware"
            )
        base = self.start if program.is_untuned else program
        edits = edits_of(transformation)
        structure = self._structure(base, edits)
        open_ = {decision.name: decision for decision in self.tables[structure]}
        fixed = dict(structure) | dict(self._plain[structure])
        for name, value in edits.items():
            if name not in open_:
                if fixed.get(name) == value:
                    continue
                known = ", ".join(f"`{n}`" for n in open_)
                raise IllegalProgramError(f"there is no open decision `{name}` in this recording; there are {known}")
            why = open_[name].domain.why_not(value)
            if why is not None:
                raise IllegalProgramError(f"`{name}` = {show(value)} {why}")
        wanted = {**base.values, **edits}
        edited = Program(structure, tuple((n, self._value(open_, n, v, wanted)) for n, v in self._plain[structure]))
        return self._legal(edited).program

    def why_not(self, program: Program, transformation: Transformation) -> str | None:
        """Returns why a transformation is refused, or None if it is legal."""
        try:
            self.edit(program, transformation)
        except IllegalProgramError as error:
            return str(error)
        return None

    def sample(self, seed: int) -> Program:
        """Returns a program drawn at random: structure first, then every decision, as `Space.sample` draws them."""
        rng = np.random.default_rng(seed)
        structures = list(self.tables)
        structure = structures[int(rng.integers(len(structures)))]
        for _ in range(_MAX_DRAWS):
            drawn = {d.name: draw(d.domain, rng) for d in self.tables[structure] if d.kind != "structure"}
            program = Program(
                structure, tuple((name, drawn.get(name, value)) for name, value in self._plain[structure])
            )
            entry = self.entries.get(program)
            if entry is not None and entry.is_legal:
                return program
        return self.start

    def nests(self, program: Program) -> tuple[Nest, ...]:
        """Returns a program's loop nests after the postprocessors. Raises IllegalProgramError as `edit`."""
        return self._legal(self.start if program.is_untuned else program).nests()

    def named_blocks(self, program: Program) -> tuple[NamedBlock, ...]:
        """Returns nothing: no primitive can be measured on a recording."""
        return ()

    def schedule(self, program: Program) -> Any:
        """Returns what stands for a schedule here: its `mod` is the program."""
        return _Scheduled(program)

    # -- what was measured --------------------------------------------------------------------------------------------

    def measurement(self, program: Program) -> Measurement:
        """Returns what the hardware said of a program. Raises IllegalProgramError where it was not asked."""
        return self.untuned if program.is_untuned else self._legal(program).measurement

    @property
    def measured(self) -> list[Entry]:
        """The programs with a latency, in the order of recording."""
        return [entry for entry in self.entries.values() if entry.measurement.ok]

    # -- inside -------------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        self._plain: dict[Structure, tuple[tuple[str, Value], ...]] = {}
        for program in self.entries:
            self._plain.setdefault(program.structure, program.decisions)

    def _structure(self, base: Program, edits: Mapping[str, Value]) -> Structure:
        """Returns the structure with the wanted alternatives; of several, the one nearest to the base's."""
        wanted = {**dict(base.structure), **edits}
        edited = {name for structure in self.tables for name, _ in structure if name in edits}
        fitting = [
            s for s in self.tables if all(dict(s).get(n) == edits[n] for n in edited) and edited <= dict(s).keys()
        ]
        if not fitting:
            raise IllegalProgramError(f"the structure is none of the {len(self.tables)} of this recording; {_OUTSIDE}")
        return max(fitting, key=lambda s: sum(wanted.get(name) == value for name, value in s))

    @staticmethod
    def _value(open_: Mapping[str, Decision], name: str, fixed: Value, wanted: Mapping[str, Value]) -> Value:
        if name not in open_:
            return fixed
        domain = open_[name].domain
        value = wanted.get(name)
        return value if domain.why_not(value) is None else plainest(domain)  # type: ignore[return-value]

    def _legal(self, program: Program) -> Entry:
        entry = self.entries.get(program)
        if entry is None:
            raise IllegalProgramError(f"the program is none of the {len(self.entries)} of this recording; {_OUTSIDE}")
        if not entry.is_legal:
            assert entry.measurement.failure is not None
            raise IllegalProgramError(entry.measurement.failure.message)
        return entry


def values_of(domain: Any) -> Sequence[Value]:
    """Returns all values of a domain, a tile's in ascending order of their first factors."""
    if hasattr(domain, "values"):
        return domain.values
    return [factors for factors in _factorings(domain.extent, domain.num_factors) if domain.why_not(factors) is None]


def _factorings(extent: int, num: int) -> list[tuple[int, ...]]:
    if num == 1:
        return [(extent,)]
    return [(f, *rest) for f in range(1, extent + 1) if extent % f == 0 for rest in _factorings(extent // f, num - 1)]

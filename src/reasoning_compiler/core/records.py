"""The records that everything passes around: small, immutable, comparable, and JSON both ways.

No room owns them and they import nothing of TVM, so the search, the journal and the report can be read, tested and
run without it. Units are in the names (`_secs`, `_bytes`); a failure is a value with a kind, never a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from reasoning_compiler.core.primitives import Primitive

Value = int | str | tuple[int, ...]
"""A decision's value: a tile's factors (outermost first), a choice, a loop position, or a structure's name."""

DecisionKind = Literal["structure", "tile", "choice", "location"]

FailureKind = Literal[
    "illegal",  # the schedule could not be applied
    "build",  # code generation or linking failed
    "crash",  # the process that ran it died, or the one that applied its schedule
    "timeout",  # it ran or built longer than allowed
    "wrong_result",  # it ran, and its output differs from the reference
    "nonfinite",  # it ran, and its output holds NaN or Inf where the reference does not
    "device",  # the machine that should have measured it could not
]


# -- decisions and programs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TileDomain:
    """The ways to split a loop of `extent` iterations into `num_factors` nested loops, exactly.

    Args:
        extent: iterations of the loop, ≥ 1.
        num_factors: how many factors, ≥ 1; their product is the extent.
        max_innermost: the largest allowed last factor, where there is more than one; None for no limit.
        inner_multiple: the product of the factors from `inner_from` on must be a multiple of this.
        inner_from: see `inner_multiple`.
    """

    extent: int
    num_factors: int
    max_innermost: int | None = None
    inner_multiple: int = 1
    inner_from: int = 0

    def why_not(self, value: Any) -> str | None:
        """Returns why `value` lies outside the domain, or None if it lies inside."""
        if not isinstance(value, tuple | list) or not all(_is_int(f) for f in value):
            return f"is not a list of {self.num_factors} integers"
        if len(value) != self.num_factors:
            return f"has {len(value)} factors instead of {self.num_factors}"
        if any(f < 1 for f in value):
            return "has a factor below 1"
        if math.prod(value) != self.extent:
            return f"has the product {math.prod(value)} instead of {self.extent}"
        if self.max_innermost is not None and self.num_factors > 1 and value[-1] > self.max_innermost:
            return f"has an innermost factor above {self.max_innermost}"
        if math.prod(value[self.inner_from :]) % self.inner_multiple:
            return f"has inner factors that are no multiple of {self.inner_multiple}"
        return None

    def __str__(self) -> str:
        text = f"{self.num_factors} factors, product {self.extent}"
        if self.max_innermost is not None and self.num_factors > 1:
            text += f", innermost ≤ {self.max_innermost}"
        if self.inner_multiple > 1:
            text += f", product of the last {self.num_factors - self.inner_from} a multiple of {self.inner_multiple}"
        return text


@dataclass(frozen=True)
class ChoiceDomain:
    """A finite set of values, each with a label for people (the value itself where no label is needed)."""

    values: tuple[int | str, ...]
    labels: tuple[str, ...] = ()

    def why_not(self, value: Any) -> str | None:
        """Returns why `value` lies outside the domain, or None if it lies inside."""
        if isinstance(value, bool) or not isinstance(value, int | str) or value not in self.values:
            return f"is not one of {', '.join(map(str, self.values))}"
        return None

    def label(self, value: Value) -> str:
        """Returns the words for one of the values."""
        return self.labels[self.values.index(value)] if self.labels else str(value)

    def __str__(self) -> str:
        if not self.labels:
            return "one of " + ", ".join(map(str, self.values))
        return "one of " + ", ".join(f"{v} ({w})" for v, w in zip(self.values, self.labels, strict=True))


@dataclass(frozen=True)
class Decision:
    """One open choice of a program: a name a person can read, its kind, its legal domain, its present value."""

    name: str
    kind: DecisionKind
    domain: TileDomain | ChoiceDomain
    value: Value


@dataclass(frozen=True)
class Program:
    """A point of the space: how each block is treated, a value for every open decision, and primitives after them.

    The first two are tuples of (name, value) pairs in the order in which the schedule takes the decisions. The program
    with nothing is the untuned one: the kernel as it was given. `key` identifies a program in journals.
    """

    structure: tuple[tuple[str, str], ...] = ()
    decisions: tuple[tuple[str, Value], ...] = ()
    primitives: tuple[Primitive, ...] = ()

    @property
    def is_untuned(self) -> bool:
        return not self.structure and not self.decisions and not self.primitives

    @cached_property
    def values(self) -> dict[str, Value]:
        """Every structure choice and decision by name."""
        return dict(self.structure) | dict(self.decisions)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, the same in every process."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {
            "structure": [[name, value] for name, value in self.structure],
            "decisions": [[n, list(v) if isinstance(v, tuple) else v] for n, v in self.decisions],
        } | primitives_json(self.primitives)

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Program:
        return cls(
            structure=tuple((str(n), str(v)) for n, v in obj["structure"]),
            decisions=tuple((str(n), as_value(v)) for n, v in obj["decisions"]),
            primitives=primitives_from_json(obj),
        )


UNTUNED = Program()


@dataclass(frozen=True)
class Transformation:
    """An edit from one program to another: new values for some of its decisions, by name, and further primitives.

    Args:
        edits: (name, value) pairs; a structure choice is edited like any other decision, and what the two sketches
            share is carried over.
        primitives: to be applied after those that the program has already.
        expectation: what the proposer expects of it, in words; may be empty.
        proposer: who proposed it, where that differs from the proposal's proposer (a fallback); else empty.
        reasoning: the reasoning behind it, where that differs from the proposal's; else empty.
    """

    edits: tuple[tuple[str, Value], ...]
    expectation: str = ""
    proposer: str = field(default="", compare=False)
    reasoning: str = field(default="", compare=False)
    primitives: tuple[Primitive, ...] = ()

    def to_json(self) -> dict[str, Any]:
        edits = [[n, list(v) if isinstance(v, tuple) else v] for n, v in self.edits]
        origin = {"proposer": self.proposer, "reasoning": self.reasoning}
        told = {"edits": edits, "expectation": self.expectation} | {k: v for k, v in origin.items() if v}
        return told | primitives_json(self.primitives)

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Transformation:
        return cls(
            edits=tuple((str(n), as_value(v)) for n, v in obj["edits"]),
            expectation=str(obj.get("expectation", "")),
            proposer=str(obj.get("proposer", "")),
            reasoning=str(obj.get("reasoning", "")),
            primitives=primitives_from_json(obj),
        )


def primitives_json(primitives: tuple[Primitive, ...]) -> dict[str, Any]:
    """Returns primitives as the field that records have for them; no field where there are none, as in old journals."""
    return {"primitives": [primitive.to_json() for primitive in primitives]} if primitives else {}


def primitives_from_json(obj: dict[str, Any]) -> tuple[Primitive, ...]:
    """Returns the primitives of a record's JSON form."""
    return tuple(Primitive.from_json(each) for each in obj.get("primitives", ()))


def difference(parent: Program, child: Program) -> tuple[tuple[str, Value | None, Value | None], ...]:
    """Returns what changed between two programs: (name, old, new), None where one of them has no such decision."""
    old, new = parent.values, child.values
    names = list(old) + [name for name in new if name not in old]
    return tuple((n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n))


def primitive_changes(parent: Program, child: Program) -> tuple[tuple[Primitive, ...], tuple[Primitive, ...]]:
    """Returns the primitives of `parent` that are not in `child`, and those of `child` that came after the others."""
    kept, left_out = 0, []
    for primitive in parent.primitives:
        if kept < len(child.primitives) and child.primitives[kept] == primitive:
            kept += 1
        else:
            left_out.append(primitive)
    return tuple(left_out), child.primitives[kept:]


@dataclass(frozen=True)
class Proposal:
    """What a proposer answers: its reasoning in words, and the transformations that follow from it, best first."""

    proposer: str
    reasoning: str
    transformations: tuple[Transformation, ...]


# -- measurements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Why a program has no latency."""

    kind: FailureKind
    message: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FailureKind):
            raise ValueError(f"`kind` is {self.kind!r}; allowed: {', '.join(get_args(FailureKind))}")


@dataclass(frozen=True)
class Measurement:
    """What the hardware said of a program: latencies or a failure, never both, never neither.

    Args:
        latencies_secs: the timed runs; the first is not a warm-up.
        failure: why there are none.
        cut: timing stopped early because the program had lost; the latency is then a rough one.
        verified: its output was compared with the workload's reference and agrees.
        build_secs: time to generate and link the code.
        run_secs: time in the runner, timed runs and verification included.
    """

    latencies_secs: tuple[float, ...] = ()
    failure: Failure | None = None
    cut: bool = False
    verified: bool = False
    build_secs: float = 0.0
    run_secs: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.latencies_secs) == (self.failure is not None):
            raise ValueError("a measurement holds either latencies or a failure")
        if self.failure is not None and (self.cut or self.verified):
            raise ValueError("a failure is neither cut nor verified")
        if any(not (math.isfinite(s) and s > 0) for s in self.latencies_secs):
            raise ValueError(f"`latencies_secs` must be finite and positive, not {self.latencies_secs}")

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def is_full(self) -> bool:
        """Whether its latency can be compared with others: it worked, and was timed in full."""
        return self.ok and not self.cut

    def is_faster_than(self, secs: float | None) -> bool:
        """Tells whether it was timed in full, and is faster than a latency in seconds; than none, any is."""
        return self.is_full and (secs is None or self.latency_secs < secs)

    @property
    def counts(self) -> bool:
        """Whether it may make a program the best: it was timed in full, and its output was verified."""
        return self.is_full and self.verified

    @property
    def latency_secs(self) -> float:
        """The median of the timed runs. Raises ValueError for a failure."""
        if self.failure is not None:
            raise ValueError(f"no latency: {self.failure.kind}: {self.failure.message}")
        return statistics.median(self.latencies_secs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"latencies_secs": list(self.latencies_secs)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Measurement:
        failure = Failure(**obj["failure"]) if obj.get("failure") else None
        return cls(**(obj | {"latencies_secs": tuple(obj["latencies_secs"]), "failure": failure}))


@dataclass(frozen=True)
class Comparison:
    """What timings of two programs, taken in turns, say of their difference.

    Args:
        verdict: of the first program, against the second.
        ratio: the first's latency over the second's.
        low, high: an interval that holds the true ratio with 99 % confidence.
        num_pairs: timings of each.
    """

    verdict: Literal["faster", "slower", "no difference"]
    ratio: float
    low: float
    high: float
    num_pairs: int


@dataclass(frozen=True)
class Noise:
    """How much timings vary where nothing differs, and so what a difference between two programs can mean.

    Args:
        same: one program timed in turns with itself.
        spread: half of what the middle half of these timings spans, over their median.
        drift: the best program so far, timed again during the run: its latency over the one it became the best with.
        left_out: input sets that nothing was verified on, because the untuned program is not right on them.
    """

    same: Comparison
    spread: float
    drift: tuple[float, ...] = ()
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"drift": list(self.drift), "left_out": list(self.left_out)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Noise:
        same = Comparison(**obj["same"])
        return cls(same, obj["spread"], tuple(obj["drift"]), tuple(obj["left_out"]))


# -- the machine and the workload's arguments ---------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What a program runs on. Peaks are measured on the probed machine and published figures on presets.

    Args:
        name: a preset's name, or the CPU's own.
        num_cores: physical cores that this process may use.
        isa: the vector instruction set, as "avx512", "avx2", "neon".
        vector_bytes: bytes of one vector register.
        num_vector_registers: architectural vector registers.
        fma_per_cycle: fused multiply-adds on full vectors per cycle and core.
        l1_bytes: first-level data cache of one core.
        l2_bytes: second-level cache of one core (its share, where cores share it).
        l3_bytes: last-level cache of the package; 0 where there is none.
        cache_line_bytes: usually 64.
        peak_flops: float32 FLOP/s of all cores together.
        bandwidth_bytes_per_sec: main memory, reading, all cores together.
        target: the TVM target as JSON text.
        measured: whether the two peaks were measured here.
        features: instruction-set extensions, sorted.
    """

    name: str
    num_cores: int
    isa: str
    vector_bytes: int
    num_vector_registers: int
    fma_per_cycle: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    cache_line_bytes: int
    peak_flops: float
    bandwidth_bytes_per_sec: float
    target: str
    measured: bool = False
    features: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"features": list(self.features)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Machine:
        return cls(**(obj | {"features": tuple(obj["features"])}))


@dataclass(frozen=True)
class Peak:
    """What a machine can do at best of one kind of work.

    Args:
        flops: operations per second of all cores together.
        instruction: that does it; "" where it is the multiply-add of float32.
    """

    flops: float
    instruction: str = ""


ArgumentRole = Literal["input", "weight", "output"]


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel; weights are constant and may be laid out ahead of time."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: ArgumentRole = "input"


# -- the tree, as the journal and the report see it ---------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One node of the tree as a proposer, the journal or the report sees it.

    Args:
        node: the node's number; 0 is the untuned program.
        parent: its parent's number; None for node 0.
        program: the program itself, as the space made it canonical.
        transformation: the edge from the parent; None for node 0.
        proposer: who proposed the edge ("untuned" for node 0).
        reasoning: the words that came with the proposal.
        predicted_secs: the prediction that the search ranks it by; None where there is none to trust.
        measurement: what the hardware said; None while it has not been asked.
    """

    node: int
    parent: int | None
    program: Program
    transformation: Transformation | None = None
    proposer: str = "untuned"
    reasoning: str = ""
    predicted_secs: float | None = None
    measurement: Measurement | None = field(default=None, compare=False)


def as_value(value: Any) -> Value:
    """Returns a decision's value from its JSON form (lists become tuples)."""
    return tuple(as_value(part) for part in value) if isinstance(value, list | tuple) else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

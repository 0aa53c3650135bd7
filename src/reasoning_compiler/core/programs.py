"""Programs as records: decisions with their domains, programs, and the transformations between them.

All are small, immutable, comparable, and JSON both ways; they know nothing of TVM.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.records import Record

Value = int | str | tuple[int, ...]
"""A decision's value: a tile's factors (outermost first), a choice, a loop position, or a structure's name."""

DecisionKind = Literal["structure", "tile", "choice", "location"]


@dataclass(frozen=True)
class TileDomain:
    """The ways to split a loop of `extent` iterations into `num_factors` nested loops, exactly.

    Args:
        extent: iterations of the loop, ≥ 1.
        num_factors: how many factors, ≥ 1; their product is the extent.
        max_innermost: the largest last factor, where there is more than one; None for no limit.
        inner_multiple: the product of the factors from `inner_from` on must be a multiple of this.
        inner_from: see `inner_multiple`.
        wider_is_legal: the limit is for what is drawn and searched; whoever asks for a larger last factor gets it.
    """

    extent: int
    num_factors: int
    max_innermost: int | None = None
    inner_multiple: int = 1
    inner_from: int = 0
    wider_is_legal: bool = field(default=False, compare=False)

    def why_illegal(self, value: Any) -> str | None:
        """Returns why the space refuses `value`, or None if it takes it; see `wider_is_legal`."""
        return (replace(self, max_innermost=None) if self.wider_is_legal else self).why_not(value)

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
class Alternative:
    """One way to treat a block, as a rule offers it.

    Args:
        label: for people. Programs and journals keep it as the decision's value, and nothing is read from it.
        rule: the name of the rule.
        parameters: what the rule has chosen, as (name, value) pairs.
        is_plain: the block stays as it is, or as near to that as the rule leaves it.
    """

    label: str
    rule: str = ""
    parameters: tuple[tuple[str, Value], ...] = ()
    is_plain: bool = False

    def __getitem__(self, name: str) -> Value:
        """Returns a parameter's value. Raises KeyError where there is none of that name."""
        return dict(self.parameters)[name]


@dataclass(frozen=True)
class ChoiceDomain:
    """A finite set of values, each with a label for people (the value itself where no label is needed).

    Args:
        values: what may be chosen.
        labels: of each; empty where the values speak for themselves.
        alternatives: of a structure decision, what each value stands for.
    """

    values: tuple[int | str, ...]
    labels: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()

    def why_not(self, value: Any) -> str | None:
        """Returns why `value` lies outside the domain, or None if it lies inside."""
        if isinstance(value, bool) or not isinstance(value, int | str) or value not in self.values:
            return f"is not one of {', '.join(map(str, self.values))}"
        return None

    why_illegal = why_not

    def label(self, value: Value) -> str:
        """Returns the words for one of the values."""
        return self.labels[self.values.index(value)] if self.labels else str(value)

    def __str__(self) -> str:
        if not self.labels:
            return "one of " + ", ".join(map(str, self.values))
        return "one of " + ", ".join(f"{v} ({w})" for v, w in zip(self.values, self.labels, strict=True))


TILE, UNROLL, PREFETCH_BYTES = "tile", "unroll", "prefetch bytes"
"""Roles that decisions of many rules have."""


@dataclass(frozen=True)
class Decision:
    """One open choice of a program.

    Args:
        name: for people, and in journals; nothing is read from it.
        kind: what its values are.
        domain: its legal values.
        value: the present one.
        block: whose treatment it decides; "" for the whole program.
        loop: of that block, which it splits or marks; "" for none.
        rule: the name of the rule that leaves it open.
        role: what the value is for: `TILE`, `UNROLL` and so on; of a structure decision the rule's name.
    """

    name: str
    kind: DecisionKind
    domain: TileDomain | ChoiceDomain
    value: Value
    block: str = ""
    loop: str = ""
    rule: str = ""
    role: str = ""

    @property
    def alternative(self) -> Alternative | None:
        """What the value of a structure decision stands for; None for other decisions."""
        if not isinstance(self.domain, ChoiceDomain) or not self.domain.alternatives:
            return None
        return self.domain.alternatives[self.domain.values.index(self.value)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Program(Record):
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
        """Returns what `from_json` reads, without primitives where there are none, as before there were any."""
        return {name: value for name, value in super().to_json().items() if value or name != "primitives"}


UNTUNED = Program()


@dataclass(frozen=True)
class Transformation(Record):
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
        """Returns what `from_json` reads, without what is empty but for the edits and what is expected."""
        always = ("edits", "expectation")
        return {name: value for name, value in super().to_json().items() if value or name in always}


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


def as_value(value: Any) -> Value:
    """Returns a decision's value from its JSON form (lists become tuples)."""
    return tuple(as_value(part) for part in value) if isinstance(value, list | tuple) else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

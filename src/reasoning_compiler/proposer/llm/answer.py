"""From a model's answer, whatever it wrote, to transformations of the table and reasons against the rest.

An answer is data: it is read, compared with the table and never executed. Nothing here raises on any text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasoning_compiler.core.programs import ChoiceDomain, Decision, Transformation, Value
from reasoning_compiler.core.records import Record
from reasoning_compiler.proposer.llm.loose_json import Found, find_containers
from reasoning_compiler.proposer.llm.primitives import read_primitives
from reasoning_compiler.proposer.llm.values import clip, coerce, free_value, plain_name, shown

RejectionKind = Literal[
    "empty",  # no text at all
    "refusal",  # the model declines the task
    "no_answer",  # text without a transformation in it
    "truncated",  # the text ends inside the only transformation
    "wrong_shape",  # JSON that is no transformation
    "unknown_decision",  # a name that the table does not have
    "wrong_type",  # a value of a type that no decision takes
    "outside_domain",  # a value that the decision's domain excludes
    "wrong_primitive",  # no primitive, or arguments that it does not take
    "no_change",  # every edit sets the present value
    "repeated",  # a program that is known already
    "illegal",  # the space refuses the schedule
]

MAX_ANSWER_CHARS = 200_000
MAX_REASONING_CHARS = 4_000
MAX_EXPECTATION_CHARS = 600
MAX_ITEMS = 32
MAX_EDITS = 128
_MAX_PROBLEMS = 4

_LIST_KEYS = ("transformations", "proposals", "candidates", "children", "edits_list", "answers", "answer")
_EDIT_KEYS = ("edits", "decisions", "changes", "values", "edit", "set", "transformation")
_THEN_KEYS = ("then", "primitives", "schedule", "steps")
_EXPECT_KEYS = ("expect", "expectation", "expected", "why", "reason", "reasoning", "rationale")
_REASONING_KEYS = ("reasoning", "analysis", "thoughts")
_NAME_KEYS = ("decision", "name", "key")
_VALUE_KEYS = ("value", "new", "to")
_TITLE_KEYS = ("id", "name", "label", "title", "index", "number", "comment", "note", "sketch")
_ASIDE_KEYS = (*_EXPECT_KEYS, *_THEN_KEYS, *_TITLE_KEYS)

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:no|')t|won't|must decline)|as an ai)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome(Record):
    """One transformation as the model wrote it, and what became of it.

    Args:
        what: its text, shortened; empty for what is about the answer as a whole.
        transformation: what it was read as; None where it could not be read.
        kind: why it was rejected; None for one that was not.
        why: the reason in words that can be told back to the model; of one that was not rejected, why it was not used,
            if so.
        used: it was handed to the search.
        node: the node that it became; None where it became none.
        program: that node's program key.
    """

    what: str = ""
    transformation: Transformation | None = None
    kind: RejectionKind | None = None
    why: str = ""
    used: bool = False
    node: int | None = None
    program: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_json().items() if name not in ("node", "program")}


@dataclass(frozen=True)
class Answer:
    """What an answer holds: its reasoning in words, and its transformations in the order given.

    An answer without any has one item that says why.
    """

    reasoning: str
    items: tuple[Outcome, ...]


def parse_answer(text: str, table: Sequence[Decision], *, allow_unchanged: bool = False) -> Answer:
    """Returns the reasoning and the transformations of an answer, each valid for the table or with a reason.

    Args:
        text: the answer; of a very long one the beginning and the end are read.
        table: the decisions that may be edited. Where an edit changes a structure, this table may not be the
            new program's: unknown names and values outside a domain are then left to the space.
        allow_unchanged: whether a transformation may set nothing but present values.
    """
    text = clip(text, MAX_ANSWER_CHARS)
    if not text.strip():
        return Answer("", (Outcome("", None, "empty", "The answer is empty."),))
    names = _Names(table)
    group = _last_group(find_containers(text), names)
    if group is None:
        return Answer(_reasoning(text, ""), (_without_json(text),))
    if not group.raws:
        why = "The list of transformations is empty."
        if group.cut_off:
            why = "The answer was cut off before its first transformation was complete. Answer more briefly."
        kind: RejectionKind = "truncated" if group.cut_off else "wrong_shape"
        return Answer(_reasoning(text[: group.start], group.reasoning), (Outcome("", None, kind, why),))
    items = tuple(_item(raw, names, allow_unchanged=allow_unchanged) for raw in group.raws[:MAX_ITEMS])
    return Answer(_reasoning(text[: group.start], group.reasoning), items)


# -- which part of the answer is the answer -----------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    start: int
    raws: list[Any]
    reasoning: str = ""
    single: bool = False
    cut_off: bool = False


def _last_group(found: list[Found], names: _Names) -> _Group | None:
    """Returns the last list of transformations; objects written one after another count as a list."""
    groups: list[_Group] = []
    for group in (_group(one, names) for one in found):
        if group is not None and group.single and groups and groups[-1].single:
            groups[-1].raws.extend(group.raws)
        elif group is not None:
            groups.append(group)
    filled = [group for group in groups if group.raws]
    answers = [group for group in filled if any(_is_item(raw, names) for raw in group.raws)]
    return next(iter((answers or filled or groups)[-1:]), None)


def _group(found: Found, names: _Names) -> _Group | None:
    value, cut = found.value, found.truncated
    if isinstance(value, list):
        if any(isinstance(v, dict) for v in value):
            return _Group(found.start, value)
        return _Group(found.start, [], cut_off=True) if cut and not value else None
    said = next((value[k] for k in _REASONING_KEYS if isinstance(value.get(k), str)), "")
    for key in _LIST_KEYS:
        if isinstance(value.get(key), list):
            return _Group(found.start, value[key], said, cut_off=cut)
    if _edits_of(value, names) is not None:
        return _Group(found.start, [] if cut else [value], said, single=not cut, cut_off=cut)
    for inner in value.values():
        if isinstance(inner, list) and any(isinstance(v, dict) for v in inner):
            return _Group(found.start, inner, said)
    inner = list(value.values())[: -1 if cut else None]
    if inner and all(_is_item(v, names) for v in inner):
        return _Group(found.start, inner, said)
    return _Group(found.start, [], said, cut_off=True) if cut else None


def _is_item(raw: Any, names: _Names) -> bool:
    return isinstance(raw, dict) and _edits_of(raw, names) is not None


def _without_json(text: str) -> Outcome:
    if _REFUSAL.search(text[:600]):
        return Outcome("", None, "refusal", "The answer declines the task.")
    why = 'The answer does not end in JSON of the form {"transformations": [{"edits": {…}, "expect": "…"}]}.'
    return Outcome("", None, "no_answer", why)


def _reasoning(prose: str, said: str) -> str:
    prose = re.sub(r"\s*```+\s*\w*\s*\Z", "", prose).strip()
    return clip("\n".join(part for part in (prose, said.strip()) if part), MAX_REASONING_CHARS)


# -- from one item to a transformation ---------------------------------------------------------------------


class _Names:
    """The decisions of a table by name, exactly or else ignoring case and space."""

    def __init__(self, table: Sequence[Decision]) -> None:
        self.table = tuple(table)
        self._exact = {d.name: d for d in table}
        self._loose: dict[str, list[Decision]] = {}
        for decision in table:
            self._loose.setdefault(plain_name(decision.name), []).append(decision)

    def find(self, name: str) -> Decision | None:
        if name in self._exact:
            return self._exact[name]
        alike = self._loose.get(plain_name(name), [])
        return alike[0] if len(alike) == 1 else None

    def suggestion(self, name: str) -> str:
        close = difflib.get_close_matches(plain_name(name[:80]), self._loose, n=2)
        if close:
            return "did you mean " + " or ".join(f"`{self._loose[c][0].name}`" for c in close) + "?"
        return "use only names of the decision table"


class _Unusable(Exception):
    """Why something of an answer cannot be used, in words that can be told back to the model."""

    def __init__(self, kind: RejectionKind, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def _item(raw: Any, names: _Names, *, allow_unchanged: bool) -> Outcome:
    what = shown(raw, 400)
    try:
        return Outcome(what, _read_item(raw, names, allow_unchanged=allow_unchanged))
    except _Unusable as reason:
        return Outcome(what, None, reason.kind, str(reason))


def _read_item(raw: Any, names: _Names, *, allow_unchanged: bool) -> Transformation:
    edits = _edits_of(raw, names) if isinstance(raw, dict) else None
    if edits is None:
        why = 'is not of the form {"edits": {"decision name": value, …}, "expect": "…"}'
        raise _Unusable("wrong_shape", f"{shown(raw)} {why}.")
    if len(edits) > MAX_EDITS:
        raise _Unusable("wrong_shape", f"It has {len(edits)} edits; at most {MAX_EDITS} are read.")
    restructured = any(_changes_structure(names.find(name), value) for name, value in edits)
    kept: dict[str, Value] = {}
    problems: list[_Unusable] = []
    for name, raw_value in edits:
        decision = names.find(name)
        # Which locations there are depends on the other decisions.
        moves = decision is not None and decision.kind == "location" and len(edits) > 1
        try:
            value = _value(decision, name, raw_value, names, lenient=restructured or moves)
        except _Unusable as problem:
            problems.append(problem)
            if len(problems) == _MAX_PROBLEMS:
                break
            continue
        if decision is None or restructured or value != decision.value:
            kept[decision.name if decision else name] = value
    if problems:
        raise _Unusable(problems[0].kind, " ".join(map(str, problems)))
    try:
        primitives = read_primitives(_then_of(raw, names) or [])
    except ValueError as error:
        raise _Unusable("wrong_primitive", f"{clip(str(error), 600)}.") from None
    if not kept and not primitives and not allow_unchanged:
        raise _Unusable("no_change", "Every edit sets the decision's present value.")
    return Transformation(tuple(kept.items()), _expectation(raw), primitives=primitives)


def _value(decision: Decision | None, name: str, raw: Any, names: _Names, *, lenient: bool) -> Value:
    """Returns the value to set. Raises _Unusable where there is none."""
    if decision is None:
        value = free_value(raw)
        if lenient and value is not None:
            return value
        raise _Unusable("unknown_decision", f"There is no decision `{shown(name)}`: {names.suggestion(name)}.")
    value = coerce(decision.domain, raw)
    allowed = f"allowed: {clip(str(decision.domain), 400)}."
    if value is None:
        raise _Unusable("wrong_type", f"`{decision.name}` cannot be {shown(raw)}; {allowed}")
    if decision.kind == "location" and isinstance(value, str):
        return value  # the name of a loop, which only the space knows
    why_not = decision.domain.why_illegal(value)
    if isinstance(decision.domain, ChoiceDomain) and why_not is not None:
        why_not = "is no value of it"  # the domain's own reason would name all values a second time
    if why_not is not None and not (lenient and decision.kind != "structure"):
        raise _Unusable("outside_domain", f"`{decision.name}`: {shown(value)} {why_not}; {allowed}")
    return value


def _changes_structure(decision: Decision | None, raw: Any) -> bool:
    if decision is None or decision.kind != "structure":
        return False
    value = coerce(decision.domain, raw)
    return value is not None and value != decision.value and decision.domain.why_not(value) is None


def _edits_of(item: dict[str, Any], names: _Names) -> list[tuple[str, Any]] | None:
    """Returns the (name, value) pairs of an item, in any form that models write; None if it has none."""
    for key in _EDIT_KEYS:
        if key in item and names.find(key) is None:
            inner = item[key]
            nested = isinstance(inner, dict) and any(k in inner and names.find(k) is None for k in _EDIT_KEYS)
            return _edits_of(inner, names) if nested else _pairs(inner, names)
    flat = [(k, v) for k, v in item.items() if k.lower() not in _ASIDE_KEYS or names.find(k) is not None]
    if any(names.find(k) is not None for k, _ in flat):
        return flat
    return [] if _then_of(item, names) else None


def _then_of(item: dict[str, Any], names: _Names) -> Any:
    """Returns the primitives of an item as the model wrote them, also where they stand beside nested edits."""
    if (key := next((k for k in _THEN_KEYS if k in item and names.find(k) is None), None)) is not None:
        return item[key]
    nested = (item[key] for key in _EDIT_KEYS if isinstance(item.get(key), dict))
    return next((then for inner in nested if (then := _then_of(inner, names)) is not None), None)


def _pairs(edits: Any, names: _Names) -> list[tuple[str, Any]] | None:
    if isinstance(edits, dict):
        own = [name for name in edits if name not in _THEN_KEYS or names.find(name) is not None]
        return [(name, _new_value(edits[name])) for name in own]
    if not isinstance(edits, list):
        return None
    pairs = []
    for edit in edits:
        if isinstance(edit, dict):
            name = next((edit[k] for k in _NAME_KEYS if isinstance(edit.get(k), str)), None)
            pairs += list(edit.items()) if name is None else [(name, _new_value(edit))]
        elif isinstance(edit, list) and len(edit) == 2 and isinstance(edit[0], str):
            pairs.append((edit[0], edit[1]))
        else:
            break
    else:
        return pairs
    in_order = len(edits) == len(names.table)
    return [(d.name, v) for d, v in zip(names.table, edits, strict=True)] if in_order else None


def _new_value(value: Any) -> Any:
    """Returns the new value of an edit that is written as an object, as in {"from": 16, "to": 64}."""
    return next((value[k] for k in _VALUE_KEYS if k in value), None) if isinstance(value, dict) else value


def _expectation(item: dict[str, Any]) -> str:
    words = next((item[k] for k in _EXPECT_KEYS if isinstance(item.get(k), str)), "")
    return clip(" ".join(words.split()), MAX_EXPECTATION_CHARS)

"""What a prompt says of one node: its decisions, how it came about, what its analysis says, what else was tried.

Other programs are told as differences from the node's, since tokens are money.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reasoning_compiler.core.primitives import DECISION_MEANINGS, Primitive
from reasoning_compiler.core.programs import (
    ChoiceDomain,
    Decision,
    Program,
    TileDomain,
    Transformation,
    Value,
    difference,
    primitive_changes,
)
from reasoning_compiler.core.steps import Step
from reasoning_compiler.proposer.llm.language import loops_text, steps_text
from reasoning_compiler.proposer.llm.values import clip
from reasoning_compiler.proposer.protocol import Context

if TYPE_CHECKING:
    from reasoning_compiler.space.named import NamedBlock

_MAX_CHANGES = 16

Brings = Mapping[tuple[str, Value], Sequence[tuple[str, Value]]]
"""For a structure decision and one of its other values, the decisions that would come with it, and their values."""


@dataclass(frozen=True)
class ProgramFacts:
    """What a prompt says of a program beside what the search knows of it.

    Args:
        analysis: the static analysis in words; may be empty.
        brings: what its other structures would bring.
        blocks: what further primitives may name.
    """

    analysis: str = ""
    brings: Brings = field(default_factory=dict)
    blocks: Sequence[NamedBlock] = ()


def node_text(
    context: Context,
    num: int,
    facts: ProgramFacts | None = None,
    *,
    flops: float = 0.0,
    peak_flops: float = 0.0,
    refused: Sequence[tuple[Transformation, str]] = (),
    context_depth: int = 2,
    num_results: int = 5,
) -> str:
    """Returns the part of the prompt that is about one node; see `build_prompt`."""
    facts = facts or ProgramFacts()
    tell = _Teller(context, flops, peak_flops)
    sections = [
        f"DECISIONS of the program to transform (node {context.node.node})\n{_table(context.table, facts.brings)}"
    ]
    own = context.node.program.primitives
    if own:
        sections[0] += f"\n{steps_text(own)}"
    if facts.blocks:
        sections.append(loops_text(facts.blocks, len(own)))
    sections.append("HOW IT CAME ABOUT, newest first\n" + "\n".join(tell.lineage(context_depth)))
    if facts.analysis.strip():
        sections.append(f"ANALYSIS of this program\n{facts.analysis.strip()}")
    told = {step.node for step in context.lineage[: context_depth + 1]}
    if context.best is not None and context.best.node == context.node.node:
        sections.append("This program is the best so far.")
    elif context.best is not None and context.best.node not in told:
        sections.append("BEST SO FAR, as differences from this program\n" + tell.other(context.best))
        told.add(context.best.node)
    if context.children:
        told |= {step.node for step in context.children}
        children = [tell.other(step) for step in context.children[-max(num_results, 2) :]]
        sections.append("ITS CHILDREN SO FAR\n" + "\n".join(children))
    results = _telling(context.measured, told, num_results)
    if results:
        lines = [tell.other(step) for step in results]
        sections.append("OTHER RESULTS, as differences from this program\n" + "\n".join(lines))
    unmeasured = [tell.other(s) for s in context.unmeasured if s.node not in told][: max(num_results, 2)]
    if unmeasured:
        sections.append("NOT YET MEASURED, as differences from this program\n" + "\n".join(unmeasured))
    rejected = [(r.transformation, r.why) for r in context.rejected if not r.is_known]
    told_off = [f"{_transformation(t)}: {clip(why, 240)}" for t, why in (*rejected, *refused)]
    if told_off:
        refused_lines = list(dict.fromkeys(told_off))[-max(num_results, 2) :]
        sections.append("REFUSED FOR THIS PROGRAM\n" + "\n".join(refused_lines))
    sections.append(_request(context, num))
    return "\n\n".join(sections)


class _Teller:
    """Tells of programs as differences from the node's."""

    def __init__(self, context: Context, flops: float, peak_flops: float) -> None:
        self._context = context
        self._flops, self._peak_flops = flops, peak_flops
        self._present: dict[str, Value] = {d.name: d.value for d in context.table}

    def lineage(self, context_depth: int) -> Iterable[str]:
        lineage = self._context.lineage
        for i, step in enumerate(lineage[: context_depth + 1]):
            who = "this program" if i == 0 else "its parent" if i == 1 else "before that"
            if step.program.is_untuned:
                yield f"node {step.node} ({who}): the untuned program{self._outcome(step)}"
                if i == 0:
                    yield "Edits are counted from the space's start program, which the table shows."
                continue
            parent = lineage[i + 1] if i + 1 < len(lineage) else None
            line = f"node {step.node} ({who}, by {step.proposer}): {_made_by(step, parent)}{self._outcome(step)}"
            expected = step.transformation.expectation if step.transformation else ""
            yield line + (f'; expected was: "{clip(expected, 200)}"' if expected else "")

    def other(self, step: Step) -> str:
        if step.program.is_untuned:
            return f"node {step.node}: the untuned program{self._outcome(step)}"
        values = step.program.values
        different = [(n, v) for n, v in values.items() if self._present.get(n) != v]
        absent = [n for n in self._present if n not in values]
        text = _edits(different) or "the same decisions"
        text += f" (without {', '.join(absent[:4])})" if absent else ""
        text += _other_primitives(self._context.node.program, step.program)
        return f"node {step.node}: {text}{self._outcome(step, brief=True)}"

    def _outcome(self, step: Step, *, brief: bool = False) -> str:
        measured = step.measurement
        if measured is not None and measured.failure is not None:
            return f" -> failed: {measured.failure.kind}, {clip(measured.failure.message, 160)}".rstrip(", ")
        parts = []
        if measured is not None:
            secs = measured.latency_secs
            text = f"{'> ' if measured.censored else ''}{_ms(secs)} measured"
            if self._flops and not brief and not measured.censored:
                rate = self._flops / secs
                peak = f", {rate / self._peak_flops:.0%} of peak" if self._peak_flops else ""
                text += f" ({rate / 1e9:.3g} GFLOP/s{peak})"
            parts.append(text + (", stopped early" if measured.cut else ""))
        if step.predicted_secs is not None and not (brief and parts):
            parts.append(f"{_ms(step.predicted_secs)} predicted")
        return " -> " + ", ".join(parts) if parts else " -> not measured yet"


def _telling(measured: Sequence[Step], told: set[int], num: int) -> list[Step]:
    """Returns the results to learn most from: the fastest, then the slowest and the latest failures."""
    rest = [s for s in measured if s.node not in told and s.measurement is not None and not s.program.is_untuned]
    good = sorted((s for s in rest if s.measurement.ok), key=lambda s: (s.measurement.latency_secs, s.node))
    failed = [s for s in rest if not s.measurement.ok]
    num_bad = num // 4
    chosen = good[: num - num_bad] + failed[len(failed) - min(num_bad, len(failed)) :]
    if len(good) > num - num_bad and num_bad:
        chosen.append(good[-1])
    return chosen[:num] if num else []


def _table(table: Sequence[Decision], brings: Brings) -> str:
    """Returns the decisions by kind, each with its domain and its present value."""
    brought = "what another one brings can be set in the same edits"
    titles = {
        "structure": f"structure ({DECISION_MEANINGS['structure']}; {brought})",
        "tile": f"tile ({DECISION_MEANINGS['tile']}{{limit}})",
        "choice": "choice",
        "location": f"location ({DECISION_MEANINGS['location']})",
    }
    lines = []
    for kind, title in titles.items():
        decisions = [d for d in table if d.kind == kind and not _is_fixed(d)]
        if decisions:
            limit = _common_limit(decisions) if kind == "tile" else None
            said = "" if limit is None else f"; innermost ≤ {limit}"
            wider = limit and all(isinstance(d.domain, TileDomain) and d.domain.wider_is_legal for d in decisions)
            lines.append(title.format(limit=said + (" for a vector, else any" if wider else "")) + ":")
            lines += [f"  {d.name}: {_domain(d, brings, limit)}; now {_shown(d.value)}" for d in decisions]
    return "\n".join(lines)


def _common_limit(tiles: Sequence[Decision]) -> int | None:
    """Returns the limit of innermost factors where all tiles have the same."""
    limits = {d.domain.max_innermost for d in tiles if isinstance(d.domain, TileDomain)}
    return limits.pop() if len(limits) == 1 else None


def _is_fixed(decision: Decision) -> bool:
    domain = decision.domain
    return len(domain.values) == 1 if isinstance(domain, ChoiceDomain) else domain.extent == 1


def _domain(decision: Decision, brings: Brings, limit: int | None) -> str:
    domain = decision.domain
    if isinstance(domain, TileDomain) and domain.max_innermost is not None:
        # A limit that is said already, or that the extent keeps anyway, is not worth its tokens.
        said = limit is not None or domain.extent <= domain.max_innermost
        return str(replace(domain, max_innermost=None) if said else domain)
    if decision.kind == "location" and isinstance(domain, ChoiceDomain):
        domain = replace(domain, labels=tuple(label.removeprefix("in loop ") for label in domain.labels))
    if isinstance(domain, ChoiceDomain) and any(isinstance(value, str) for value in domain.values):
        labels = domain.labels or ("",) * len(domain.values)
        told = zip(domain.values, labels, (brings.get((decision.name, v), ()) for v in domain.values), strict=True)
        return " | ".join(
            json.dumps(v, ensure_ascii=False) + (f" ({w})" if w else "") + (f" (brings {_edits(b)})" if b else "")
            for v, w, b in told
        )
    return str(domain)


def _made_by(step: Step, parent: Step | None) -> str:
    """Returns the edit that led to a node; the first program of a path is what the table and later edits say."""
    if parent is None or parent.program.is_untuned:
        return "a whole program"
    return changes_text(parent.program, step.program) or "no change"


def changes_text(parent: Program, child: Program) -> str:
    """Returns what differs between two programs, as "name: old → new"."""
    changes = difference(parent, child)
    parts = [
        f"{name}: {'absent' if old is None else _value(old)} → {'absent' if new is None else _value(new)}"
        for name, old, new in changes[:_MAX_CHANGES]
    ]
    if len(changes) > _MAX_CHANGES:
        parts.append(f"and {len(changes) - _MAX_CHANGES} more")
    return ("; ".join(parts) + _other_primitives(parent, child)).removeprefix("; ")


def _other_primitives(present: Program, other: Program) -> str:
    """Returns what another program's primitives are, against those of the present one; empty where nothing differs."""
    left_out, added = primitive_changes(present, other)
    text = f"; then {_calls(added)}" if added else ""
    numbers = [str(present.primitives.index(step) + 1) for step in left_out]
    return text + (f"; without step{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else "")


def _calls(primitives: Iterable[Primitive]) -> str:
    return clip(", ".join(map(str, primitives)), 400)


def _transformation(transformation: Transformation) -> str:
    told = [_edits(transformation.edits)] if transformation.edits else []
    return "; then ".join([*told, *([_calls(transformation.primitives)] if transformation.primitives else [])])


def _edits(edits: Iterable[tuple[str, Value]]) -> str:
    parts = [f"{name}={_shown(value)}" for name, value in edits]
    if len(parts) > _MAX_CHANGES:
        parts = [*parts[:_MAX_CHANGES], f"and {len(parts) - _MAX_CHANGES} more"]
    return "; ".join(parts)


def _request(context: Context, num: int) -> str:
    samples = f"{context.num_samples} of {context.max_samples}" if context.max_samples else context.num_samples
    what = "1 transformation" if num == 1 else f"{num} different transformations"
    return f"TASK\n{samples} programs have been measured. Propose {what} of the program above."


def _shown(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _value(value)


def _value(value: Value) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _ms(secs: float) -> str:
    return f"{secs * 1e3:.3g} ms" if secs < 1 else f"{secs:.3g} s"

"""One exchange with a language model as text: the question, the answer, and what came of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from reasoning_compiler.report.lines import harmless, printable
from reasoning_compiler.report.units import time_text

if TYPE_CHECKING:
    from reasoning_compiler.core.measurements import Measurement
    from reasoning_compiler.journal import Run, SessionRecord
    from reasoning_compiler.proposer.llm.transcript import Exchange, Outcome


def exchange_line(exchange: Exchange, session: SessionRecord) -> str:
    """Returns one line: number, node, tokens, price, latency, and what came of the answer.

    Args:
        exchange: to be shown.
        session: what it belongs to, which knows what was measured.
    """
    run = session.run(exchange.task or None)
    about = f"repairs {exchange.repair_of}" if exchange.repair_of is not None else f"node {exchange.node}"
    about += f" of {exchange.task}" if len(session.runs) > 1 else ""
    if exchange.answer is None:
        said = [f"failed: {exchange.finish}"]
    else:
        used = [outcome for outcome in exchange.outcomes if outcome.used]
        refused = Counter(outcome.kind or "not needed" for outcome in exchange.outcomes if not outcome.used)
        said = [_short(outcome, run) for outcome in used] + [f"{count} {kind}" for kind, count in refused.items()]
    return printable(f"{exchange.id:>4} {about} | {_cost(exchange)} | {', '.join(said) or 'nothing'}")


def exchange_text(exchange: Exchange, session: SessionRecord) -> str:
    """Returns an exchange whole; what a model wrote cannot steer the terminal.

    Args:
        exchange: to be shown.
        session: what it belongs to, which knows what was measured.
    """
    run = session.run(exchange.task or None)
    about = f"node {exchange.node}" + (f" of {exchange.task}" if len(session.runs) > 1 else "")
    lines = [f"Exchange {exchange.id} with {printable(exchange.model)}, about {about}: {_cost(exchange)}"]
    for message in exchange.messages:
        lines += ["", f"── {message.role} " + "─" * 40, _shown(message.text)]
    lines += ["", "── answer " + "─" * 40, _shown(exchange.answer or f"none: {exchange.finish}: {exchange.failure}")]
    lines += ["", "── outcome " + "─" * 39]
    for attempt in exchange.attempts:
        wait = f", retried after {time_text(attempt.wait_secs)}" if attempt.wait_secs else ""
        lines.append(printable(f"  an attempt failed ({attempt.kind}: {attempt.message}){wait}"))
    for outcome in exchange.outcomes:
        lines.append(f"  {_outcome(outcome, run)}")
    return "\n".join(lines)


def _outcome(outcome: Outcome, run: Run) -> str:
    done = [f"{name} = {value}" for name, value in outcome.transformation.edits] if outcome.transformation else []
    done += map(str, outcome.transformation.primitives) if outcome.transformation else ()
    what = ", ".join(done) or outcome.what
    if not outcome.used:
        return printable(f"refused ({outcome.kind or 'not needed'}: {outcome.why}): {what}")
    if outcome.node is None:
        return printable(f"not added to the tree: {what}")
    step = run.step(outcome.node)
    predicted = f", predicted {time_text(step.predicted_secs)}" if step.predicted_secs else ""
    return printable(f"node {outcome.node}{predicted}, {_measured(step.measurement)}: {what}")


def _short(outcome: Outcome, run: Run) -> str:
    if outcome.node is None:
        return "1 not added"
    return f"node {outcome.node} {_measured(run.step(outcome.node).measurement)}"


def _measured(measurement: Measurement | None) -> str:
    if measurement is None:
        return "not measured"
    if measurement.failure is not None:
        return f"failed: {measurement.failure.kind}"
    secs = time_text(measurement.latency_secs, is_bound=measurement.censored)
    return f"measured {secs}" + (" (cut)" if measurement.cut else "")


def _cost(exchange: Exchange) -> str:
    price = "price unknown" if exchange.usd is None else f"${exchange.usd:.5f}"
    return f"{exchange.usage.total} tokens, {price}, {time_text(exchange.latency_secs)}"


def _shown(text: str) -> str:
    return "\n".join(map(harmless, text.splitlines()))

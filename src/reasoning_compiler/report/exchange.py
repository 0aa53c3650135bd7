"""One exchange with a language model as text: the question, the answer, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoning_compiler.report.text import printable
from reasoning_compiler.report.units import time_text

if TYPE_CHECKING:
    from reasoning_compiler.journal import Run
    from reasoning_compiler.proposer.llm.transcript import Exchange, Outcome


def exchange_line(exchange: Exchange) -> str:
    """Returns one line: number, node, tokens, price, latency, and how much of the answer was of use."""
    used = sum(outcome.used for outcome in exchange.outcomes)
    said = f"{used} of {len(exchange.outcomes)} used" if exchange.answer is not None else f"failed: {exchange.finish}"
    about = f"repairs {exchange.repair_of}" if exchange.repair_of is not None else f"node {exchange.node}"
    return f"{exchange.id:>4}  {about:12} {_cost(exchange)}  {said}"


def exchange_text(exchange: Exchange, run: Run) -> str:
    """Returns an exchange whole; what a model wrote cannot steer the terminal.

    Args:
        exchange: to be shown.
        run: the run that it belongs to, which knows what was measured.
    """
    lines = [f"Exchange {exchange.id} with {printable(exchange.model)}, about node {exchange.node}: {_cost(exchange)}"]
    for message in exchange.messages:
        lines += ["", f"── {message.role} " + "─" * 40, _shown(message.text)]
    lines += ["", "── answer " + "─" * 40, _shown(exchange.answer or f"none: {exchange.finish}: {exchange.failure}")]
    lines += ["", "── what came of it " + "─" * 31]
    for outcome in exchange.outcomes:
        lines.append(f"  {_outcome(outcome, run)}")
    return "\n".join(lines)


def _outcome(outcome: Outcome, run: Run) -> str:
    edits = outcome.transformation.edits if outcome.transformation else ()
    what = ", ".join(f"{name} = {value}" for name, value in edits) or outcome.what
    if not outcome.used:
        return printable(f"refused ({outcome.kind or 'not needed'}: {outcome.why}): {what}")
    if outcome.node is None:
        return printable(f"not taken up by the search: {what}")
    step = run.step(outcome.node)
    predicted = f", predicted {time_text(step.predicted_secs)}" if step.predicted_secs else ""
    measurement = step.measurement
    if measurement is None:
        result = "not measured"
    elif measurement.failure is not None:
        result = f"failed: {measurement.failure.kind}"
    else:
        result = f"measured {time_text(measurement.latency_secs)}" + (" (cut)" if measurement.cut else "")
    return printable(f"node {outcome.node}{predicted}, {result}: {what}")


def _cost(exchange: Exchange) -> str:
    price = "price unknown" if exchange.usd is None else f"${exchange.usd:.5f}"
    return f"{exchange.usage.total} tokens, {price}, {time_text(exchange.latency_secs)}"


def _shown(text: str) -> str:
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())

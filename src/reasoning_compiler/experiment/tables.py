"""An experiment's tables, as text for a terminal, and as one HTML page with its curves."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.experiment.outcome import DEFINITIONS, Outcome, Row, Spread
from reasoning_compiler.experiment.significance import in_words
from reasoning_compiler.report.lines import table
from reasoning_compiler.report.picture import draw
from reasoning_compiler.report.units import ratio_text, share_text, time_text

_HEAD = ("", "speed-up", "samples to reach it", "sample reduction", "efficiency gain", "matches the baseline at")
_ANY_WIDTH = 10**6  # tables are not cut off
_COSTS = ("", "wall time", "LLM calls", "tokens", "USD", "fallback rate")


@dataclass(frozen=True)
class Table:
    """A title, columns, and rows of text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """What an experiment has to say, in order.

    Args:
        title: of the page.
        facts: machine, seeds, command: a line each.
        tables: the tables.
        words: what can be concluded, a sentence each.
        notes: definitions and remarks, a line each.
    """

    title: str
    facts: tuple[str, ...]
    tables: tuple[Table, ...]
    words: tuple[str, ...]
    notes: tuple[str, ...]


def page_of(results: dict[str, Any]) -> Page:
    """Returns what the results of an experiment have to say."""
    outcome = Outcome(results)
    rows = outcome.rows()
    tables = []
    for workload in outcome.workloads:
        mine = [row for row in rows if row.workload == workload]
        lines = [_row(row, outcome.baseline) for row in mine]
        line, head = outcome.references.get(workload), _HEAD
        if line is not None:
            head += (f"matches {line.variant} at",)
            ends = [_at(row.reference_matched, row.num_reference_matched, row) for row in mine]
            lines = [(*cells, end) for cells, end in zip(lines, ends, strict=True)]
        tables.append(Table(workload, head, tuple(lines)))
        tables += _progress(outcome, workload)
        tables.append(Table(f"{workload}: what it took, for one run", _COSTS, tuple(map(_cost_row, mine))))
    overall = outcome.overall()
    if len(outcome.workloads) > 1:
        lines = tuple((o.variant, _ratio(o.speedup), _ratio(o.reduction), _ratio(o.efficiency)) for o in overall)
        head = ("", "speed-up", "sample reduction", "efficiency gain")
        tables.append(Table(f"Geometric mean over {len(outcome.workloads)} workloads", head, lines))
    words = tuple(in_words(o.variant, outcome.baseline, o.test, p=o.p) for o in overall if o.test is not None)
    noise = outcome.noise()
    if noise:
        words += (f"Timings of one and the same winner spread by {share_text(noise)} (middle half, of the median).",)
    if len(words) > 2:
        words += ("The p-values are adjusted for how many methods are compared (Holm).",)
    return Page(
        title=f"{', '.join(outcome.variants)} on {', '.join(outcome.workloads)}",
        facts=_facts(results, outcome),
        tables=tuple(tables),
        words=words,
        notes=tuple(f"{name}: {says}" for name, says in (*outcome.says.items(), *DEFINITIONS)),
    )


def to_text(page: Page) -> str:
    """Returns a page for a terminal."""
    blocks = ["\n".join(page.facts)]
    for each in page.tables:
        align = "<".ljust(len(each.head), ">")
        blocks.append("\n".join([each.title, *table((each.head, *each.rows), align=align, width=_ANY_WIDTH)]))
    blocks += ["\n".join(page.words), "\n".join(page.notes)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_html(page: Page, *, picture: str) -> str:
    """Returns a page as one HTML file that needs no other.

    Args:
        page: what it says.
        picture: an SVG.
    """
    escape = html.escape
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        f"<title>{escape(page.title)}</title>",
        "<style>body{font:14px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem;"
        "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}</style>",
        f"<h1>{escape(page.title)}</h1>",
        *(f"<p>{escape(fact)}</p>" for fact in page.facts),
        picture,
    ]
    for each in page.tables:
        parts.append(f"<h2>{escape(each.title)}</h2><table>")
        parts.append("<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in each.head) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in each.rows]
        parts.append("</table>")
    for title, items in (("What can be concluded", page.words), ("What the words mean", page.notes)):
        if items:
            parts += [f"<h2>{title}</h2><ul>", *(f"<li>{escape(item)}</li>" for item in items), "</ul>"]
    return "\n".join([*parts, "</html>"]) + "\n"


def curves_svg(results: dict[str, Any]) -> str:
    """Returns the best-so-far speed-ups against samples as an SVG: medians, bands from the slowest to the fastest."""
    outcome = Outcome(results)
    return draw(
        outcome.curves(),
        footnote=_facts(results, outcome)[0],
        title="Speed-up of the best program so far",
        axis="times as fast as untuned",
        lines=outcome.reference_speedups(),
    )


# -- inside -----------------------------------------------------------------------------------------------------------


def _facts(results: dict[str, Any], outcome: Outcome) -> tuple[str, ...]:
    machine, versions = results["machine"], results["fingerprint"]["versions"]
    seeds = len(outcome.seeds)
    return (
        f"{machine['name']}, {machine['num_cores']} cores, {machine['isa']}, peak {machine['peak_flops'] / 1e9:.0f} "
        f"GFLOP/s, apache-tvm {versions['apache-tvm']}; {results['samples']} samples, "
        f"{seeds} seed{'s' if seeds != 1 else ''}, median (least to greatest)",
        f"Command: {results['command']}",
        f"Baseline: {outcome.baseline}",
    )


def _progress(outcome: Outcome, workload: str) -> list[Table]:
    """Returns the table of the best so far after some numbers of samples, as the paper's figures have it."""
    curves = outcome.curves().get(workload, ())
    most = max((len(line) for curve in curves for line in curve.values), default=0)
    at = [n for n in (1, 2, *(4 * 2**k for k in range(20))) if n < most] + [most]
    rows = tuple((curve.name, *(_ratio(curve.median_at(n)) for n in at)) for curve in curves)
    return [Table(f"{workload}: speed-up after so many samples", ("", *map(str, at)), rows)] if rows else []


def _row(row: Row, baseline: str) -> tuple[str, ...]:
    name = f"{row.variant} (baseline)" if row.variant == baseline else row.variant
    if row.num_failed:
        name += f" ({row.num_failed} of {row.num_failed + row.num_seeds} runs measured nothing)"
    return (
        name,
        _spread(row.speedup, ratio_text),
        _spread(row.samples, _whole),
        _ratio(row.reduction),
        _ratio(row.efficiency),
        _at(row.matched, row.num_matched, row),
    )


def _at(matched: Spread | None, num_matched: int, row: Row) -> str:
    """Returns at which sample something is matched, and in how many of a row's seeds it is."""
    if matched is None:
        return "never"
    seeds = "" if num_matched == row.num_seeds else f", in {num_matched} of {row.num_seeds} seeds"
    return f"{_spread(matched, _whole)}{seeds}"


def _cost_row(row: Row) -> tuple[str, ...]:
    return (
        row.variant,
        _spread(row.wall_secs, time_text),
        f"{row.calls:.3g}" if row.calls else "–",
        f"{row.tokens:,.0f}" if row.tokens else "–",
        "unknown" if row.usd is None else f"{row.usd:.4f}" if row.usd else "–",
        "no model" if row.fallback_rate is None else share_text(row.fallback_rate),
    )


def _spread(spread: Spread | None, text: Any) -> str:
    if spread is None:
        return "–"
    if spread.low == spread.high:
        return text(spread.median)
    return f"{text(spread.median)} ({text(spread.low)} to {text(spread.high)})"


def _whole(value: float) -> str:
    return f"{value:g}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else ratio_text(value)

"""A run's summary as text for a terminal, and as JSON for a script."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reasoning_compiler.core.programs import Value
from reasoning_compiler.report.plot import bar, curve_lines
from reasoning_compiler.report.summary import PathStep, Summary, Timing
from reasoning_compiler.report.units import (
    bandwidth_text,
    flops_text,
    range_text,
    ratio_text,
    share_text,
    time_text,
)

_MIN_WIDTH = 60
_MIN_NAME_WIDTH = 8
_BAR_WIDTH = 30
_REASONING_LINES = 12
_DISTURBED = 1.1  # a program timed again that takes this many times as long has been disturbed
_MODEL_PROPOSERS = ("llm", "paper")
_INDENT = "  "


def to_text(summary: Summary, *, width: int = 100) -> str:
    """Returns the report of a run, in lines of at most `width` columns (60 at least) and without colours.

    Nothing that a model or a compiler wrote can steer the terminal: what is not printable is left out.
    """
    width = max(width, _MIN_WIDTH)
    sections: tuple[Callable[[Summary, int], list[str]], ...] = (
        _head,
        _result,
        _noise,
        _curve,
        _samples,
        _fidelity,
        _proposers,
        _models,
        _stages,
        _path,
    )
    blocks = [lines for section in sections if (lines := section(summary, width))]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in blocks) + "\n"


def to_json(summary: Summary) -> dict[str, Any]:
    """Returns the summary as JSON values: the same names, tuples as lists, times in seconds."""
    return _as_lists(asdict(summary) | {"header": summary.header.to_json()})


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(v) for name, v in value.items()}
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value


# -- sections ------------------------------------------------------------------------------------------------


def _head(summary: Summary, width: int) -> list[str]:
    header, machine = summary.header, summary.header.machine
    best = header.best_peak
    by = f" of float32, {flops_text(best.flops)} by {best.instruction}" if best.instruction else ""
    peaks = (
        f"{'measured' if machine.measured else 'published'} peak {flops_text(machine.peak_flops)}{by}, "
        f"{bandwidth_text(machine.bandwidth_bytes_per_sec)}"
    )
    elapsed = time_text(summary.elapsed_secs)
    status = "not finished" if summary.status == "interrupted" else f"finished: {summary.status}"
    return [
        *_wrap(header.spec, width),
        "═" * min(width, max(len(printable(header.spec)), 1)),
        *_wrap(f"{machine.name}, {_count(machine.num_cores, 'core')}, {machine.isa}, {peaks}", width),
        *_wrap(f"{_count(summary.samples.total, 'sample')} in {elapsed}, {status}", width),
        *_wrap(header.command, width),
    ]


def _result(summary: Summary, width: int) -> list[str]:
    rows = [
        _timing_row(name, timing)
        for name, timing in (("untuned", summary.untuned), ("best", summary.best))
        if timing is not None
    ]
    lines = ["Result"]
    if rows:
        heads = ("", "median", "min", "middle half", "speed", "of peak", "bandwidth")
        lines += _table([heads, *rows], align="<>>>>>>", width=width)
    if summary.untuned is None:
        why = f"failed, {summary.untuned_failure}" if summary.untuned_failure else "not measured"
        lines += _wrap(f"untuned: {why}", width, _INDENT)
    if summary.best is None:
        lines += _wrap("best: nothing has been measured and verified", width, _INDENT)
    elif summary.best.node == 0:
        lines += _wrap("nothing faster than the untuned program was found", width, _INDENT)
    if summary.speedup is not None:
        how = "measured side by side at the end" if summary.confirmed else "as measured during the search"
        runs = f"medians of {summary.untuned.num_runs} and {summary.best.num_runs} runs"
        lines += _wrap(f"{ratio_text(summary.speedup)} as fast as untuned, {how} ({runs})", width, _INDENT)
    if summary.header.config.get("flush_cache"):
        lines += _wrap("each timing began with cold caches", width, _INDENT)
    return lines


def _noise(summary: Summary, width: int) -> list[str]:
    noise = summary.noise
    if noise is None:
        return []
    same = noise.same
    is_same = same.verdict == "no difference"
    verdict = same.verdict if is_same else f"{same.verdict}, so that differences of this size mean nothing here"
    lines = [
        "Noise",
        *_wrap(
            f"one program timed in turns with itself: {_percent_text(same.ratio)} "
            f"({_percent_text(same.low)} to {_percent_text(same.high)}, {same.num_pairs} pairs): {verdict}",
            width,
            _INDENT,
        ),
        *_wrap(f"the middle half of its timings lies within ±{noise.spread:.1%} of the median", width, _INDENT),
    ]
    if noise.drift:
        least, most = min(noise.drift), max(noise.drift)
        text = (
            f"the best program so far, timed again {_count(len(noise.drift), 'time')} during the run: "
            f"{_percent_text(least)} to {_percent_text(most)} against when it was new"
        )
        lines += _wrap(text, width, _INDENT)
        if most > _DISTURBED:
            why = "the machine was slower for a while: something else ran on it, or its clock dropped"
            lines += _wrap(f"{why}; times of programs from then are too long", width, _INDENT)
    if noise.left_out:
        sets = ", ".join(noise.left_out)
        text = f"not verified on {sets} inputs, on which the untuned program is not right itself, or takes too long"
        lines += _wrap(text, width, _INDENT)
    return lines


def _percent_text(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"


def _timing_row(name: str, timing: Timing) -> tuple[str, ...]:
    return (
        name,
        time_text(timing.median_secs),
        time_text(timing.min_secs),
        range_text(timing.q1_secs, timing.q3_secs),
        flops_text(timing.flops_per_sec),
        "" if timing.peak_share is None else share_text(timing.peak_share),
        "" if timing.bandwidth_share is None else share_text(timing.bandwidth_share),
    )


def _curve(summary: Summary, width: int) -> list[str]:
    points = [(p.sample, p.speedup) for p in summary.curve if p.speedup is not None]
    if not points or points[-1][0] == 0:
        return []
    title = "Best so far, times as fast as untuned"
    return [title, *(_INDENT + line for line in curve_lines(points, width=width - len(_INDENT)))]


def _samples(summary: Summary, width: int) -> list[str]:
    counts = summary.samples
    if not counts.total:
        return []
    parts = [f"{counts.full} measured in full", f"{counts.cut} cut early"]
    num_failed = sum(number for _, number in counts.failed)
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.failed)
    parts.append(f"{num_failed} failed ({kinds})" if kinds else "none failed")
    if counts.unverified:
        parts.append(f"{counts.unverified} not verified")
    lines = ["Samples", *_wrap(", ".join(parts), width, _INDENT)]
    if summary.best is None or summary.best.node == 0:
        for kind, message in counts.messages:
            lines += _wrap(f"most of {kind}: {printable(message)}", width, _INDENT)
    if summary.num_crashes:
        times = "once" if summary.num_crashes == 1 else f"{summary.num_crashes} times"
        lines += _wrap(f"TVM ended the search {times}; what it was applying was left out", width, _INDENT)
    if summary.samples_until_best:
        lines += _wrap(f"the best was sample {summary.samples_until_best} of {counts.total}", width, _INDENT)
    return lines


def _fidelity(summary: Summary, width: int) -> list[str]:
    fidelity = summary.fidelity
    if fidelity.tau is None:
        return []
    stages = fidelity.stages if len(fidelity.stages) > 1 else ()
    heads = ("", "programs", "τ", "fastest", "top 5", "off by")
    rows = [
        (
            name,
            str(each.num_programs),
            "" if each.tau is None else f"{each.tau:.2f}",
            "" if each.top1 is None else share_text(each.top1),
            "" if each.top5 is None else share_text(each.top5),
            "" if each.error is None else ratio_text(each.error),
        )
        for name, each in (("all", fidelity), *((stage.name, stage.agreement) for stage in stages))
    ]
    text = "τ (Kendall's): 1 is the hardware's order, 0 is chance; fastest and top 5: how many were predicted to be so"
    lines = ["Predictions, against what was measured", *_table([heads, *rows], align="<>>>>>", width=width)]
    return lines + _wrap(text, width, _INDENT)


def _proposers(summary: Summary, width: int) -> list[str]:
    if not summary.proposers:
        return []
    heads = ("", "programs", "measured", "failed", "new best", "refused")
    rows = [
        (
            share.name,
            str(share.num_nodes),
            str(share.num_measured),
            str(share.num_failed),
            str(share.num_improvements),
            str(share.num_rejected),
        )
        for share in summary.proposers
    ]
    return ["Who proposed what", *_table([heads, *rows], align="<>>>>>", width=width)]


def _models(summary: Summary, width: int) -> list[str]:
    lines = []
    for use in summary.models:
        stats = use.stats
        rate = f", fallback rate {share_text(stats['fallback_rate'])}" if stats["expansions"] else ""
        lines += _wrap(
            f"{stats['model']}: {_count(stats['calls'], 'call')}, {_spent_text(stats)}; "
            f"{stats['children']} of its transformations could be used, {stats['fallback_children']} others were "
            f"supplied; {_count(stats['expansions'], 'question')}{rate}",
            width,
            _INDENT,
        )
        told = (
            ("not usable in its answers", "rejections"),
            ("calls without an answer", "call_failures"),
            ("tries that failed", "retried"),
        )
        for what, name in told:
            counts = ", ".join(f"{count} {kind}" for kind, count in stats[name].items())
            lines += _wrap(f"{what}: {counts}", width, _INDENT) if counts else []
        for notice in use.notices:
            lines += _wrap(f"note: {notice}", width, _INDENT)
    num_tokens = sum(use.stats["spent"]["tokens"] for use in summary.models)
    if num_tokens and summary.samples.total:
        lines += _wrap(f"{num_tokens / summary.samples.total:,.0f} tokens for each measured program", width, _INDENT)
    return ["Language model", *lines] if lines else []


def _spent_text(stats: Mapping[str, Any]) -> str:
    spent, estimated = stats["spent"], stats.get("estimated_calls", 0)
    cost = f"${spent['usd']:.4f}"
    if spent["unpriced_calls"]:
        cost = "price unknown" if spent["unpriced_calls"] == spent["calls"] else f"{cost} and calls at an unknown price"
    told = f" (estimated for {_count(estimated, 'call')} that the server did not count)" if estimated else ""
    return f"{spent['tokens']:,} tokens{told}, {cost}"


def _stages(summary: Summary, width: int) -> list[str]:
    if not summary.stage_secs or summary.elapsed_secs <= 0:
        return []
    rows = []
    for stage, secs in summary.stage_secs:
        share = secs / summary.elapsed_secs
        rows.append((stage, time_text(secs), share_text(share), bar(share, _BAR_WIDTH)))
    rows.append(("wall time", time_text(summary.elapsed_secs), "", ""))
    return ["Time by stage", *_table(rows, align="<>><", width=width)]


def _path(summary: Summary, width: int) -> list[str]:
    if len(summary.path) < 2:
        return []
    lines = ["From the untuned program to the best, step by step"]
    models = ", ".join(dict.fromkeys(str(use.stats["model"]) for use in summary.models))
    for number, step in enumerate(summary.path):
        lines += _path_step(number, step, models, width)
    return lines


def _path_step(number: int, step: PathStep, models: str, width: int) -> list[str]:
    if step.failure is not None:
        result = f"failed ({step.failure})"
    elif step.latency_secs is None:
        result = "not measured"
    else:
        result = time_text(step.latency_secs, is_bound=step.is_bound) + (", cut early" if step.is_cut else "")
    gain = f", {ratio_text(step.gain)} as fast as before" if step.gain is not None else ""
    inner = _INDENT * 3
    who = f"{step.proposer} {models}" if models and step.proposer in _MODEL_PROPOSERS else step.proposer
    lines = _wrap(f"{number}. {who} (node {step.node}): {result}{gain}", width, _INDENT)
    changes = [_change_text(*change) for change in step.changes]
    changes += [*step.applied, *(f"no longer: {words}" for words in step.left_out)]
    lines += _wrap_items(changes, width, inner)
    lines += _wrap(step.reasoning, width, inner, max_lines=_REASONING_LINES)
    if step.expectation:
        lines += _wrap(f"expected: {step.expectation}", width, inner)
    return lines


def _change_text(name: str, old: Value | None, new: Value | None) -> str:
    if old is None:
        return f"{name} = {_value_text(new)}"
    if new is None:
        return f"{name} gone"
    return f"{name} {_value_text(old)} → {_value_text(new)}"


def _value_text(value: Value | None) -> str:
    """Returns a decision's value in words; of a block's location, a loop is told by its depth from outside."""
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return {-2: "inlined", -1: "root"}.get(value, str(value)) if isinstance(value, int) else str(value)


# -- lines ---------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Returns the text as one line of printable characters: no escape sequence reaches the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _wrap(text: str, width: int, indent: str = "", *, max_lines: int = 4) -> list[str]:
    return _filled(printable(text), width, indent, max_lines=max_lines)


def _wrap_items(items: Iterable[str], width: int, indent: str) -> list[str]:
    """Returns lines of items behind each other, each kept whole where it fits."""
    glued = (printable(item).replace(" ", "\u00a0") for item in items)
    return [line.replace("\u00a0", " ") for line in _filled("; ".join(glued), width, indent, max_lines=None)]


def _filled(text: str, width: int, indent: str, *, max_lines: int | None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        max_lines=max_lines,
        placeholder=" …",
    )


def _table(rows: Sequence[Sequence[str]], *, align: str, width: int) -> list[str]:
    """Returns lines with the cells under each other; `align` has a `<` or `>` for each column."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(align))]
    excess = len(_INDENT) * len(widths) + sum(widths) - width
    if excess > 0:
        widths[0] = max(widths[0] - excess, _MIN_NAME_WIDTH)
    lines = []
    for row in cells:
        row[0] = _shortened(row[0], widths[0])
        line = "".join(f"{_INDENT}{cell:{side}{w}}" for cell, side, w in zip(row, align, widths, strict=True))
        lines.append(_shortened(line.rstrip(), width))
    return lines


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

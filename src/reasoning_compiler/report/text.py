"""A run's summary as text for a terminal, and as JSON for a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reasoning_compiler.core.programs import Value
from reasoning_compiler.report.fidelity import AGREEMENT_WORDS, Stage, agreement_lines
from reasoning_compiler.report.lines import INDENT, count, printable, table, wrap, wrap_items
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

Section = Callable[[Summary, int], list[str]]
"""Returns the lines of one section, none where it has nothing to say."""

_MIN_WIDTH = 60
_BAR_WIDTH = 30
_REASONING_LINES = 12
_DISTURBED = 1.1  # a program timed again that takes this many times as long has been disturbed
_MODEL_PROPOSERS = ("llm", "paper")
_ENDS = {"samples": "sample limit reached", "minutes": "time limit reached", "patience": "no further improvement"}


def to_text(summary: Summary, *, width: int = 100) -> str:
    """Returns the report of a run, in lines of at most `width` columns (60 at least) and without colours.

    Nothing that a model or a compiler wrote can steer the terminal: what is not printable is left out.
    """
    return _joined(_blocks((_head, *_TASK, _models, _stages, _path), summary, max(width, _MIN_WIDTH)))


def session_text(summaries: Sequence[Summary], *, width: int = 100) -> str:
    """Returns the report of a session: of one task as `to_text`, of several a summary and a section for each.

    Args:
        summaries: of the session's tasks, one at least.
        width: see `to_text`.
    """
    first, *others = summaries
    if not others:
        return to_text(first, width=width)
    width = max(width, _MIN_WIDTH)
    num_measured = sum(summary.samples.total for summary in summaries)
    blocks = [_session(summaries, width), _models(first, width, num_measured=num_measured), _stages(first, width)]
    for summary in summaries:
        blocks += [_title(_task_title(summary), width), *_blocks((*_TASK, _path), summary, width)]
    return _joined([block for block in blocks if block])


def _blocks(sections: Iterable[Section], summary: Summary, width: int) -> list[list[str]]:
    return [lines for section in sections if (lines := section(summary, width))]


def _joined(blocks: Iterable[Sequence[str]]) -> str:
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
    return [
        *_title(header.spec, width),
        *wrap(f"{machine.name}, {count(machine.num_cores, 'core')}, {machine.isa}, {peaks}", width),
        *wrap(_effort([summary]), width),
        *wrap(header.command, width),
    ]


def _title(text: str, width: int) -> list[str]:
    return [*wrap(text, width), "═" * min(width, max(len(printable(text)), 1))]


def _effort(summaries: Sequence[Summary]) -> str:
    """Returns how much was measured in which time, and why it ended."""
    ends = dict.fromkeys(summary.status for summary in summaries)
    reached = ", ".join(_ENDS.get(end, end) for end in ends)
    status = "not finished" if "interrupted" in ends else f"finished: {reached}"
    num_samples = sum(summary.samples.total for summary in summaries)
    return f"{count(num_samples, 'sample')} in {time_text(summaries[0].elapsed_secs)}, {status}"


def _session(summaries: Sequence[Summary], width: int) -> list[str]:
    """Returns what all tasks together came to, a line each."""
    header = summaries[0].header
    heads = ("", "weight", "samples", "untuned", "best", "")
    rows = [
        (
            summary.header.task,
            f"{summary.header.weight:g}",
            str(summary.samples.total),
            "" if summary.untuned is None else time_text(summary.untuned.median_secs),
            "nothing yet" if summary.best is None else time_text(summary.best.median_secs),
            "" if summary.speedup is None else ratio_text(summary.speedup),
        )
        for summary in summaries
    ]
    lines = [
        *_title(f"{len(summaries)} tasks on {header.machine.name}", width),
        *wrap(_effort(summaries), width),
        *wrap(header.command, width),
        "",
        *table([heads, *rows], align="<>>>>>", width=width),
    ]
    times = [(s.header.weight, s.untuned, s.best) for s in summaries]
    if all(untuned is not None and best is not None for _, untuned, best in times):
        before, after = (sum(t[0] * t[which].median_secs for t in times) for which in (1, 2))
        lines += wrap(
            f"weighted sum: {time_text(before)} untuned, {time_text(after)} tuned ({ratio_text(before / after)})",
            width,
            INDENT,
        )
    return lines


def _task_title(summary: Summary) -> str:
    header = summary.header
    return header.spec if header.task == header.spec else f"{header.task}: {header.spec}"


def _result(summary: Summary, width: int) -> list[str]:
    rows = [
        _timing_row(name, timing)
        for name, timing in (("untuned", summary.untuned), ("best", summary.best))
        if timing is not None
    ]
    lines = ["Result"]
    if rows:
        heads = ("", "median", "min", "middle half", "speed", "of peak", "bandwidth")
        lines += table([heads, *rows], align="<>>>>>>", width=width)
    if summary.untuned is None:
        why = f"failed, {summary.untuned_failure}" if summary.untuned_failure else "not measured"
        lines += wrap(f"untuned: {why}", width, INDENT)
    if summary.best is None:
        lines += wrap("best: no program has been measured and verified", width, INDENT)
    elif summary.best.node == 0:
        lines += wrap("nothing faster was found; the library is the kernel as written", width, INDENT)
    if summary.speedup is not None:
        how = "final comparison" if summary.confirmed else "measured during the search"
        runs = f"medians of {summary.untuned.num_runs} and {summary.best.num_runs} timings"
        lines += wrap(f"speed-up over untuned: {ratio_text(summary.speedup)} ({how}, {runs})", width, INDENT)
    if summary.header.config.get("flush_cache"):
        lines += wrap("caches were flushed before each timing", width, INDENT)
    return lines


def _noise(summary: Summary, width: int) -> list[str]:
    noise = summary.noise
    if noise is None:
        return []
    same = noise.same
    is_same = same.verdict == "no difference"
    verdict = same.verdict if is_same else f"{same.verdict}; differences of this size are noise on this machine"
    lines = [
        "Noise",
        *wrap(
            f"the best program against itself: {_percent_text(same.ratio)} "
            f"({_percent_text(same.low)} to {_percent_text(same.high)} in {same.num_pairs} pairs): {verdict}",
            width,
            INDENT,
        ),
        *wrap(f"half the interquartile range of its timings: {noise.spread:.1%} of the median", width, INDENT),
    ]
    if noise.drift:
        least, most = min(noise.drift), max(noise.drift)
        text = (
            f"the best program so far, timed again {count(len(noise.drift), 'time')} during the run: "
            f"{_percent_text(least)} to {_percent_text(most)} compared with its first measurement"
        )
        lines += wrap(text, width, INDENT)
        if most > _DISTURBED:
            why = "the machine was slower for a while, because of other load or a lower clock frequency"
            lines += wrap(f"{why}; latencies measured then are too high", width, INDENT)
    if noise.inexact:
        text = f"the kernel as written is inexact, it misses the tolerance itself: {noise.inexact}"
        lines += wrap(text, width, INDENT)
    if noise.left_out:
        sets = ", ".join(noise.left_out)
        why = "because the untuned program fails on them or takes too long"
        text = f"input sets left out of verification, {why}: {sets}"
        lines += wrap(text, width, INDENT)
    return lines


def _percent_text(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"


def _timing_row(name: str, timing: Timing) -> tuple[str, ...]:
    return (
        name,
        time_text(timing.median_secs),
        time_text(timing.min_secs),
        range_text(timing.q1_secs, timing.q3_secs),
        "unknown" if timing.flops_per_sec is None else flops_text(timing.flops_per_sec),
        "" if timing.peak_share is None else share_text(timing.peak_share),
        "" if timing.bandwidth_share is None else share_text(timing.bandwidth_share),
    )


def _curve(summary: Summary, width: int) -> list[str]:
    points = [(p.sample, p.speedup) for p in summary.curve if p.speedup is not None]
    if not points or points[-1][0] == 0:
        return []
    title = "Best so far: speed-up over untuned"
    return [title, *(INDENT + line for line in curve_lines(points, width=width - len(INDENT)))]


def _samples(summary: Summary, width: int) -> list[str]:
    counts = summary.samples
    if not counts.total:
        return []
    parts = [f"{counts.full} measured in full", f"{counts.cut} stopped early"]
    num_failed = sum(number for _, number in counts.failed)
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.failed)
    parts.append(f"{num_failed} failed ({kinds})" if kinds else "none failed")
    if counts.unverified:
        parts.append(f"{counts.unverified} not verified")
    lines = ["Samples", *wrap(", ".join(parts), width, INDENT)]
    if summary.best is None or summary.best.node == 0:
        for kind, message in counts.messages:
            lines += wrap(f"most frequent {kind}: {printable(message)}", width, INDENT)
    if summary.num_crashes:
        times = "once" if summary.num_crashes == 1 else f"{summary.num_crashes} times"
        lines += wrap(f"TVM crashed the search {times}; the search avoids the programs that caused it", width, INDENT)
    if summary.samples_until_best:
        lines += wrap(f"the best was sample {summary.samples_until_best} of {counts.total}", width, INDENT)
    return lines


def _fidelity(summary: Summary, width: int) -> list[str]:
    fidelity = summary.fidelity
    if fidelity.tau is None:
        return []
    stages = fidelity.stages if len(fidelity.stages) > 1 else ()
    lines = ["Predictions compared with measurements", *agreement_lines((Stage("all", fidelity), *stages), width)]
    return lines + wrap(AGREEMENT_WORDS, width, INDENT)


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
    return ["Proposers", *table([heads, *rows], align="<>>>>>", width=width)]


def _models(summary: Summary, width: int, *, num_measured: int | None = None) -> list[str]:
    lines = []
    for use in summary.models:
        stats = use.stats
        rate = f", fallback rate {share_text(stats['fallback_rate'])}" if stats["expansions"] else ""
        lines += wrap(
            f"{stats['model']}: {count(stats['calls'], 'call')}, {_spent_text(stats)}; "
            f"{count(stats['expansions'], 'question')}, {count(stats['children'], 'usable transformation')}, "
            f"{stats['fallback_children']} more from the fallback{rate}",
            width,
            INDENT,
        )
        problems = (
            ("rejected transformations", "rejections"),
            ("failed calls", "call_failures"),
            ("failed attempts that were retried", "retried"),
        )
        for what, name in problems:
            counts = ", ".join(f"{count} {kind}" for kind, count in stats[name].items())
            lines += wrap(f"{what}: {counts}", width, INDENT) if counts else []
        for notice in use.notices:
            lines += wrap(f"note: {notice}", width, INDENT)
    num_tokens = sum(use.stats["spent"]["tokens"] for use in summary.models)
    num_measured = summary.samples.total if num_measured is None else num_measured
    if num_tokens and num_measured:
        lines += wrap(f"{num_tokens / num_measured:,.0f} tokens per measured program", width, INDENT)
    return ["Language model", *lines] if lines else []


def _spent_text(stats: Mapping[str, Any]) -> str:
    spent, estimated = stats["spent"], stats.get("estimated_calls", 0)
    cost = f"${spent['usd']:.4f}"
    if spent["unpriced_calls"]:
        cost = "price unknown" if spent["unpriced_calls"] == spent["calls"] else f"{cost} plus calls of unknown price"
    by_us = f" (estimated for {count(estimated, 'call')}: the server reported none)" if estimated else ""
    return f"{spent['tokens']:,} tokens{by_us}, {cost}"


def _stages(summary: Summary, width: int) -> list[str]:
    if not summary.stage_secs or summary.elapsed_secs <= 0:
        return []
    rows = []
    for stage, secs in summary.stage_secs:
        share = secs / summary.elapsed_secs
        rows.append((stage, time_text(secs), share_text(share), bar(share, _BAR_WIDTH)))
    rows.append(("wall time", time_text(summary.elapsed_secs), "", ""))
    return ["Time by stage", *table(rows, align="<>><", width=width)]


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
        result = time_text(step.latency_secs, is_bound=step.is_bound) + (", stopped early" if step.is_cut else "")
    gain = f", speed-up {ratio_text(step.gain)}" if step.gain is not None else ""
    inner = INDENT * 3
    who = f"{step.proposer} {models}" if models and step.proposer in _MODEL_PROPOSERS else step.proposer
    lines = wrap(f"{number}. {who} (node {step.node}): {result}{gain}", width, INDENT)
    changes = [_change_text(*change) for change in step.changes]
    changes += [*step.applied, *(f"dropped: {words}" for words in step.left_out)]
    lines += wrap_items(changes, width, inner)
    lines += wrap(step.reasoning, width, inner, max_lines=_REASONING_LINES)
    if step.expectation:
        lines += wrap(f"expected: {step.expectation}", width, inner)
    return lines


def _change_text(name: str, old: Value | None, new: Value | None) -> str:
    if old is None:
        return f"{name} = {_value_text(new)}"
    if new is None:
        return f"{name} removed"
    return f"{name} {_value_text(old)} → {_value_text(new)}"


def _value_text(value: Value | None) -> str:
    """Returns a decision's value in words; of a block's location, a loop is told by its depth from outside."""
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return {-2: "inlined", -1: "root"}.get(value, str(value)) if isinstance(value, int) else str(value)


_TASK: tuple[Section, ...] = (_result, _noise, _curve, _samples, _fidelity, _proposers)
"""What a report says of each task, whether alone in its session or not."""

"""A run in numbers: pure functions from the journal's record to the report's."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

from reasoning_compiler.core.measurements import Measurement, Noise
from reasoning_compiler.core.programs import UNTUNED, Value, difference, primitive_changes
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Header, ModelUse, Run
from reasoning_compiler.report.fidelity import Agreement, Stage, of_runs, predicts_scores


@dataclass(frozen=True)
class Timing:
    """One program's latencies, and what they mean on the machine.

    Args:
        node: the program's node.
        num_runs: timed runs.
        min_secs, q1_secs, median_secs, q3_secs: the fastest run, and the quartiles.
        flops_per_sec: floating-point operations per second, at the median; None where their number is not known.
        peak_share: the same over the machine's peak for the kernel's types; None where that is not known.
        bandwidth_share: the least traffic to memory over the median, as a share of the machine's bandwidth; above 1
            where the data stay in a cache.
    """

    node: int
    num_runs: int
    min_secs: float
    q1_secs: float
    median_secs: float
    q3_secs: float
    flops_per_sec: float | None
    peak_share: float | None
    bandwidth_share: float | None


@dataclass(frozen=True)
class SampleCounts:
    """What became of the measured programs, the untuned one not counted.

    Args:
        total: all of them.
        full: measured in full.
        cut: stopped early because they had lost.
        unverified: of the full ones, those whose output was not compared with the reference.
        failed: (kind, number), most frequent first.
        messages: (kind, what most failures of the kind said), in the same order.
    """

    total: int
    full: int
    cut: int
    unverified: int
    failed: tuple[tuple[str, int], ...]
    messages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ProposerShare:
    """What one proposer brought to the run.

    Args:
        name: the proposer's.
        num_nodes: programs that it added to the tree.
        num_measured: of these, measured ones.
        num_failed: of these, failures.
        num_improvements: of these, those that were the best so far.
        num_rejected: proposals of its that the space refused.
    """

    name: str
    num_nodes: int
    num_measured: int
    num_failed: int
    num_improvements: int
    num_rejected: int


@dataclass(frozen=True)
class CurvePoint:
    """The best so far: after how many samples and seconds, its latency, and its speed-up over untuned."""

    sample: int
    at_secs: float
    latency_secs: float
    speedup: float | None


@dataclass(frozen=True)
class PathStep:
    """One step on the way from the untuned program to the best.

    Args:
        node: its number.
        proposer: who proposed it.
        reasoning: in the proposer's words.
        expectation: what the proposer expected of it.
        changes: (decision, old value, new value), None where a program has no such decision.
        applied: primitives that came after them, in words.
        left_out: primitives of the step before that this one no longer has, in words.
        latency_secs: as measured in the search; None where it failed or was not measured.
        is_cut: the latency is a rough one.
        is_bound: the latency is only a lower bound.
        failure: the kind of failure; None where it did not fail.
        gain: how many times as fast as the last step before it that was measured in full; None where there is
            none, or this one was not.
    """

    node: int
    proposer: str
    reasoning: str
    expectation: str
    changes: tuple[tuple[str, Value | None, Value | None], ...]
    applied: tuple[str, ...]
    left_out: tuple[str, ...]
    latency_secs: float | None
    is_cut: bool
    is_bound: bool
    failure: str | None
    gain: float | None


@dataclass(frozen=True)
class Fidelity(Agreement):
    """How well predictions agree with what was measured later: of the whole run, and by stage.

    Args:
        stages: the same for each part of the run that has programs with both.
    """

    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Summary:
    """What a run comes to.

    Args:
        header: what the run is of.
        status: why it ended, or "interrupted" where it did not (it may still be going).
        untuned: the untuned program's timing; None where it has none.
        untuned_failure: why it has none; None where it was not measured, or has.
        best: the timing of what the run hands out; None where nothing was measured and verified.
        confirmed: `untuned` and `best` were measured side by side at the end.
        speedup: untuned over best.
        noise: how much timings vary where nothing differs; None where that was not measured.
        samples: what became of the measured programs.
        samples_until_best: samples up to the best, itself counted; None without a best.
        proposers: the most nodes first.
        num_rejected: proposals that the space refused.
        fallback_rate: share of the questions to a language model of whose answers nothing was usable, so that the
            fallback proposed; None where no model was asked.
        stage_secs: (stage, seconds), longest first; stages that overlap add up to more than the total.
        models: what a language model did, for each process that worked on the run with one.
        elapsed_secs: the run's wall time, pauses between its processes left out.
        curve: the best so far after each sample.
        path: from the untuned program to the best.
        fidelity: of the predictions.
        num_crashes: processes that TVM has ended, and from which the run went on.
    """

    header: Header
    status: str
    untuned: Timing | None
    untuned_failure: str | None
    best: Timing | None
    confirmed: bool
    speedup: float | None
    noise: Noise | None
    samples: SampleCounts
    samples_until_best: int | None
    proposers: tuple[ProposerShare, ...]
    num_rejected: int
    fallback_rate: float | None
    stage_secs: tuple[tuple[str, float], ...]
    models: tuple[ModelUse, ...]
    elapsed_secs: float
    curve: tuple[CurvePoint, ...]
    path: tuple[PathStep, ...]
    fidelity: Fidelity
    num_crashes: int


def summarize(run: Run) -> Summary:
    """Returns the numbers of a run; of one that is still going or was interrupted, those so far."""
    outcome = run.outcome
    order = _order_of_measuring(run)
    curve, improvements = _best_so_far(run, order)
    failure = outcome.untuned.failure if outcome.untuned else None
    return Summary(
        header=run.header,
        status=run.ended.reason if run.ended else "interrupted",
        untuned=_timing(run.header, 0, outcome.untuned),
        untuned_failure=f"{failure.kind}: {failure.message}" if failure else None,
        best=_timing(run.header, outcome.step.node, outcome.best) if outcome.step else None,
        confirmed=outcome.confirmed,
        speedup=outcome.speedup,
        noise=run.noise,
        samples=_counts(run),
        samples_until_best=order.get(outcome.step.node) if outcome.step else None,
        proposers=_proposers(run, improvements),
        num_rejected=len(run.rejected),
        fallback_rate=_fallback_rate(run.models),
        stage_secs=tuple(sorted(run.stage_secs.items(), key=lambda item: (-item[1], item[0]))),
        models=run.models,
        elapsed_secs=run.elapsed_secs,
        curve=curve,
        path=_path(run, outcome.step) if outcome.step else (),
        fidelity=_fidelity(run),
        num_crashes=len(run.crashes),
    )


def _is_full(measurement: Measurement | None) -> bool:
    """Returns whether a measurement is a latency to compare with: no failure, and not cut."""
    return measurement is not None and measurement.is_full


def _timing(header: Header, node: int, measurement: Measurement | None) -> Timing | None:
    if measurement is None or not measurement.ok:
        return None
    secs = measurement.latencies_secs
    median_secs = measurement.latency_secs
    quartiles = statistics.quantiles(secs, n=4, method="inclusive") if len(secs) > 1 else [median_secs] * 3
    flops_per_sec = None if header.flops is None else header.flops / median_secs
    peak_flops, bandwidth = header.best_peak.flops, header.machine.bandwidth_bytes_per_sec
    return Timing(
        node=node,
        num_runs=len(secs),
        min_secs=min(secs),
        q1_secs=quartiles[0],
        median_secs=median_secs,
        q3_secs=quartiles[2],
        flops_per_sec=flops_per_sec,
        peak_share=flops_per_sec / peak_flops if flops_per_sec is not None and peak_flops > 0 else None,
        bandwidth_share=header.bytes / median_secs / bandwidth if bandwidth > 0 else None,
    )


def _order_of_measuring(run: Run) -> dict[int, int]:
    """Returns which sample each measured node was: 0 for the untuned one, the others counted from 1."""
    order = {0: 0}
    for sample in run.samples:
        order.setdefault(sample.node, len(order))
    return order


def _best_so_far(run: Run, order: dict[int, int]) -> tuple[tuple[CurvePoint, ...], list[int]]:
    """Returns the best after each sample, and the nodes that were a new best when they were measured."""
    baseline = run.untuned.latency_secs if _is_full(run.untuned) else None
    best_secs = None
    num_samples = 0
    points, improvements = [], []
    for sample in run.samples:
        num_samples = max(num_samples, order[sample.node])
        measurement = sample.measurement
        if _is_full(measurement) and measurement.verified:
            secs = measurement.latency_secs
            if best_secs is None or secs < best_secs:
                best_secs = secs
                improvements.append(sample.node)
        if best_secs is not None:
            speedup = baseline / best_secs if baseline else None
            points.append(CurvePoint(num_samples, sample.at_secs, best_secs, speedup))
    return tuple(points), improvements


def _counts(run: Run) -> SampleCounts:
    measured = [step.measurement for step in run.steps if step.measurement and step.node != 0]
    full = [m for m in measured if _is_full(m)]
    failures = [m.failure for m in measured if m.failure]
    kinds = Counter(failure.kind for failure in failures)
    failed = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    said = {kind: Counter(f.message for f in failures if f.kind == kind).most_common(1)[0][0] for kind in kinds}
    return SampleCounts(
        total=len(measured),
        full=len(full),
        cut=sum(m.ok and m.cut for m in measured),
        unverified=sum(not m.verified for m in full),
        failed=tuple(failed),
        messages=tuple((kind, said[kind]) for kind, _ in failed),
    )


def _proposers(run: Run, improvements: list[int]) -> tuple[ProposerShare, ...]:
    steps = [step for step in run.steps if step.node != 0]
    nodes = Counter(step.proposer for step in steps)
    measured = Counter(step.proposer for step in steps if step.measurement)
    failed = Counter(step.proposer for step in steps if step.measurement and step.measurement.failure)
    improved = Counter(run.step(node).proposer for node in improvements)
    rejected = Counter(refusal.proposer for refusal in run.rejected)
    shares = [
        ProposerShare(name, nodes[name], measured[name], failed[name], improved[name], rejected[name])
        for name in nodes | rejected
    ]
    return tuple(sorted(shares, key=lambda share: (-share.num_nodes, share.name)))


def _fallback_rate(models: tuple[ModelUse, ...]) -> float | None:
    asked = sum(use.stats["expansions"] for use in models)
    return sum(use.stats["failed_expansions"] for use in models) / asked if asked else None


def _path(run: Run, best: Step) -> tuple[PathStep, ...]:
    path: list[PathStep] = []
    previous: Step | None = None
    reference_secs = None
    for step in run.path(best.node):
        measurement = step.measurement
        left_out, applied = primitive_changes(previous.program if previous else UNTUNED, step.program)
        latency_secs = measurement.latency_secs if measurement and measurement.ok else None
        full_secs = latency_secs if _is_full(measurement) else None
        path.append(
            PathStep(
                node=step.node,
                proposer=step.proposer,
                reasoning=step.reasoning,
                expectation=step.transformation.expectation if step.transformation else "",
                changes=difference(previous.program, step.program) if previous else (),
                applied=tuple(primitive.words for primitive in applied),
                left_out=tuple(primitive.words for primitive in left_out),
                latency_secs=latency_secs,
                is_cut=bool(measurement and measurement.cut),
                is_bound=bool(measurement and measurement.censored),
                failure=measurement.failure.kind if measurement and measurement.failure else None,
                gain=reference_secs / full_secs if reference_secs and full_secs else None,
            )
        )
        previous, reference_secs = step, full_secs or reference_secs
    return tuple(path)


def _fidelity(run: Run) -> Fidelity:
    total, stages = of_runs([run], in_seconds=not predicts_scores(run))
    return Fidelity(**vars(total), stages=stages)

"""How well predictions of programs agree with their measurements: of a run as a whole, and by stage; and as a table."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.journal import Run
from reasoning_compiler.report.lines import table
from reasoning_compiler.report.units import ratio_text, share_text

_STAGES = (16, 32, 64, 128, 256, 512, 1024)  # a stage ends with this sample
_TOP = (1, 5)

Pair = tuple[float, float]
"""What was predicted and what was measured, in seconds."""


@dataclass(frozen=True)
class Agreement:
    """How well predictions of some programs agree with their measurements.

    Args:
        num_programs: that have both.
        tau: Kendall's τ in [-1, 1]; None where there is no order.
        top1: whether the fastest is the one that was predicted so, in [0, 1]; None without programs.
        top5: share of the five fastest among the five that were predicted so.
        error: the median factor between prediction and measurement, ≥ 1; None where predictions are no seconds.
    """

    num_programs: int
    tau: float | None
    top1: float | None
    top5: float | None
    error: float | None


@dataclass(frozen=True)
class Stage:
    """The agreement in one part of the runs, or after so many programs were seen."""

    name: str
    agreement: Agreement


def agreement(groups: Sequence[Sequence[Pair]], *, in_seconds: bool = True) -> Agreement:
    """Returns the agreement of pairs; those of one group are ranked among themselves, and groups weigh by their size.

    Args:
        groups: of pairs.
        in_seconds: whether predictions are seconds, and not only an order.
    """
    groups = [group for group in groups if len(group) > 1]
    pairs = list(itertools.chain.from_iterable(groups))
    errors = [abs(math.log(predicted / measured)) for predicted, measured in pairs]
    return Agreement(
        len(pairs),
        _mean(groups, lambda g: kendall_tau([p for p, _ in g], [m for _, m in g])),
        *(_mean(groups, lambda g, k=k: _recall(g, k)) for k in _TOP),
        math.exp(statistics.median(errors)) if errors and in_seconds else None,
    )


def of_runs(runs: Sequence[Run], *, in_seconds: bool = True) -> tuple[Agreement, tuple[Stage, ...]]:
    """Returns the agreement of runs, each ranked by itself, and the same for each stage of them.

    The prediction is what was said of a program when it was proposed; what was cut or failed does not count.

    Args:
        runs: of one kernel.
        in_seconds: see `agreement`.
    """
    numbered = [_pairs(run) for run in runs]
    total = agreement([[pair for _, pair in pairs] for pairs in numbered], in_seconds=in_seconds)
    stages = []
    for start, end in itertools.pairwise((0, *_STAGES)):
        part = [[pair for number, pair in pairs if start < number <= end] for pairs in numbered]
        said = agreement(part, in_seconds=in_seconds)
        if said.num_programs:
            stages.append(Stage(f"samples {start + 1} to {end}", said))
    return total, tuple(stages)


def predicts_scores(run: Run) -> bool:
    """Tells whether a run's predictions are scores that order programs, and no seconds: those of the paper's preset."""
    return run.config.get("preset") == "paper"


def _pairs(run: Run) -> list[tuple[int, Pair]]:
    """Returns (number of the sample, prediction and measurement) of what was predicted and measured in full."""
    numbers = {node: n for n, node in enumerate(dict.fromkeys(s.node for s in run.samples if s.node), start=1)}
    return [
        (numbers[step.node], (step.predicted_secs, step.measurement.latency_secs))
        for step in run.steps
        if step.node in numbers
        and step.predicted_secs is not None
        and step.measurement is not None
        and step.measurement.is_full
    ]


def _recall(group: Sequence[Pair], num: int) -> float:
    """Returns the share of the `num` fastest programs that are among the `num` that were predicted to be."""
    num = min(num, len(group))
    predicted, measured = (set(sorted(range(len(group)), key=lambda i: group[i][at])[:num]) for at in (0, 1))
    return len(predicted & measured) / num


def _mean(groups: Sequence[Sequence[Pair]], value: Callable[[Sequence[Pair]], float | None]) -> float | None:
    """Returns the mean over groups, weighted by their sizes; groups without a value are left out."""
    values = [(len(group), value(group)) for group in groups]
    total = sum(size for size, v in values if v is not None)
    return sum(size * v for size, v in values if v is not None) / total if total else None


AGREEMENT_WORDS = (
    "Kendall's τ: 1 is the measured order, 0 is random; fastest and top 5: share of these that was also predicted to "
    "be; error: median factor between prediction and measurement"
)
"""What the columns of `agreement_lines` mean."""


def agreement_lines(stages: Iterable[Stage], width: int) -> list[str]:
    """Returns a table of how well predictions agree with measurements, a line for each stage."""
    heads = ("", "programs", "τ", "fastest", "top 5", "error")
    rows = [
        (
            stage.name,
            str(each.num_programs),
            "" if each.tau is None else f"{each.tau:.2f}",
            "" if each.top1 is None else share_text(each.top1),
            "" if each.top5 is None else share_text(each.top5),
            "" if each.error is None else ratio_text(each.error),
        )
        for stage in stages
        for each in (stage.agreement,)
    ]
    return table([heads, *rows], align="<>>>>>", width=width)

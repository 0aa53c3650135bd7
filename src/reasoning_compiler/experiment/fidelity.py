"""How well predictions agree with the hardware: from run folders, from results, and from recorded landscapes.

Of a run, the prediction is what was said of a program when it was proposed. Of a recording, the surrogate is asked of
every program after it has seen none, and some, of the others' latencies: the first line is the analysis alone.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_compiler.errors import UsageError
from reasoning_compiler.experiment.experiment import PLAN_FILE, RESULTS_FILE
from reasoning_compiler.experiment.landscape import Landscape
from reasoning_compiler.experiment.landscape_file import is_landscape, read_landscape
from reasoning_compiler.journal import JOURNAL_FILE, Run, read_run
from reasoning_compiler.ranking import kendall_tau
from reasoning_compiler.rng import stream

_STAGES = (16, 32, 64, 128, 256, 512, 1024)  # a stage ends with this sample
_SEEN = (0, 16, 64, 256)  # programs of a recording that the surrogate has seen
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


@dataclass(frozen=True)
class Fidelity:
    """The agreement on one kernel and machine.

    Args:
        workload: its spec.
        machine: its name.
        source: "runs", with how many; or "recording".
        total: of all programs of all runs, each run ranked by itself; of a recording, after the most were seen.
        stages: in their order.
    """

    workload: str
    machine: str
    source: str
    total: Agreement
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Transfer:
    """How well the measurements on one machine rank the same programs on another: Kendall's τ."""

    workload: str
    one: str
    other: str
    num_programs: int
    tau: float | None


def fidelity(paths: Sequence[str | Path]) -> tuple[list[Fidelity], list[Transfer]]:
    """Returns the agreement for each kernel and machine, and across machines where one kernel was recorded on several.

    Args:
        paths: run folders, results folders of `compare` and `ablate`, and recordings.

    Raises:
        UsageError: a path is none of these, or nothing was predicted in any of the runs.
    """
    if not paths:
        raise UsageError("nothing to look at: give run folders, results folders or recordings")
    landscapes = [read_landscape(path) for path in paths if is_landscape(path)]
    runs = [run for path in paths if not is_landscape(path) for run in _runs(Path(path))]
    found = [*_of_runs(runs), *map(of_landscape, landscapes)]
    if not found:
        raise UsageError("in none of these runs was anything predicted and measured: there is nothing to compare")
    return found, _transfers(landscapes)


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


def of_landscape(landscape: Landscape, *, seed: int = 0) -> Fidelity:
    """Returns the agreement of the surrogate with a recording, after it has seen none or some of its programs.

    Args:
        landscape: the recording.
        seed: of the draw of what it sees; the rest is what it is asked about.
    """
    from reasoning_compiler.experiment.recorded import RecordedParts
    from reasoning_compiler.tuner.settings import Settings

    entries = landscape.measured
    order = stream(seed, "fidelity").permutation(len(entries))
    known = [(entries[i].program, entries[i].measurement.latency_secs) for i in order]
    stages = []
    for num in (n for n in _SEEN if n <= len(known) // 2):
        surrogate: Any = RecordedParts(landscape, Settings(seed=seed)).surrogate
        asked = [program for program, _ in known[num:]]
        for upto in range(8, num + 1, 8):  # in batches, as in a run: only what was predicted before can be judged
            batch = [program for program, _ in known[upto - 8 : upto]]
            surrogate.predict(batch, [None] * len(batch))
            surrogate.learn(known[:upto])
        predicted = surrogate.predict(asked, [None] * len(asked))
        pairs = [(p, secs) for p, (_, secs) in zip(predicted, known[num:], strict=True)]
        stages.append(Stage(f"{num} seen", agreement([pairs])))
    return Fidelity(landscape.workload.spec, landscape.machine.name, "recording", stages[-1].agreement, tuple(stages))


# -- runs -------------------------------------------------------------------------------------------------------------


def _runs(path: Path) -> Iterator[Run]:
    """Yields the run in a folder, or the runs of an experiment's results folder."""
    if (path / JOURNAL_FILE).exists():
        yield read_run(path)
    elif (path / PLAN_FILE).exists() or (path / RESULTS_FILE).exists():
        for journal in sorted(path.glob(f"cells/*/{JOURNAL_FILE}")):
            yield read_run(journal.parent)
    else:
        raise UsageError(f"`{path}` is no run folder, no folder of results and no recording")


def _of_runs(runs: Sequence[Run]) -> Iterator[Fidelity]:
    """Yields the agreement for each kernel, machine and kind of surrogate, in the order in which they come."""
    kinds: dict[tuple[str, str, bool], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run.header.spec, run.header.machine.name, run.config.get("preset") == "paper"), []).append(
            run
        )
    for (spec, machine, scores), mine in kinds.items():
        numbered = [_pairs(run) for run in mine]
        total = agreement([[pair for _, pair in pairs] for pairs in numbered], in_seconds=not scores)
        if not total.num_programs:
            continue
        stages = []
        for start, end in itertools.pairwise((0, *_STAGES)):
            part = [[pair for number, pair in pairs if start < number <= end] for pairs in numbered]
            said = agreement(part, in_seconds=not scores)
            if said.num_programs:
                stages.append(Stage(f"samples {start + 1} to {end}", said))
        of = f"{len(mine)} run{'s' if len(mine) != 1 else ''}" + (", the paper's preset" if scores else "")
        yield Fidelity(spec, machine, of, total, tuple(stages))


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


def _transfers(landscapes: Sequence[Landscape]) -> list[Transfer]:
    found = []
    for one, other in itertools.combinations(landscapes, 2):
        if one.workload.key != other.workload.key or one.fingerprint == other.fingerprint:
            continue
        theirs = {entry.program: entry.measurement.latency_secs for entry in other.measured}
        both = [(e.measurement.latency_secs, theirs[e.program]) for e in one.measured if e.program in theirs]
        tau = kendall_tau([a for a, _ in both], [b for _, b in both]) if len(both) > 1 else None
        found.append(Transfer(one.workload.spec, one.machine.name, other.machine.name, len(both), tau))
    return found


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

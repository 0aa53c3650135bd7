"""How well predictions agree with the hardware: from run folders, from results, and from recorded benchmarks.

Of a run, the prediction is what was said of a program when it was proposed. Of a recording, the surrogate is asked of
every program after it has seen none, and some, of the others' latencies: the first line is the analysis alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.core.steps import Known
from reasoning_compiler.experiment.experiment import PLAN_FILE, RESULTS_FILE
from reasoning_compiler.experiment.tabular import TabularBenchmark
from reasoning_compiler.experiment.tabular_file import is_benchmark, read_benchmark
from reasoning_compiler.journal import JOURNAL_FILE, Run, read_session
from reasoning_compiler.report.fidelity import Agreement, Stage, agreement, of_runs, predicts_scores

_SEEN = (0, 16, 64, 256)  # programs of a recording that the surrogate has seen


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


def fidelity(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Fidelity], list[Transfer]]:
    """Returns the agreement for each kernel and machine, and across machines where one kernel was recorded on several.

    Args:
        paths: run folders, results folders of `compare` and `ablate`, and recordings.

    Raises:
        UsageError: a path is none of these, or nothing was predicted in any of the runs.
    """
    if not paths:
        raise UsageError("nothing to look at: give run folders, results folders or recordings")
    benchmarks = [read_benchmark(path) for path in paths if is_benchmark(path)]
    runs = [run for path in paths if not is_benchmark(path) for run in _runs(Path(path))]
    found = [*_of_runs(runs), *map(of_benchmark, benchmarks)]
    if not found:
        raise UsageError("in none of these runs was anything predicted and measured: there is nothing to compare")
    return found, _transfers(benchmarks)


def of_benchmark(benchmark: TabularBenchmark, *, seed: int = 0) -> Fidelity:
    """Returns the agreement of the surrogate with a recording, after it has seen none or some of its programs.

    Args:
        benchmark: the recording.
        seed: of the draw of what it sees; the rest is what it is asked about.
    """
    from reasoning_compiler.session.settings import Settings
    from reasoning_compiler.session.task import Task

    entries = benchmark.measured
    order = stream(seed, "fidelity").permutation(len(entries))
    known = [Known.of(entries[i].program, entries[i].measurement) for i in order]
    stages = []
    for num in (n for n in _SEEN if n <= len(known) // 2):
        workload: Any = benchmark.workload
        task = Task(benchmark.workload.key, workload, benchmark.machine, Settings(seed=seed), benchmark)
        surrogate: Any = task.surrogate
        asked = [each.program for each in known[num:]]
        for upto in range(8, num + 1, 8):  # in batches, as in a run: only what was predicted before can be judged
            batch = [each.program for each in known[upto - 8 : upto]]
            surrogate.predict(batch, [None] * len(batch))
            surrogate.learn(known[:upto])
        predicted = surrogate.predict(asked, [None] * len(asked))
        pairs = [(secs, each.secs) for secs, each in zip(predicted, known[num:], strict=True)]
        stages.append(Stage(f"{num} seen", agreement([pairs])))
    return Fidelity(benchmark.workload.spec, benchmark.machine.name, "recording", stages[-1].agreement, tuple(stages))


# -- runs -------------------------------------------------------------------------------------------------------------


def _runs(path: Path) -> Iterator[Run]:
    """Yields the run in a folder, or the runs of an experiment's results folder."""
    if (path / JOURNAL_FILE).exists():
        yield from read_session(path).runs
    elif (path / PLAN_FILE).exists() or (path / RESULTS_FILE).exists():
        for journal in sorted(path.glob(f"cells/*/{JOURNAL_FILE}")):
            yield from read_session(journal.parent).runs
    else:
        raise UsageError(f"`{path}` is no run folder, no folder of results and no recording")


def _of_runs(runs: Sequence[Run]) -> Iterator[Fidelity]:
    """Yields the agreement for each kernel, machine and kind of surrogate, in the order in which they come."""
    kinds: dict[tuple[str, str, bool], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run.header.spec, run.header.machine.name, predicts_scores(run)), []).append(run)
    for (spec, machine, scores), mine in kinds.items():
        total, stages = of_runs(mine, in_seconds=not scores)
        if total.num_programs:
            of = f"{len(mine)} run{'s' if len(mine) != 1 else ''}" + (", the paper's preset" if scores else "")
            yield Fidelity(spec, machine, of, total, stages)


def _transfers(benchmarks: Sequence[TabularBenchmark]) -> list[Transfer]:
    found = []
    for one, other in itertools.combinations(benchmarks, 2):
        if one.workload.key != other.workload.key or one.fingerprint == other.fingerprint:
            continue
        theirs = {entry.program: entry.measurement.latency_secs for entry in other.measured}
        both = [(e.measurement.latency_secs, theirs[e.program]) for e in one.measured if e.program in theirs]
        tau = kendall_tau([a for a, _ in both], [b for _, b in both]) if len(both) > 1 else None
        found.append(Transfer(one.workload.spec, one.machine.name, other.machine.name, len(both), tau))
    return found

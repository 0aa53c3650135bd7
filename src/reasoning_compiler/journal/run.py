"""A run as its journal tells it: everything that the search, the report and the commands need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reasoning_compiler.core.crash_markers import Crash
from reasoning_compiler.core.errors import EnvironmentMismatchError, UsageError
from reasoning_compiler.core.measurements import Measurement, Noise
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.core.records import Record
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal.format import Header
from reasoning_compiler.proposer.llm.budget import Spending


@dataclass(frozen=True)
class Sample(Record):
    """One measurement of one node, and when it came in."""

    node: int
    at_secs: float
    measurement: Measurement


@dataclass(frozen=True)
class Rejected(Record):
    """A proposal for a node's children that the space refused.

    Args:
        node: the node whose children were asked for.
        proposer: who proposed.
        transformation: what was refused; None where the whole answer was of no use.
        why: the reason.
    """

    node: int
    proposer: str
    transformation: Transformation | None
    why: str


@dataclass(frozen=True)
class ModelUse:
    """What a language model did for one process's part of a session.

    Args:
        stats: calls, tokens, USD, latencies and rejections, as the proposer counted them.
        notices: what the user was told of it.
    """

    stats: dict[str, Any]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Finish(Record):
    """One ending of a task: when, why, with which node, and the last measurements of it and of node 0."""

    at_secs: float
    reason: str
    best: int | None
    confirmed: Measurement | None
    untuned: Measurement | None


@dataclass(frozen=True)
class Outcome:
    """What a run comes to: a program, and two measurements that may be compared.

    Args:
        step: the program that the run hands out; None where nothing was measured and verified.
        best: its latencies; None with `step`.
        untuned: the untuned program's; None where it has not been measured.
        confirmed: the two were measured anew, side by side, when the run ended.
    """

    step: Step | None
    best: Measurement | None
    untuned: Measurement | None
    confirmed: bool

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the untuned program; None where one of the two has no latency."""
        if self.best is None or self.untuned is None or not (self.best.ok and self.untuned.ok):
            return None
        return self.untuned.latency_secs / self.best.latency_secs


Event = Step | Rejected | Sample | tuple[int, ...]
"""What happens in a search: a node added, a proposal refused, a measurement, or a batch chosen to be measured."""


@dataclass(frozen=True)
class Run:
    """One task's run, rebuilt from its session's journal.

    Args:
        folder: the session's folder.
        header: what the task is of.
        num_tasks: tasks of the session.
        config: the session's settings; those of the header, or what a resume has put in their place.
        events: all that happened in its search, in order; the nodes still without measurements.
        noise: how much its timings vary where nothing differs; None where that was not measured.
        ended: the ending that nothing of the task followed; None for one that is still going.
        stage_secs: seconds of the session by stage.
        models: what a language model did for the session, for each process that worked on it with one.
        crashes: of processes that worked on the session, in order.
        elapsed_secs: seconds that the session had been going at its last event.
    """

    folder: Path
    header: Header
    num_tasks: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    noise: Noise | None = None
    ended: Finish | None = None
    stage_secs: dict[str, float] = field(default_factory=dict)
    models: tuple[ModelUse, ...] = ()
    crashes: tuple[Crash, ...] = ()
    elapsed_secs: float = 0.0

    @property
    def best_folder(self) -> Path:
        """Where the best program so far is kept."""
        return best_folder(self.folder, self.header.task, self.num_tasks)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every measurement in the order it came in, node 0's included."""
        return tuple(event for event in self.events if isinstance(event, Sample))

    @cached_property
    def rejected(self) -> tuple[Rejected, ...]:
        """Every refused proposal."""
        return tuple(event for event in self.events if isinstance(event, Rejected))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The tree's nodes in the order they were added, each with its latest measurement."""
        return tuple(self._by_node.values())

    @cached_property
    def _by_node(self) -> dict[int, Step]:
        steps = {event.node: event for event in self.events if isinstance(event, Step)}
        latest = {sample.node: sample.measurement for sample in self.samples}
        return steps | {node: replace(steps[node], measurement=measured) for node, measured in latest.items()}

    def step(self, node: int) -> Step:
        """Returns a node. Raises UsageError where the run has no such node."""
        if node not in self._by_node:
            raise UsageError(f"`node` is {node!r}, none of the {len(self.steps)} nodes of {self.folder}")
        return self._by_node[node]

    def path(self, node: int) -> list[Step]:
        """Returns the way from node 0 to a node, both included. Raises UsageError for an unknown node."""
        steps = [self.step(node)]
        while steps[-1].parent is not None:
            steps.append(self.step(steps[-1].parent))
        return steps[::-1]

    @property
    def num_samples(self) -> int:
        """How many measurements were taken, those of the untuned program not counted."""
        return sum(sample.node != 0 for sample in self.samples)

    @property
    def untuned(self) -> Measurement | None:
        """Node 0's measurement; None before there is one."""
        return self._by_node[0].measurement if 0 in self._by_node else None

    @property
    def best(self) -> Step | None:
        """The fastest node measured in full and verified, node 0 included; None where there is none."""
        worthy = [step for step in self.steps if step.measurement and step.measurement.counts]
        return min(worthy, key=lambda step: step.measurement.latency_secs, default=None)

    @property
    def outcome(self) -> Outcome:
        """What the run comes to: what its ending says, or the best so far where it has none."""
        end = self.ended
        if end is None or end.best is None:
            step, best = self.best, None
        else:
            step, best = self.step(end.best), end.confirmed
        if end and best:
            return Outcome(step, best, end.untuned or self.untuned, confirmed=end.untuned is not None)
        return Outcome(step, step.measurement if step else None, self.untuned, confirmed=False)

    @property
    def speedup(self) -> float | None:
        """How many times as fast as untuned the run's outcome is; None while that cannot be said."""
        return self.outcome.speedup


def best_folder(folder: Path, task: str, num_tasks: int) -> Path:
    """Returns where a session keeps the best program of a task: in `best/`, by task where it has several."""
    return folder / "best" if num_tasks == 1 else folder / "best" / task


@dataclass(frozen=True)
class SessionRecord:
    """A session rebuilt from its journal.

    Args:
        folder: the session's folder.
        runs: what became of each task, in the order of the header; one at least.
        spent: what calls to a language model have cost, those counted in full that were reserved and never settled;
            None where the journal tells of no call.
        num_calls: calls that were reserved.
    """

    folder: Path
    runs: tuple[Run, ...]
    spent: Spending | None = None
    num_calls: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """The session's settings, as they are now."""
        return self.runs[0].config

    @property
    def header(self) -> Header:
        """The first task's header: what all tasks share is in it."""
        return self.runs[0].header

    @property
    def elapsed_secs(self) -> float:
        """Seconds that the session had been going at its last event."""
        return self.runs[0].elapsed_secs

    @property
    def num_samples(self) -> int:
        """How many measurements were taken, those of untuned programs not counted."""
        return sum(run.num_samples for run in self.runs)

    def chosen(self, task: str | None) -> tuple[Run, ...]:
        """Returns the runs that a user means: a task's where one is named, else all. Raises UsageError as `run`."""
        return self.runs if task is None else (self.run(task),)

    def run(self, task: str | None = None) -> Run:
        """Returns a task's run; the only one where no name is given.

        Raises:
            UsageError: there is no such task, or there are several and none is named.
        """
        if task is None and len(self.runs) == 1:
            return self.runs[0]
        for run in self.runs:
            if run.header.task == task:
                return run
        names = ", ".join(run.header.task for run in self.runs)
        raise UsageError(f"`task` is {task!r}; `{self.folder}` has these, give one of them: {names}")


def check_environment(run: Run | SessionRecord, differences: Sequence[str]) -> None:
    """Returns nothing when the run may go on here.

    Args:
        run: the run or session to go on with.
        differences: what tells the run's fingerprint from the present one's, a phrase each.

    Raises:
        EnvironmentMismatchError: there are differences.
    """
    if differences:
        raise EnvironmentMismatchError(
            f"`{run.folder}` was measured in another environment ({'; '.join(differences)}): "
            "its figures cannot be compared with new ones; resume it where it was started, or start a new run"
        )


def unknown_here(run: Run, why: object) -> UsageError:
    """Returns the error for a run that says what this version of the package does not know."""
    return UsageError(
        f"`{run.folder}` was made by version {run.header.package_version} of this package, and not all of it is known "
        f"to this one ({why}); use that version, or start a new run"
    )

"""A run as its journal tells it: everything that the search, the report and the commands need to know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reasoning_compiler.core.crash_markers import Crash
from reasoning_compiler.core.errors import EnvironmentMismatchError, JournalError, UsageError
from reasoning_compiler.core.measurements import Measurement, Noise
from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal.format import FORMAT_VERSION, JOURNAL_FILE, Header, damaged, read_events


@dataclass(frozen=True)
class Sample:
    """One measurement of one node, and when it came in."""

    node: int
    at_secs: float
    measurement: Measurement


@dataclass(frozen=True)
class Rejected:
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
    """What a language model did for one process's part of a run.

    Args:
        stats: calls, tokens, USD, latencies and rejections, as the proposer counted them.
        notices: what the user was told of it.
    """

    stats: dict[str, Any]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """One ending of a run: when, why, with which node, and the last measurements of it and of node 0."""

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
    """A run rebuilt from its journal.

    Args:
        folder: the run folder.
        header: what it is of.
        config: its settings; those of the header, or what a resume has put in their place.
        events: all that happened in its search, in order; the nodes still without measurements.
        steps: the tree's nodes in the order they were added, each with its latest measurement.
        batches: the nodes of each batch chosen for measurement, in order.
        samples: every measurement in the order it came in, node 0's included.
        rejected: every refused proposal.
        stage_secs: seconds by stage, all told.
        models: what a language model did, for each process that worked on the run with one.
        crashes: of processes that worked on the run, in order.
        noise: how much its timings vary where nothing differs; None where that was not measured.
        finishes: every ending; more than one after a resume.
        ended: the ending that nothing followed; None for a run that is still going or was interrupted.
        elapsed_secs: seconds that the run had been going at its last event.
    """

    folder: Path
    header: Header
    config: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    steps: tuple[Step, ...] = ()
    batches: tuple[tuple[int, ...], ...] = ()
    samples: tuple[Sample, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    stage_secs: dict[str, float] = field(default_factory=dict)
    models: tuple[ModelUse, ...] = ()
    crashes: tuple[Crash, ...] = ()
    noise: Noise | None = None
    finishes: tuple[Finish, ...] = ()
    ended: Finish | None = None
    elapsed_secs: float = 0.0

    @cached_property
    def _by_node(self) -> dict[int, Step]:
        return {step.node: step for step in self.steps}

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
    def pending(self) -> tuple[int, ...]:
        """The nodes that were asked for and not measured, in the order of asking."""
        asked = dict.fromkeys(node for batch in self.batches for node in batch)
        return tuple(node for node in asked if self.step(node).measurement is None)

    @property
    def num_samples(self) -> int:
        """How many nodes were measured, the untuned one not counted."""
        return sum(step.measurement is not None for step in self.steps if step.node != 0)

    @property
    def untuned(self) -> Measurement | None:
        """Node 0's measurement; None before there is one."""
        return self._by_node[0].measurement if 0 in self._by_node else None

    @property
    def best(self) -> Step | None:
        """The fastest node measured in full and verified, node 0 included; None where there is none."""
        worthy = [s for s in self.steps if (m := s.measurement) and m.ok and m.verified and not m.cut]
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


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Returns the run that a folder's journal tells of; a torn last line is left out.

    Raises:
        UsageError: the folder is missing or holds no journal.
        JournalError: the journal cannot be read, is damaged before its end, or is of a newer version.
    """
    folder = Path(folder)
    path = folder / JOURNAL_FILE
    events = read_events(folder)
    number, first = next(events, (0, None))
    if first is None:
        raise UsageError(f"`{folder}` holds no run: {path} has no header yet")
    draft = _Draft(_read_header(path, first))
    for number, event in events:
        draft.last = event
        take = getattr(draft, f"take_{event['event']}", None)
        if take is None:
            raise JournalError(
                f"`{path}`, line {number}: unknown event `{event['event']}`, probably of a newer version; "
                "upgrade with `pip install -U reasoning-compiler`"
            )
        try:
            take(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, number, f"`{event['event']}` with {type(error).__name__}: {error}") from error
    return draft.run(folder)


def check_environment(run: Run, differences: Sequence[str]) -> None:
    """Returns nothing when the run may go on here.

    Args:
        run: the run to go on with.
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


def _read_header(path: Path, event: dict[str, Any]) -> Header:
    version = event.get("format_version")
    if event["event"] != "run" or not isinstance(version, int):
        raise damaged(path, 1, "not the header of a run")
    if version > FORMAT_VERSION:
        raise JournalError(
            f"`{path}` has journal format {version} (of version {event.get('package_version')}); the newest "
            f"known here is {FORMAT_VERSION}: upgrade with `pip install -U reasoning-compiler`"
        )
    fields = {name: value for name, value in event.items() if name not in ("event", "at_secs")}
    try:
        return Header.from_json(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, 1, f"a header with {type(error).__name__}: {error}") from error


class _Draft:
    """A run while its journal is being read: one method per kind of event."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.config = header.config
        self.events: list[Event] = []
        self.steps: dict[int, Step] = {}
        self.batches: list[tuple[int, ...]] = []
        self.samples: list[Sample] = []
        self.rejected: list[Rejected] = []
        self.stage_secs: dict[str, float] = {}
        self.models: list[ModelUse] = []
        self.crashes: list[Crash] = []
        self.noise: Noise | None = None
        self.finishes: list[Finish] = []
        self.last: dict[str, Any] = {"event": "run", "at_secs": 0.0}

    def take_node(self, event: dict[str, Any]) -> None:
        node, parent = event["node"], event["parent"]
        if node in self.steps:
            raise ValueError(f"node {node} is there twice")
        if (node == 0) != (parent is None):
            raise ValueError(f"node {node} has the parent {parent}")
        if parent is not None:
            self._known(parent)
        edit = event["transformation"]
        self.steps[node] = Step(
            node=node,
            parent=parent,
            program=Program.from_json(event["program"]),
            transformation=Transformation.from_json(edit) if edit else None,
            proposer=event["proposer"],
            reasoning=event["reasoning"],
            predicted_secs=event["predicted_secs"],
        )
        self.events.append(self.steps[node])
        self._add_stages(event.get("stage_secs", {}))

    def take_asked(self, event: dict[str, Any]) -> None:
        self.batches.append(tuple(self._known(node) for node in event["nodes"]))
        self.events.append(self.batches[-1])

    def take_measured(self, event: dict[str, Any]) -> None:
        node = self._known(event["node"])
        measurement = Measurement.from_json(event["measurement"])
        self.steps[node] = replace(self.steps[node], measurement=measurement)
        self.samples.append(Sample(node, event["at_secs"], measurement))
        self.events.append(self.samples[-1])

    def take_rejected(self, event: dict[str, Any]) -> None:
        edit = event["transformation"]
        self.rejected.append(
            Rejected(
                node=self._known(event["node"]),
                proposer=event["proposer"],
                transformation=Transformation.from_json(edit) if edit else None,
                why=event["why"],
            )
        )
        self.events.append(self.rejected[-1])

    def take_resumed(self, event: dict[str, Any]) -> None:
        self.config = dict(event["config"])

    def take_stages(self, event: dict[str, Any]) -> None:
        self._add_stages(event["secs"])

    def take_model(self, event: dict[str, Any]) -> None:
        self.models.append(ModelUse(event["stats"], tuple(event["notices"])))

    def take_crashed(self, event: dict[str, Any]) -> None:
        self.crashes.append(Crash.from_json(event))

    def take_noise(self, event: dict[str, Any]) -> None:
        self.noise = Noise.from_json(event["noise"])

    def take_finished(self, event: dict[str, Any]) -> None:
        best, confirmed, untuned = event["best"], event["confirmed"], event["untuned"]
        self.finishes.append(
            Finish(
                at_secs=event["at_secs"],
                reason=event["reason"],
                best=None if best is None else self._known(best),
                confirmed=Measurement.from_json(confirmed) if confirmed else None,
                untuned=Measurement.from_json(untuned) if untuned else None,
            )
        )

    def run(self, folder: Path) -> Run:
        return Run(
            folder=folder,
            header=self.header,
            config=self.config,
            events=tuple(self.events),
            steps=tuple(self.steps.values()),
            batches=tuple(self.batches),
            samples=tuple(self.samples),
            rejected=tuple(self.rejected),
            stage_secs=self.stage_secs,
            models=tuple(self.models),
            crashes=tuple(self.crashes),
            noise=self.noise,
            finishes=tuple(self.finishes),
            ended=self.finishes[-1] if self.last["event"] == "finished" else None,
            elapsed_secs=self.last["at_secs"],
        )

    def _known(self, node: int) -> int:
        if node not in self.steps:
            raise ValueError(f"there is no node {node} yet")
        return node

    def _add_stages(self, secs: dict[str, float]) -> None:
        for stage, value in secs.items():
            self.stage_secs[stage] = self.stage_secs.get(stage, 0.0) + value

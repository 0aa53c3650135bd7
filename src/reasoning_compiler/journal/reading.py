"""Reading a journal: the session and its tasks' runs, event by event."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.crash_markers import Crash
from reasoning_compiler.core.errors import JournalError, UsageError
from reasoning_compiler.core.measurements import Measurement, Noise
from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal.folder import JOURNAL_FILE
from reasoning_compiler.journal.format import FORMAT_VERSION, Header, damaged, headers_of, read_events
from reasoning_compiler.journal.run import Event, Finish, ModelUse, Rejected, Run, Sample, SessionRecord
from reasoning_compiler.proposer.llm.budget import Spending


def read_session(folder: str | os.PathLike[str]) -> SessionRecord:
    """Returns the session that a folder's journal tells of; a torn last line is left out.

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
    session = _SessionDraft(_read_header(path, first))
    for number, event in events:
        try:
            known = session.take(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, number, f"`{event['event']}` with {type(error).__name__}: {error}") from error
        if not known:
            raise JournalError(
                f"`{path}`, line {number}: unknown event `{event['event']}`, probably of a newer version; "
                "upgrade with `pip install -U reasoning-compiler`"
            )
    return session.record(folder)


def read_run(folder: str | os.PathLike[str], task: str | None = None) -> Run:
    """Returns the run of a session's task; the only one where no name is given.

    Raises:
        UsageError, JournalError: see `read_session` and `SessionRecord.run`.
    """
    return read_session(folder).run(task)


def _read_header(path: Path, event: dict[str, Any]) -> tuple[Header, ...]:
    version = event.get("format_version")
    if event["event"] != "run" or not isinstance(version, int):
        raise damaged(path, 1, "not the header of a run")
    if version > FORMAT_VERSION:
        raise JournalError(
            f"`{path}` has journal format {version} (of version {event.get('package_version')}); the newest "
            f"known here is {FORMAT_VERSION}: upgrade with `pip install -U reasoning-compiler`"
        )
    try:
        headers = headers_of(event)
        if not headers or len({header.task for header in headers}) < len(headers):
            raise ValueError("no tasks, or two of one name")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, 1, f"a header with {type(error).__name__}: {error}") from error
    return headers


class _SessionDraft:
    """A session while its journal is being read: one method per kind of event that is no task's."""

    def __init__(self, headers: tuple[Header, ...]) -> None:
        self._tasks = {header.task: _TaskDraft(header) for header in headers}
        self._config = headers[0].config
        self._stage_secs: dict[str, float] = {}
        self._models: list[ModelUse] = []
        self._crashes: list[Crash] = []
        self._spent: Spending | None = None
        self._unsettled: dict[int, Spending] = {}
        self._num_calls = 0
        self._elapsed_secs = 0.0

    def take(self, event: dict[str, Any]) -> bool:
        """Takes in an event; returns whether its kind is known."""
        kind = event["event"]
        take = getattr(self, f"take_{kind}", None)
        if take is None and hasattr(_TaskDraft, f"take_{kind}"):
            take = getattr(self._tasks[event.get("task", "")], f"take_{kind}")
        if take is None:
            return False
        take(event)
        self._elapsed_secs = event["at_secs"]
        return True

    def take_resumed(self, event: dict[str, Any]) -> None:
        self._config = dict(event["config"])
        for task in self._tasks.values():
            task.has_ended = False

    def take_stages(self, event: dict[str, Any]) -> None:
        for stage, secs in event["secs"].items():
            self._stage_secs[stage] = self._stage_secs.get(stage, 0.0) + secs

    def take_model(self, event: dict[str, Any]) -> None:
        self._models.append(ModelUse(event["stats"], tuple(event["notices"])))

    def take_crashed(self, event: dict[str, Any]) -> None:
        self._crashes.append(Crash.from_json(event))

    def take_reserved(self, event: dict[str, Any]) -> None:
        self._num_calls += 1
        self._unsettled[int(event["call"])] = Spending(**event["most"])

    def take_settled(self, event: dict[str, Any]) -> None:
        self._unsettled.pop(int(event["call"]), None)
        self._spent = (self._spent or Spending()) + Spending(**event["spent"])

    def record(self, folder: Path) -> SessionRecord:
        spent = self._spent
        for most in self._unsettled.values():
            spent = (spent or Spending()) + most
        shared = {
            "folder": folder,
            "num_tasks": len(self._tasks),
            "config": self._config,
            "stage_secs": self._stage_secs,
            "models": tuple(self._models),
            "crashes": tuple(self._crashes),
            "elapsed_secs": self._elapsed_secs,
        }
        runs = tuple(task.run(**shared) for task in self._tasks.values())
        return SessionRecord(folder, runs, spent, self._num_calls)


class _TaskDraft:
    """A task's run while the journal is being read: one method per kind of event."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.has_ended = False
        self._events: list[Event] = []
        self._steps: dict[int, Step] = {}
        self._batches: list[tuple[int, ...]] = []
        self._samples: list[Sample] = []
        self._rejected: list[Rejected] = []
        self._noise: Noise | None = None
        self._finishes: list[Finish] = []

    def take_node(self, event: dict[str, Any]) -> None:
        node, parent = event["node"], event["parent"]
        if node in self._steps:
            raise ValueError(f"node {node} is there twice")
        if (node == 0) != (parent is None):
            raise ValueError(f"node {node} has the parent {parent}")
        if parent is not None:
            self._known(parent)
        edit = event["transformation"]
        self._steps[node] = Step(
            node=node,
            parent=parent,
            program=Program.from_json(event["program"]),
            transformation=Transformation.from_json(edit) if edit else None,
            proposer=event["proposer"],
            reasoning=event["reasoning"],
            predicted_secs=event["predicted_secs"],
        )
        self._happened(self._steps[node])

    def take_asked(self, event: dict[str, Any]) -> None:
        self._batches.append(tuple(self._known(node) for node in event["nodes"]))
        self._happened(self._batches[-1])

    def take_measured(self, event: dict[str, Any]) -> None:
        node = self._known(event["node"])
        measurement = Measurement.from_json(event["measurement"])
        self._steps[node] = replace(self._steps[node], measurement=measurement)
        self._samples.append(Sample(node, event["at_secs"], measurement))
        self._happened(self._samples[-1])

    def take_rejected(self, event: dict[str, Any]) -> None:
        edit = event["transformation"]
        self._rejected.append(
            Rejected(
                node=self._known(event["node"]),
                proposer=event["proposer"],
                transformation=Transformation.from_json(edit) if edit else None,
                why=event["why"],
            )
        )
        self._happened(self._rejected[-1])

    def take_noise(self, event: dict[str, Any]) -> None:
        self._noise = Noise.from_json(event["noise"])

    def take_finished(self, event: dict[str, Any]) -> None:
        best, confirmed, untuned = event["best"], event["confirmed"], event["untuned"]
        self._finishes.append(
            Finish(
                at_secs=event["at_secs"],
                reason=event["reason"],
                best=None if best is None else self._known(best),
                confirmed=Measurement.from_json(confirmed) if confirmed else None,
                untuned=Measurement.from_json(untuned) if untuned else None,
            )
        )
        self.has_ended = True

    def run(self, **shared: Any) -> Run:
        """Returns the run; `shared` is what it shares with the session's other tasks."""
        return Run(
            header=self.header,
            events=tuple(self._events),
            steps=tuple(self._steps.values()),
            batches=tuple(self._batches),
            samples=tuple(self._samples),
            rejected=tuple(self._rejected),
            noise=self._noise,
            finishes=tuple(self._finishes),
            ended=self._finishes[-1] if self.has_ended else None,
            **shared,
        )

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        self.has_ended = False

    def _known(self, node: int) -> int:
        if node not in self._steps:
            raise ValueError(f"there is no node {node} yet")
        return node

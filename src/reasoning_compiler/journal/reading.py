"""Reading a journal: the session and its tasks' runs, event by event."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from reasoning_compiler.core.crash_markers import Crash
from reasoning_compiler.core.errors import JournalError, UsageError
from reasoning_compiler.core.measurements import Noise
from reasoning_compiler.core.records import Record
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal.folder import JOURNAL_FILE
from reasoning_compiler.journal.format import FORMAT_VERSION, Header, damaged, headers_of, read_events
from reasoning_compiler.journal.run import Event, Finish, ModelUse, Rejected, Run, Sample, SessionRecord
from reasoning_compiler.proposer.llm.budget import Spending

R = TypeVar("R", bound=Record)


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


def _part_of(event: dict[str, Any], record: type[R]) -> R:
    """Returns the record that an event has all fields of, beside others. Raises as `Record.from_json`."""
    return record.from_json({field.name: event[field.name] for field in fields(record)})


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
            task.ended = None

    def take_stages(self, event: dict[str, Any]) -> None:
        for stage, secs in event["secs"].items():
            self._stage_secs[stage] = self._stage_secs.get(stage, 0.0) + secs

    def take_model(self, event: dict[str, Any]) -> None:
        self._models.append(ModelUse(event["stats"], tuple(event["notices"])))

    def take_crashed(self, event: dict[str, Any]) -> None:
        self._crashes.append(_part_of(event, Crash))

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
        self.ended: Finish | None = None
        self._events: list[Event] = []
        self._nodes: set[int] = set()
        self._noise: Noise | None = None

    def take_node(self, event: dict[str, Any]) -> None:
        node, parent = event["node"], event["parent"]
        if node in self._nodes:
            raise ValueError(f"node {node} is there twice")
        if (node == 0) != (parent is None):
            raise ValueError(f"node {node} has the parent {parent}")
        if parent is not None:
            self._known(parent)
        self._nodes.add(node)
        self._happened(_part_of(event | {"measurement": None}, Step))

    def take_asked(self, event: dict[str, Any]) -> None:
        self._happened(tuple(self._known(node) for node in event["nodes"]))

    def take_measured(self, event: dict[str, Any]) -> None:
        self._known(event["node"])
        self._happened(_part_of(event, Sample))

    def take_rejected(self, event: dict[str, Any]) -> None:
        self._known(event["node"])
        self._happened(_part_of(event, Rejected))

    def take_noise(self, event: dict[str, Any]) -> None:
        self._noise = Noise.from_json(event["noise"])

    def take_finished(self, event: dict[str, Any]) -> None:
        if event["best"] is not None:
            self._known(event["best"])
        self.ended = _part_of(event, Finish)

    def run(self, **shared: Any) -> Run:
        """Returns the run; `shared` is what it shares with the session's other tasks."""
        return Run(header=self.header, events=tuple(self._events), noise=self._noise, ended=self.ended, **shared)

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        self.ended = None

    def _known(self, node: int) -> int:
        if node not in self._nodes:
            raise ValueError(f"there is no node {node} yet")
        return node

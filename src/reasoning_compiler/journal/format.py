"""How a journal looks on disk: one JSON object a line, the first of them the session's header.

Every line has an `event` (what kind it is) and `at_secs` (seconds that the run had been going), and ends with
a newline. A last line without one was torn by a kill or a full disk: its event never happened. Events that happen
together have `more` on all lines but the last of them: without that last one, none of them ever happened.
Text is escaped to ASCII, so that no compiler's message and no model's answer can make a line unreadable.

Events of the first table belong to one task, which their `task` names; node numbers count within a task.

| event | says |
|---|---|
| `node` | a node was added to the task's tree |
| `rejected` | the space refused a proposal |
| `asked` | a batch was chosen for measurement |
| `measured` | the hardware's word on one node |
| `noise` | how much timings vary where nothing differs |
| `finished` | the task ended, why, and with what; a resumed one may end again |

| event | says |
|---|---|
| `run` | the header: tasks, machine, fingerprint, configuration |
| `reserved` | a call to a language model may begin, and what it may cost at most |
| `settled` | what that call did cost |
| `model` | what a language model did for the session, and what it cost |
| `stages` | where a batch's seconds went |
| `resumed` | the session goes on with other settings |
| `crashed` | TVM has ended the process that worked on the session |
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import JournalError, UsageError
from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.records import Record, plain
from reasoning_compiler.journal.folder import JOURNAL_FILE

FORMAT_VERSION = 4
"""2: programs, transformations and risks may have `primitives`. 3: the header may have `peak` and `own_reference`.
4: the header lists `tasks` and events name theirs; calls are `reserved` and `settled`. What older journals say still
means the same: they are of one task, whose name is empty."""


def package_version() -> str:
    """Returns the version of this package that is installed, or "unknown"."""
    try:
        return importlib.metadata.version("reasoning-compiler")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Header(Record):
    """What one task of a session is of, on what, and with which settings.

    The tasks of a session differ in what comes before `machine`; a journal's first line tells the rest once.

    Args:
        task: the task's name in the journal, unique in its session; empty in journals that know one task only.
        weight: how much a second saved on it counts, against those of the session's other tasks; > 0.
        workload: the workload's name, as "llama3-attention".
        spec: the name with its parameters, from which the workload can be made again.
        key: the workload's identity: equal keys, equal kernels.
        flops: floating-point operations of one execution; None where their number is not known.
        bytes: bytes that one execution must at least move.
        peak: what the machine can do at best of the kernel's types; None in journals that do not say so, for float32's.
        own_reference: whether results are compared with a reference of the caller's, which the folder does not keep.
        machine: what the programs run on.
        fingerprint: what must agree for measurements to be comparable: versions, target, threads, ...
        config: the session's settings (proposer, samples, seed, ...), JSON values only.
        command: the command line; empty for a run started from Python.
        created: when the run was started, ISO 8601 with the time zone.
        format_version: of the journal.
        package_version: of this package, when the run was started.
    """

    task: str = ""
    weight: float = 1.0
    workload: str
    spec: str
    key: str
    flops: float | None
    bytes: float
    peak: Peak | None = None
    own_reference: bool = False
    machine: Machine
    fingerprint: dict[str, Any]
    config: dict[str, Any]
    command: str = ""
    created: str = field(default_factory=_now)
    format_version: int = FORMAT_VERSION
    package_version: str = field(default_factory=package_version)

    @classmethod
    def of(cls, workload: Any, **others: Any) -> Header:
        """Returns the header of a new task of a workload, or of what was recorded of one; the others are as above."""
        return cls(
            workload=workload.name,
            spec=workload.spec,
            key=workload.key,
            flops=workload.flops,
            bytes=workload.bytes,
            **others,
        )

    @property
    def best_peak(self) -> Peak:
        """The peak that the kernel's speed is to be compared with."""
        return self.peak or Peak(self.machine.peak_flops)


_OF_A_TASK = ("task", "weight", "workload", "spec", "key", "flops", "bytes", "peak", "own_reference")


def header_line(headers: Sequence[Header]) -> dict[str, Any]:
    """Returns what a journal's first line says of a session: its tasks, and once what they share."""
    tasks = [header.to_json() for header in headers]
    shared = {name: value for name, value in tasks[0].items() if name not in _OF_A_TASK}
    return {"tasks": [{name: task[name] for name in _OF_A_TASK} for task in tasks]} | shared


def headers_of(line: dict[str, Any]) -> tuple[Header, ...]:
    """Returns the header of each task that a journal's first line tells of."""
    shared = {name: value for name, value in line.items() if name not in ("event", "at_secs", "tasks")}
    return tuple(Header.from_json(shared | task) for task in line.get("tasks", [{}]))


def encode(event: str, at_secs: float, fields: dict[str, Any]) -> bytes:
    """Returns one line of a journal, newline included. Raises ValueError for NaN and infinities."""
    obj = {"event": event, "at_secs": round(at_secs, 6)} | fields
    return json.dumps(obj, separators=(",", ":"), allow_nan=False, default=plain).encode("ascii") + b"\n"


def read_events(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Returns the whole lines of the folder's journal as (number from 1, event), without what was torn at its end.

    Raises:
        UsageError: there is no journal.
        JournalError: it cannot be read, or a line other than the torn one is damaged; names file and line.
    """
    path = folder / JOURNAL_FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"`{folder}` holds no run: there is no {path}") from None
    except OSError as error:
        raise JournalError(f"`{path}` cannot be read: {error.strerror}") from error
    together: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
            str(event["event"]), float(event["at_secs"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise damaged(path, number, "not an event of a run") from None
        together.append((number, event))
        if not event.get("more"):
            yield from together
            together = []


def whole_size(content: bytes) -> int:
    """Returns how many bytes of a journal's content are left without what was torn at its end."""
    end = content.rfind(b"\n") + 1
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if not json.loads(content[start:end]).get("more"):
            break
        end = start
    return end


def damaged(path: Path, line: int, what: str) -> JournalError:
    """Returns the error for a line that cannot be used, with the way out."""
    return JournalError(f"`{path}` is damaged at line {line}: {what}; delete it from there on to go on")

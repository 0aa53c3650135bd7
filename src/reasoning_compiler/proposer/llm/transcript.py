"""transcript.jsonl: every exchange with a model, and what came of it.

One JSON object a line, in two kinds: an `exchange` when a call has ended and its answer has been judged, and
a `child` when one of its transformations became a node. A torn line, as a killed run leaves it, is skipped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import JournalError
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.core.records import Record
from reasoning_compiler.core.whole_files import writing
from reasoning_compiler.proposer.llm.answer import Outcome
from reasoning_compiler.proposer.llm.budget import Spending
from reasoning_compiler.proposer.llm.calls import Attempt, Message
from reasoning_compiler.proposer.llm.prices import Usage
from reasoning_compiler.proposer.llm.scrub import Scrubber

VERSION = 1


@dataclass(frozen=True)
class Question(Record):
    """What a model is asked, and for which node.

    Args:
        messages: the conversation.
        task: the task whose node it is; empty in transcripts that know one task only.
        node: the node that transformations are asked for.
        program: the key of its program.
        num: how many transformations are asked for.
        prompt_version: which prompt it is.
        repair_of: the exchange that this one repairs.
    """

    messages: tuple[Message, ...]
    task: str
    node: int
    program: str
    num: int
    prompt_version: str
    repair_of: int | None = None


@dataclass(frozen=True, kw_only=True)
class Exchange(Question):
    """A question, its answer, and what came of it.

    Args:
        model: the model's name.
        prompt_hash: names the conversation exactly.
        answer: the model's text; None where the call failed.
        finish: why the answer ended, or the kind of failure.
        failure: why the call failed, in words; empty where it did not.
        usage: its tokens.
        usd: its cost; None where the price is unknown.
        latency_secs: from the first try to the end, waits included.
        attempts: the tries that failed.
        outcomes: what became of each transformation.
        id: its number in the transcript.
    """

    model: str
    prompt_hash: str
    answer: str | None
    finish: str
    failure: str = ""
    usage: Usage = field(default_factory=Usage)
    usd: float | None = None
    latency_secs: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    id: int = 0

    @property
    def never_began(self) -> bool:
        """Whether the longest answer allowed was spent on hidden reasoning."""
        return self.answer is not None and self.finish == "length" and not self.answer.strip()

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Exchange:
        return super().from_json({"task": ""} | obj)


class Transcript:
    """Appends exchanges to a file; safe to use from several threads. Keys are replaced in every text.

    Raises JournalError where the file cannot be written.
    """

    def __init__(self, path: Path, *, scrubber: Scrubber | None = None) -> None:
        self.path = path
        self._scrubber = scrubber or Scrubber()
        self._lock = threading.Lock()
        existing = read_transcript(path) if path.exists() else []
        self._next_id = 1 + max((e.id for e in existing), default=0)
        self._unborn: dict[tuple[str, int, Transformation], tuple[int, int]] = {}
        for exchange in existing:
            self._await_children(exchange)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._append_text("\n")  # a torn line ends here

    def append(self, exchange: Exchange) -> int:
        """Writes an exchange and returns the number that it is given."""
        with self._lock:
            exchange = replace(exchange, id=self._next_id)
            self._next_id += 1
            self._await_children(exchange)
            self._write("exchange", exchange.to_json())
            return exchange.id

    def link(self, task: str, parent: int, transformation: Transformation, child: int, program: str) -> bool:
        """Writes that a transformation became a node, and returns whether it is one of this transcript.

        Args:
            task: the task in whose tree that is.
            parent: the node that was transformed.
            transformation: the transformation, as it was proposed.
            child: the new node.
            program: the key of its program.
        """
        with self._lock:
            place = self._unborn.pop((task, parent, transformation), None)
            if place is not None:
                exchange, index = place
                self._write("child", {"exchange": exchange, "index": index, "node": child, "program": program})
            return place is not None

    def _await_children(self, exchange: Exchange) -> None:
        for index, outcome in enumerate(exchange.outcomes):
            if outcome.used and outcome.transformation is not None and outcome.node is None:
                self._unborn[exchange.task, exchange.node, outcome.transformation] = (exchange.id, index)

    def _write(self, kind: str, obj: dict[str, Any]) -> None:
        line = {"v": VERSION, "type": kind} | _scrubbed(obj, self._scrubber)
        self._append_text(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    def _append_text(self, text: str) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def read_transcript(path: Path) -> list[Exchange]:
    """Returns the exchanges of a transcript, each with the nodes that came of it.

    Raises JournalError for a file that cannot be read or is no transcript.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror or error}") from error
    exchanges: dict[int, Exchange] = {}
    for number, line in enumerate(lines, start=1):
        try:
            obj = json.loads(line)
        except ValueError:
            continue  # empty or torn
        try:
            _read_line(obj, exchanges)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise JournalError(f"{path}, line {number}: not a line of a transcript ({error!r})") from None
    return list(exchanges.values())


def spending(exchanges: Iterable[Exchange]) -> Spending:
    """Returns what the calls of a transcript have cost, for a session whose journal does not tell."""
    spent = Spending()
    for exchange in exchanges:
        if exchange.answer is not None or exchange.usage.total:
            spent += Spending.of_call(exchange.usage, exchange.usd)
    return spent


def _read_line(obj: dict[str, Any], exchanges: dict[int, Exchange]) -> None:
    version, kind = obj.pop("v"), obj.pop("type")
    if version != VERSION:
        raise ValueError(f"version {version} instead of {VERSION}")
    if kind == "exchange":
        exchange = Exchange.from_json(obj)
        exchanges[exchange.id] = exchange
    elif kind == "child":
        exchange = exchanges[obj["exchange"]]
        outcomes = list(exchange.outcomes)
        outcomes[obj["index"]] = replace(outcomes[obj["index"]], node=obj["node"], program=obj["program"])
        exchanges[exchange.id] = replace(exchange, outcomes=tuple(outcomes))
    else:
        raise ValueError(f"kind {kind!r}")


def _scrubbed(value: Any, scrubber: Scrubber) -> Any:
    if isinstance(value, str):
        return scrubber.scrub(value.encode("utf-8", "replace").decode())
    if isinstance(value, dict):
        return {key: _scrubbed(inner, scrubber) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_scrubbed(inner, scrubber) for inner in value]
    return value

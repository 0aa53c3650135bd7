"""A recorded run in place of a model: the same questions get the same answers, without calls, keys or costs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from reasoning_compiler.errors import UsageError
from reasoning_compiler.proposer.llm.calls import CallFailure, Client, Message, Reply, prompt_hash
from reasoning_compiler.proposer.llm.transcript import Exchange, read_transcript


class ReplayClient:
    """Answers from a transcript; each recorded answer is given once.

    A question is found by its exact text; where that is not recorded (other measurements, another version of the
    prompt), by the node it is about. Recorded failures fail again.

    Args:
        exchanges: the recorded exchanges, in their order.
        then: who answers what is not recorded, as when an interrupted run goes on; None for a failure of kind
            "not_recorded".
    """

    def __init__(self, exchanges: Iterable[Exchange], *, then: Client | None = None) -> None:
        self._waiting = list(exchanges)
        self._then = then
        self._lock = threading.Lock()
        self.model = self._waiting[0].model if self._waiting else "replay"
        self.num_exact = 0
        self.num_by_node = 0
        self.num_missing = 0

    @classmethod
    def open(cls, run: Path) -> ReplayClient:
        """Returns the client for a run's folder or its transcript. Raises UsageError where there is none."""
        path = run / "transcript.jsonl" if run.is_dir() else run
        if not path.is_file():
            raise UsageError(f"there is no transcript to replay at {path}; was that run made with `--llm`?")
        return cls(read_transcript(path))

    def complete(
        self, messages: Sequence[Message], *, max_output_tokens: int | None = None, node: int | None = None
    ) -> Reply | CallFailure:
        """Returns what was recorded, its latency included, or a failure."""
        with self._lock:
            exchange = self._take(messages, node)
        if exchange is None:
            if self._then is not None:
                return self._then.complete(messages, max_output_tokens=max_output_tokens, node=node)
            return CallFailure("not_recorded", f"the transcript has no answer for node {node}", 0.0)
        if exchange.failure_kind is not None:
            sent = exchange.usage.total > 0
            attempts, secs = exchange.attempts, exchange.latency_secs
            return CallFailure(exchange.failure_kind, exchange.failure, secs, attempts, sent=sent)
        return Reply(exchange.answer or "", exchange.finish, exchange.usage, exchange.latency_secs, exchange.attempts)

    def close(self) -> None:
        """Closes the client that answers the rest, if there is one."""
        if self._then is not None:
            self._then.close()

    def _take(self, messages: Sequence[Message], node: int | None) -> Exchange | None:
        wanted = prompt_hash(messages)
        is_repair = any(m.role == "assistant" for m in messages)
        exact = next((e for e in self._waiting if e.prompt_hash == wanted), None)
        similar = next((e for e in self._waiting if e.node == node and (e.repair_of is not None) == is_repair), None)
        exchange = exact or similar
        if exchange is None:
            self.num_missing += 1
            return None
        self.num_exact += exact is not None
        self.num_by_node += exact is None
        self._waiting.remove(exchange)
        return exchange

    def __str__(self) -> str:
        return (
            f"{self.num_exact} answers by exact prompt, {self.num_by_node} by node, "
            f"{self.num_missing} not recorded, {len(self._waiting)} not asked for"
        )

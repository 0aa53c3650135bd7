"""A model with its budget, its transcript and its statistics: what every question passes through."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoning_compiler.core.errors import LLMSetupError
from reasoning_compiler.proposer.llm.budget import Budget, BudgetRefusal, Spending
from reasoning_compiler.proposer.llm.calls import (
    CallFailure,
    Client,
    Message,
    Reply,
    estimate_tokens,
    prompt_hash,
)
from reasoning_compiler.proposer.llm.prices import PriceList, Usage
from reasoning_compiler.proposer.llm.transcript import Exchange, Outcome, Transcript
from reasoning_compiler.proposer.llm.values import clip

DEFAULT_OUTPUT_TOKENS = 8192
_FAILURES_TO_PAUSE = 3
_PAUSE_SECS = 60.0
_MAX_STORED_CHARS = 200_000


@dataclass(frozen=True)
class LLMStats:
    """What a model did for a run.

    Args:
        model: its name.
        price: the price as known, in words.
        expansions: nodes that it was asked for; those after the end of a budget are not among them.
        failed_expansions: those of them for which no transformation of its own was usable.
        children: transformations of its own that went to the search.
        fallback_children: transformations that the fallback supplied.
        calls: calls made, repairs included.
        repairs: calls that told an answer's faults back.
        estimated_calls: calls whose tokens the server did not count.
        call_failures: calls without an answer, by kind.
        retried: failed tries of calls, by kind, also of those that succeeded later.
        rejections: transformations of answers that were not usable, by kind.
        spent: tokens and USD.
        latency_secs: the time of all calls together, waits included.
    """

    model: str
    price: str = ""
    expansions: int = 0
    failed_expansions: int = 0
    children: int = 0
    fallback_children: int = 0
    calls: int = 0
    repairs: int = 0
    estimated_calls: int = 0
    call_failures: tuple[tuple[str, int], ...] = ()
    retried: tuple[tuple[str, int], ...] = ()
    rejections: tuple[tuple[str, int], ...] = ()
    spent: Spending = field(default_factory=Spending)
    latency_secs: float = 0.0

    @property
    def fallback_rate(self) -> float | None:
        """The part of the expansions for which all proposals were unusable, as in the paper; None without any."""
        return self.failed_expansions / self.expansions if self.expansions else None

    def to_json(self) -> dict[str, Any]:
        named = ("call_failures", "retried", "rejections")
        return (
            vars(self)
            | {k: dict(getattr(self, k)) for k in named}
            | {
                "spent": vars(self.spent) | {"tokens": self.spent.tokens},
                "fallback_rate": self.fallback_rate,
            }
        )


@dataclass(frozen=True)
class Question:
    """What a model is asked, and for which node of which task."""

    messages: tuple[Message, ...]
    task: str
    node: int
    program: str
    num: int
    prompt_version: str
    repair_of: int | None = None


@dataclass(frozen=True)
class Asked:
    """A question with what came back, not yet judged."""

    question: Question
    outcome: Reply | CallFailure
    usage: Usage
    usd: float | None

    @property
    def reply(self) -> Reply | None:
        return self.outcome if isinstance(self.outcome, Reply) else None


class MeteredModel:
    """Asks a model within its budget; counts and records what happens. Safe to use from several threads.

    Raises UsageError on construction for a budget in USD without a known price.

    Args:
        client: who answers.
        budget: what may be spent; shared where several workloads are tuned.
        prices: what a call costs.
        transcript: where exchanges are recorded; None for nowhere.
        max_output_tokens: the longest answer.
        clock: seconds that only grow, for pauses after failures.
    """

    def __init__(
        self,
        client: Client,
        *,
        budget: Budget | None = None,
        prices: PriceList | None = None,
        transcript: Transcript | None = None,
        max_output_tokens: int = DEFAULT_OUTPUT_TOKENS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.budget = budget or Budget()
        self.prices = prices or PriceList(client.model)
        self.budget.check_priced(self.prices, client.model)
        self.transcript = transcript
        self._max_output_tokens = max_output_tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._stats = LLMStats(client.model, str(self.prices))
        self._call_failures: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._notices: list[str] = []
        self._answered = False
        self._off = False
        self._failures_in_row = 0
        self._paused_until = -1.0

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know, each said once, in order."""
        with self._lock:
            return tuple(self._notices)

    @property
    def stats(self) -> LLMStats:
        with self._lock:
            return replace(
                self._stats,
                call_failures=tuple(sorted(self._call_failures.items())),
                retried=tuple(sorted(self._retried.items())),
                rejections=tuple(sorted(self._rejections.items())),
            )

    def ask(self, question: Question) -> Asked | None:
        """Returns what the model says, or None where it is not asked: no budget, a pause, or given up.

        Raises LLMSetupError where the first call shows that no call can succeed; later such failures switch the
        model off, and the run goes on.
        """
        if not self._may_ask():
            return None
        prompt_tokens = sum(estimate_tokens(m.text) for m in question.messages)
        reservation = self.budget.reserve(prompt_tokens, self._max_output_tokens, self.prices)
        if isinstance(reservation, BudgetRefusal):
            if reservation.ended:
                self.notice(f"{reservation.why}; from here on without the model")
            return None
        try:
            outcome = self.client.complete(question.messages, max_output_tokens=reservation.max_output_tokens)
        except LLMSetupError as error:
            reservation.release()
            if not self._answered:
                raise
            self._off = True
            self.notice(f"{error}; from here on without the model")
            return None
        except BaseException:
            reservation.release()
            raise
        if isinstance(outcome, Reply):
            usage = outcome.usage
            if outcome.never_began:
                limit = reservation.max_output_tokens
                self.notice(f"an answer reached `max_output_tokens` ({limit}) in its hidden reasoning; raise it")
        else:
            # A prompt that was sent may be charged for, whatever became of the answer.
            usage = Usage(prompt_tokens if outcome.sent else 0, estimated=True)
        usd = self.prices.usd(usage) if usage.total else 0.0
        if usage.total:
            reservation.charge(usage, usd)
        else:
            reservation.release()
        self._count_call(question, outcome, usage, usd)
        return Asked(question, outcome, usage, usd)

    def record(self, asked: Asked, outcomes: Sequence[Outcome] = ()) -> int | None:
        """Counts and writes what came of an answer; returns the exchange's number in the transcript."""
        with self._lock:
            self._rejections.update(o.kind for o in outcomes if o.kind is not None)
            self._stats = replace(self._stats, children=self._stats.children + sum(o.used for o in outcomes))
        if self.transcript is None:
            return None
        question, reply = asked.question, asked.reply
        return self.transcript.append(
            Exchange(
                task=question.task,
                node=question.node,
                program=question.program,
                num=question.num,
                model=self.client.model,
                prompt_version=question.prompt_version,
                prompt_hash=prompt_hash(question.messages),
                messages=question.messages,
                answer=clip(reply.text, _MAX_STORED_CHARS) if reply is not None else None,
                finish=reply.finish if reply is not None else asked.outcome.kind,
                failure="" if reply is not None else asked.outcome.message,
                usage=asked.usage,
                usd=asked.usd,
                latency_secs=asked.outcome.latency_secs,
                attempts=asked.outcome.attempts,
                outcomes=tuple(outcomes),
                repair_of=question.repair_of,
            )
        )

    def count_expansion(self, *, usable: bool) -> None:
        """Counts a node that the model was asked for, and whether it gave a usable transformation."""
        with self._lock:
            self._stats = replace(
                self._stats,
                expansions=self._stats.expansions + 1,
                failed_expansions=self._stats.failed_expansions + (not usable),
            )

    def count_fallback(self, num: int) -> None:
        """Counts transformations that the fallback supplied."""
        with self._lock:
            self._stats = replace(self._stats, fallback_children=self._stats.fallback_children + num)

    def notice(self, text: str) -> None:
        """Keeps a message for the user, once."""
        with self._lock:
            if text not in self._notices:
                self._notices.append(text)

    def close(self) -> None:
        """Ends the calls under way, and makes none from here on."""
        with self._lock:
            self._off = True
        self.client.close()

    def _may_ask(self) -> bool:
        with self._lock:
            return not self._off and self._clock() >= self._paused_until

    def _count_call(self, question: Question, outcome: Reply | CallFailure, usage: Usage, usd: float | None) -> None:
        failed = isinstance(outcome, CallFailure)
        pause_secs = 0.0
        with self._lock:
            stats = self._stats
            self._stats = replace(
                stats,
                calls=stats.calls + 1,
                repairs=stats.repairs + (question.repair_of is not None),
                estimated_calls=stats.estimated_calls + (usage.estimated and usage.total > 0),
                spent=stats.spent + Spending.of_call(usage, usd) if usage.total else stats.spent,
                latency_secs=stats.latency_secs + outcome.latency_secs,
            )
            self._retried.update(attempt.kind for attempt in outcome.attempts)
            if not failed:
                self._answered = True
                self._failures_in_row = 0
                return
            self._call_failures[outcome.kind] += 1
            if outcome.kind in ("closed", "context_window", "content_filter"):
                return
            self._failures_in_row += 1
            if self._failures_in_row >= _FAILURES_TO_PAUSE or outcome.retry_after_secs is not None:
                pause_secs = max(_PAUSE_SECS, outcome.retry_after_secs or 0.0)
                self._paused_until = self._clock() + pause_secs
        if pause_secs:
            self.notice(
                f"the model does not answer ({outcome.kind}: {outcome.message}); "
                f"it is asked again after a pause of {pause_secs:g} s"
            )

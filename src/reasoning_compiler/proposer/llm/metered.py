"""A model with its budget, its transcript and its statistics: what every question passes through."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from reasoning_compiler.core.errors import LLMSetupError
from reasoning_compiler.proposer.llm.answer import Outcome
from reasoning_compiler.proposer.llm.budget import Budget, BudgetRefusal, Ledger, Spending
from reasoning_compiler.proposer.llm.calls import CallFailure, Reply, estimate_tokens, prompt_hash
from reasoning_compiler.proposer.llm.prices import PriceList, Usage
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.proposer.llm.transcript import Exchange, Question, Transcript
from reasoning_compiler.proposer.llm.values import clip
from reasoning_compiler.proposer.protocol import Proposer

if TYPE_CHECKING:
    from reasoning_compiler.proposer.llm.client import LLMClient

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
        repairs: calls that returned an answer's faults to the model.
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
    call_failures: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    spent: Spending = field(default_factory=Spending)
    latency_secs: float = 0.0

    @property
    def fallback_rate(self) -> float | None:
        """The part of the expansions for which all proposals were unusable, as in the paper; None without any."""
        return self.failed_expansions / self.expansions if self.expansions else None

    def to_json(self) -> dict[str, Any]:
        spent = vars(self.spent) | {"tokens": self.spent.tokens}
        plain = {k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in vars(self).items()}
        return plain | {"spent": spent, "fallback_rate": self.fallback_rate}


class MeteredModel:
    """Asks a model within its budget; counts and records what happens. Safe to use from several threads.

    Args:
        settings: the model, its price and its limits.
        client: who answers.
        transcript: where exchanges are recorded; None for nowhere.
        spent, num_calls, ledger: see `Budget`.
        clock: seconds that only grow, for pauses after failures.

    Raises:
        UsageError: a budget is not positive, or is in USD and the price is unknown.
    """

    def __init__(
        self,
        settings: LLMSettings,
        client: LLMClient,
        *,
        transcript: Transcript | None = None,
        spent: Spending | None = None,
        num_calls: int = 0,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self.client, self.transcript, self._clock = settings, client, transcript, clock
        self._budget = Budget(
            max_calls=settings.max_llm_calls,
            max_tokens=settings.budget_tokens,
            max_usd=settings.budget_usd,
            spent=spent,
            num_calls=num_calls,
            ledger=ledger,
        )
        self._prices = PriceList(settings.model, base_url=settings.base_url, price=settings.price)
        self._budget.check_priced(self._prices, settings.model)
        self._lock = threading.Lock()
        self._stats = LLMStats(settings.model, str(self._prices))
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
        """What the model did so far."""
        return self._stats

    def ask(self, question: Question) -> Exchange | None:
        """Returns what the model says, not yet judged, or None where it is not asked: no budget, a pause, or given up.

        Raises LLMSetupError where the first call shows that no call can succeed; later such failures switch the
        model off, and the run goes on.
        """
        if not self._may_ask():
            return None
        prompt_tokens = sum(estimate_tokens(m.text) for m in question.messages)
        reservation = self._budget.reserve(prompt_tokens, self._settings.max_output_tokens, self._prices)
        if isinstance(reservation, BudgetRefusal):
            if reservation.ended:
                self.notice(f"{reservation.why}; from here on without the model")
            return None
        try:
            outcome = self.client.complete(question.messages, max_output_tokens=reservation.max_output_tokens)
        except LLMSetupError as error:
            reservation.settle(Spending())
            if not self._answered:
                raise
            self._off = True
            self.notice(f"{error}; from here on without the model")
            return None
        except BaseException:
            reservation.settle(Spending())
            raise
        reply = outcome if isinstance(outcome, Reply) else None
        # A prompt that was sent may be charged for, whatever became of the answer.
        usage = reply.usage if reply else Usage(prompt_tokens if outcome.sent else 0, estimated=True)
        usd = self._prices.usd(usage) if usage.total else 0.0
        spent = Spending.of_call(usage, usd) if usage.total else Spending()
        reservation.settle(spent)
        self._count_call(question, outcome, spent, is_estimated=usage.estimated and usage.total > 0)
        exchange = Exchange(
            **vars(question),
            model=self._settings.model,
            prompt_hash=prompt_hash(question.messages),
            answer=clip(reply.text, _MAX_STORED_CHARS) if reply else None,
            finish=reply.finish if reply else outcome.kind,
            failure="" if reply else outcome.message,
            usage=usage,
            usd=usd,
            latency_secs=outcome.latency_secs,
            attempts=outcome.attempts,
        )
        if exchange.never_began:
            limit = reservation.max_output_tokens
            self.notice(f"an answer reached `max_output_tokens` ({limit}) in its hidden reasoning; raise it")
        return exchange

    def record(self, exchange: Exchange, outcomes: Sequence[Outcome] = ()) -> int | None:
        """Counts and writes what came of an answer; returns the exchange's number in the transcript."""
        refused = Counter(o.kind for o in outcomes if o.kind is not None)
        self._count(children=sum(o.used for o in outcomes), rejections=refused)
        return self.transcript.append(replace(exchange, outcomes=tuple(outcomes))) if self.transcript else None

    def count_expansion(self, *, usable: bool) -> None:
        """Counts a node that the model was asked for, and whether it gave a usable transformation."""
        self._count(expansions=1, failed_expansions=int(not usable))

    def count_fallback(self, num: int) -> None:
        """Counts transformations that the fallback supplied."""
        self._count(fallback_children=num)

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

    def _count(self, **more: Any) -> None:
        """Adds to the statistics of these names."""
        with self._lock:
            added = {name: getattr(self._stats, name) + number for name, number in more.items()}
            self._stats = replace(self._stats, **added)

    def _count_call(
        self, question: Question, outcome: Reply | CallFailure, spent: Spending, *, is_estimated: bool
    ) -> None:
        failed = isinstance(outcome, CallFailure)
        self._count(
            calls=1,
            repairs=int(question.repair_of is not None),
            estimated_calls=int(is_estimated),
            call_failures=Counter([outcome.kind] if failed else []),
            retried=Counter(attempt.kind for attempt in outcome.attempts),
            spent=spent,
            latency_secs=outcome.latency_secs,
        )
        if not failed:
            self._answered, self._failures_in_row = True, 0
        elif outcome.kind not in ("closed", "context_window", "content_filter"):
            with self._lock:
                self._failures_in_row += 1
                is_pausing = self._failures_in_row >= _FAILURES_TO_PAUSE or outcome.retry_after_secs is not None
            if is_pausing:
                pause_secs = max(_PAUSE_SECS, outcome.retry_after_secs or 0.0)
                self._paused_until = self._clock() + pause_secs
                self.notice(
                    f"the model does not answer ({outcome.kind}: {outcome.message}); "
                    f"it is asked again after a pause of {pause_secs:g} s"
                )


class ModelProposer(Proposer, Protocol):
    """A proposer that asks a model."""

    model: MeteredModel

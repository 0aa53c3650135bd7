"""What a run may spend on a language model: checked before a call, charged after it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.proposer.llm.prices import PriceList, Usage

MIN_OUTPUT_TOKENS = 256
"""An answer shorter than this is not worth paying a prompt for."""


@dataclass(frozen=True)
class Spending:
    """What has been spent.

    Args:
        calls: calls that were charged.
        usd: the cost of the calls whose price is known.
        unpriced_calls: calls whose price is not known.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    usd: float = 0.0
    unpriced_calls: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __str__(self) -> str:
        tokens = f"{self.calls} calls, {self.input_tokens:,} tokens in and {self.output_tokens:,} out"
        if self.calls and self.unpriced_calls == self.calls:
            return f"{tokens}, cost unknown"
        unpriced = f" and {self.unpriced_calls} calls of unknown cost" if self.unpriced_calls else ""
        return f"{tokens}, ${self.usd:.4f}{unpriced}"

    def plus(self, usage: Usage, usd: float | None) -> Spending:
        """Returns the spending with one more call; `usd` is None where its price is unknown."""
        return Spending(
            calls=self.calls + 1,
            input_tokens=self.input_tokens + usage.input_tokens,
            output_tokens=self.output_tokens + usage.output_tokens,
            cached_tokens=self.cached_tokens + usage.cached_tokens,
            usd=self.usd + (usd or 0.0),
            unpriced_calls=self.unpriced_calls + (usd is None),
        )


@dataclass(frozen=True)
class BudgetRefusal:
    """Why a call may not be made.

    Args:
        why: which budget is in the way, in words.
        ended: no later call will be possible either; otherwise calls under way hold the rest.
    """

    why: str
    ended: bool


class Reservation:
    """The part of a budget that one call may spend; to be settled exactly once."""

    def __init__(self, budget: Budget, max_output_tokens: int, tokens: int, usd: float) -> None:
        self.max_output_tokens = max_output_tokens
        self._budget, self._tokens, self._usd = budget, tokens, usd

    def charge(self, usage: Usage, usd: float | None) -> None:
        """Replaces what was reserved by what the call did cost; `usd` is None where the price is unknown."""
        self._budget._settle(self._tokens, self._usd, usage, usd)

    def release(self) -> None:
        """Gives back all of it: the call did not take place."""
        self._budget._settle(self._tokens, self._usd, None, None)


class Budget:
    """Limits in calls, tokens and USD, each None for no limit. Safe to share between threads and workloads.

    A call reserves what it may cost at most, and its answer is limited to what can be paid; so the limits
    hold with many calls at once. Raises UsageError for a limit that is not positive.

    Args:
        max_calls: calls that the model may have worked on.
        max_tokens: of prompts and answers together.
        max_usd: needs a known price, see `check_priced`.
        spent: what an interrupted run has spent already.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        spent: Spending | None = None,
    ) -> None:
        limits = {"max_llm_calls": max_calls, "budget_tokens": max_tokens, "budget_usd": max_usd}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise UsageError(f"`--{name.replace('_', '-')}` is {limit}; it must be above 0")
        self.max_calls, self.max_tokens, self.max_usd = max_calls, max_tokens, max_usd
        self._lock = threading.Lock()
        self._spent = spent or Spending()
        self._held_calls, self._held_tokens, self._held_usd = 0, 0, 0.0

    @property
    def spent(self) -> Spending:
        with self._lock:
            return self._spent

    def check_priced(self, prices: PriceList, model: str) -> None:
        """Raises UsageError where a budget in USD meets a model whose price is unknown."""
        if self.max_usd is not None and not prices.known:
            raise UsageError(
                f"`--budget-usd` is set, but the price of {model} is unknown; give it with `--price IN/OUT` "
                "(USD per million tokens), or limit the run with `--budget-tokens` or `--max-llm-calls`"
            )

    def reserve(self, prompt_tokens: int, max_output_tokens: int, prices: PriceList) -> Reservation | BudgetRefusal:
        """Returns the right to make one call, with the longest answer that can be paid, or why not."""
        with self._lock:
            enough = min(MIN_OUTPUT_TOKENS, max_output_tokens)
            output_tokens, _ = self._affordable(prompt_tokens, max_output_tokens, prices, held=True)
            if output_tokens < enough:
                alone, short = self._affordable(prompt_tokens, max_output_tokens, prices, held=False)
                if alone < enough:
                    return BudgetRefusal(f"{short} is used up", ended=True)
                return BudgetRefusal("calls under way hold the rest of the budget", ended=False)
            usd = prices.usd(Usage(prompt_tokens, output_tokens)) or 0.0
            tokens = prompt_tokens + output_tokens
            self._held_calls += 1
            self._held_tokens += tokens
            self._held_usd += usd
            return Reservation(self, output_tokens, tokens, usd)

    def _affordable(
        self, prompt_tokens: int, max_output_tokens: int, prices: PriceList, *, held: bool
    ) -> tuple[int, str]:
        """Returns the longest answer that can be paid, and the limit that shortens it most."""
        output_tokens, short = max_output_tokens, ""
        if self.max_calls is not None:
            calls = self._spent.calls + held * self._held_calls
            if calls >= self.max_calls:
                return 0, f"the budget of {self.max_calls} calls"
        if self.max_tokens is not None:
            room = self.max_tokens - self._spent.tokens - held * self._held_tokens - prompt_tokens
            if room < output_tokens:
                output_tokens, short = room, f"the budget of {self.max_tokens} tokens"
        if self.max_usd is not None:
            room_usd = self.max_usd - self._spent.usd - held * self._held_usd
            prompt_usd = prices.usd(Usage(prompt_tokens)) or 0.0
            token_usd = ((prices.usd(Usage(prompt_tokens, 1000)) or 0.0) - prompt_usd) / 1000
            if prompt_usd + token_usd * output_tokens > room_usd:
                payable = int((room_usd - prompt_usd) / token_usd) if token_usd > 0 else 0
                output_tokens, short = payable, f"the budget of ${self.max_usd:g}"
        return output_tokens, short

    def _settle(self, tokens: int, held_usd: float, usage: Usage | None, usd: float | None) -> None:
        with self._lock:
            self._held_calls -= 1
            self._held_tokens -= tokens
            self._held_usd = self._held_usd - held_usd if self._held_calls else 0.0
            if usage is None:
                return
            self._spent = self._spent.plus(usage, usd)

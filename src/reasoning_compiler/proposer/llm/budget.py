"""What a session may spend on a language model: reserved before a call, settled after it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Protocol

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

    def __add__(self, other: Spending) -> Spending:
        names = [each.name for each in fields(self)]
        return Spending(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @classmethod
    def of_call(cls, usage: Usage, usd: float | None) -> Spending:
        """Returns what one call has cost; `usd` is None where its price is unknown."""
        return cls(
            calls=1,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            usd=usd or 0.0,
            unpriced_calls=int(usd is None),
        )


class Ledger(Protocol):
    """Where spending is written down, so that a killed session's reservations are not forgotten."""

    def reserved(self, call: int, most: Spending) -> None:
        """Writes, before a call is made, what it may cost at most. Raises JournalError where that fails."""
        ...

    def settled(self, call: int, spent: Spending) -> None:
        """Writes what the call did cost; nothing where it did not take place. Raises as `reserved`."""
        ...


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

    def __init__(self, budget: Budget, call: int, most: Spending) -> None:
        self.max_output_tokens = most.output_tokens
        self._budget, self._call = budget, call

    def settle(self, spent: Spending) -> None:
        """Replaces what was reserved by what the call did cost: nothing where it did not take place."""
        self._budget._settle(self._call, spent)


class Budget:
    """Limits in calls, tokens and USD, each None for no limit. Safe to share between threads and workloads.

    A call reserves what it may cost at most, and its answer is limited to what can be paid; so the limits
    hold with many calls at once. Raises UsageError for a limit that is not positive.

    Args:
        max_calls: calls that the model may have worked on.
        max_tokens: of prompts and answers together.
        max_usd: needs a known price, see `check_priced`.
        spent: what an interrupted session has spent already.
        num_calls: calls that it has reserved; further ones are numbered from there.
        ledger: where reservations are written; None for nowhere.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        spent: Spending | None = None,
        num_calls: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        limits = {"max_llm_calls": max_calls, "budget_tokens": max_tokens, "budget_usd": max_usd}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise UsageError(f"`--{name.replace('_', '-')}` is {limit}; it must be above 0")
        self.max_calls, self.max_tokens, self.max_usd = max_calls, max_tokens, max_usd
        self._lock = threading.Lock()
        self._spent = spent or Spending()
        self._held: dict[int, Spending] = {}
        self._num_calls, self._ledger = num_calls, ledger

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
            usage = Usage(prompt_tokens, output_tokens)
            most = Spending.of_call(usage, prices.usd(usage))
            self._num_calls += 1
            if self._ledger is not None:
                self._ledger.reserved(self._num_calls, most)
            self._held[self._num_calls] = most
            return Reservation(self, self._num_calls, most)

    def _affordable(
        self, prompt_tokens: int, max_output_tokens: int, prices: PriceList, *, held: bool
    ) -> tuple[int, str]:
        """Returns the longest answer that can be paid, and the limit that shortens it most."""
        output_tokens, short = max_output_tokens, ""
        taken = sum(self._held.values(), self._spent) if held else self._spent
        if self.max_calls is not None and taken.calls >= self.max_calls:
            return 0, f"the budget of {self.max_calls} calls"
        if self.max_tokens is not None:
            room = self.max_tokens - taken.tokens - prompt_tokens
            if room < output_tokens:
                output_tokens, short = room, f"the budget of {self.max_tokens} tokens"
        if self.max_usd is not None:
            room_usd = self.max_usd - taken.usd
            prompt_usd = prices.usd(Usage(prompt_tokens)) or 0.0
            token_usd = ((prices.usd(Usage(prompt_tokens, 1000)) or 0.0) - prompt_usd) / 1000
            if prompt_usd + token_usd * output_tokens > room_usd:
                payable = int((room_usd - prompt_usd) / token_usd) if token_usd > 0 else 0
                output_tokens, short = payable, f"the budget of ${self.max_usd:g}"
        return output_tokens, short

    def _settle(self, call: int, spent: Spending) -> None:
        with self._lock:
            del self._held[call]
            self._spent += spent
            if self._ledger is not None:
                self._ledger.settled(call, spent)

"""What a call costs: prices of the genai-prices package, or the user's own; never a guess."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import Record


@dataclass(frozen=True)
class Usage(Record):
    """The tokens of one call.

    Args:
        input_tokens: of the prompt, cached ones included.
        output_tokens: of the answer, hidden reasoning included.
        cached_tokens: those of the prompt that the provider read from its cache.
        cache_write_tokens: those of the prompt that the provider wrote to its cache.
        estimated: the server did not say, and these are counted from the characters.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


class PriceList:
    """The price of one model's calls.

    Args:
        model: the model with its provider, as "openai:gpt-4o-mini".
        base_url: the server, where it is not the provider's own.
        price: the user's own, which then holds: USD per million tokens as `IN/OUT`, as in "0.15/0.60".

    Raises:
        UsageError: the price is not of that form.
    """

    def __init__(self, model: str, *, base_url: str | None = None, price: str | None = None) -> None:
        self._provider, _, self._name = model.partition(":")
        self._base_url = base_url
        self._own: tuple[float, ...] | None = None
        if price is not None:
            with suppress(ValueError):
                self._own = tuple(map(float, price.split("/")))
            if self._own is None or len(self._own) != 2 or not all(0 <= usd < math.inf for usd in self._own):
                raise UsageError(
                    f"`--price` is {price!r}; give USD per million tokens in and out, as in `--price 0.15/0.60`"
                )

    @property
    def known(self) -> bool:
        return self.usd(Usage(1, 1)) is not None

    def usd(self, usage: Usage) -> float | None:
        """Returns the cost of a call in USD, None where no price is known."""
        if self._own is not None:
            return (usage.input_tokens * self._own[0] + usage.output_tokens * self._own[1]) / 1e6
        try:
            import genai_prices
        except ImportError:
            return None
        tokens = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_tokens or None,
            cache_write_tokens=usage.cache_write_tokens or None,
        )
        where = {"provider_api_url": self._base_url} if self._base_url else {"provider_id": self._provider}
        try:
            return float(genai_prices.calc_price(tokens, model_ref=self._name, **where).total_price)
        except (LookupError, ValueError):
            return None

    def __str__(self) -> str:
        million = 1_000_000
        costs = self.usd(Usage(input_tokens=million)), self.usd(Usage(output_tokens=million))
        if None in costs:
            return "price unknown"
        source = "`--price`" if self._own is not None else "genai-prices"
        return f"${costs[0]:g} in, ${costs[1]:g} out per million tokens ({source})"

"""What a call costs: prices of the genai-prices package, or the user's own; never a guess."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError


@dataclass(frozen=True)
class Usage:
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


@dataclass(frozen=True)
class Price:
    """A price in USD per million tokens, as the user gives it."""

    input_usd: float
    output_usd: float

    @classmethod
    def parse(cls, text: str) -> Price:
        """Returns the price of `IN/OUT`, as in "0.15/0.60". Raises UsageError for anything else."""
        try:
            input_usd, output_usd = (float(part) for part in text.split("/"))
        except ValueError:
            input_usd = output_usd = math.nan
        if not (0 <= input_usd < math.inf and 0 <= output_usd < math.inf):
            raise UsageError(
                f"`--price` is {text!r}; give USD per million tokens in and out, as in `--price 0.15/0.60`"
            )
        return cls(input_usd, output_usd)


class PriceList:
    """The price of one model's calls.

    Args:
        model: the model with its provider, as "openai:gpt-4o-mini".
        base_url: the server, where it is not the provider's own.
        override: the user's price, which then holds.
    """

    def __init__(self, model: str, *, base_url: str | None = None, override: Price | None = None) -> None:
        self._provider, _, self._name = model.partition(":")
        self._base_url = base_url
        self._override = override

    @property
    def known(self) -> bool:
        return self.usd(Usage(1, 1)) is not None

    def usd(self, usage: Usage) -> float | None:
        """Returns the cost of a call in USD, None where no price is known."""
        if self._override is not None:
            price = self._override
            return (usage.input_tokens * price.input_usd + usage.output_tokens * price.output_usd) / 1e6
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
        source = "`--price`" if self._override is not None else "genai-prices"
        return f"${costs[0]:g} in, ${costs[1]:g} out per million tokens ({source})"

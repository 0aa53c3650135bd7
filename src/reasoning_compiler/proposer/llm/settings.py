"""How a run uses a language model: what the command line and the Python API take, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.proposer.llm.budget import Budget, Ledger, Spending
from reasoning_compiler.proposer.llm.calls import Client
from reasoning_compiler.proposer.llm.client import ClientOptions, LLMClient
from reasoning_compiler.proposer.llm.metered import DEFAULT_OUTPUT_TOKENS, MeteredModel
from reasoning_compiler.proposer.llm.prices import Price, PriceList
from reasoning_compiler.proposer.llm.prompt import DEFAULT_PROMPT_TOKENS
from reasoning_compiler.proposer.llm.transcript import Transcript

OWN_SERVER_PROMPT_TOKENS = 4_000
"""Local servers often run with small contexts, and some cut a longer prompt without a word."""


@dataclass(frozen=True)
class LLMSettings:
    """The options of a run with a language model.

    Args:
        model: the provider and the model, as "openai:gpt-4o-mini".
        base_url: an OpenAI-compatible server, where it is not the provider's own.
        api_key_env: the environment variable that holds the key; the provider's usual one by default.
        price: "IN/OUT" in USD per million tokens, where the model's price is unknown.
        budget_usd: the most that the run may spend.
        budget_tokens: the most tokens, prompts and answers together.
        max_llm_calls: the most calls.
        context_depth: how many ancestors of a node the prompt tells of.
        max_prompt_tokens: about how long a prompt may be; None for a default that suits the server.
        max_output_tokens: the longest answer, hidden reasoning included.
        timeout_secs: the longest time for one try of a call.
        max_concurrent_calls: calls under way at once.
        temperature: None for the model's own default.
        seed: given to the providers that take one.
        stream: read answers as they are written.
        children: transformations asked for in one call.
        expert_share: most of the samples that the expert may fill in while the model thinks, in [0, 1).
        names_only: the model names transformations, as in the paper, and values are random.

    Raises:
        UsageError: a number is out of its range.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    price: str | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None
    max_llm_calls: int | None = None
    context_depth: int = 2
    max_prompt_tokens: int | None = None
    max_output_tokens: int = DEFAULT_OUTPUT_TOKENS
    timeout_secs: float = 120.0
    max_concurrent_calls: int = 4
    temperature: float | None = None
    seed: int | None = None
    stream: bool = False
    children: int = 4
    expert_share: float = 0.5
    names_only: bool = False

    def __post_init__(self) -> None:
        least = {
            "context_depth": 0,
            "max_output_tokens": 64,
            "timeout_secs": 0.1,
            "max_concurrent_calls": 1,
            "children": 1,
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UsageError(f"`{name}` is {getattr(self, name)}; it must be at least {bound}")
        if not 0 <= self.expert_share < 1:
            raise UsageError(f"`expert_share` is {self.expert_share}; it must be at least 0 and below 1")

    @property
    def prompt_tokens(self) -> int:
        """About how long a prompt may be."""
        if self.max_prompt_tokens is not None:
            return self.max_prompt_tokens
        local = self.base_url is not None or self.model.startswith("ollama:")
        return OWN_SERVER_PROMPT_TOKENS if local else DEFAULT_PROMPT_TOKENS


def open_client(settings: LLMSettings) -> LLMClient:
    """Returns the client of the run's model. Raises LLMSetupError for an unknown provider, a missing key or package."""
    return LLMClient(
        ClientOptions(
            model=settings.model,
            base_url=settings.base_url,
            api_key_env=settings.api_key_env,
            timeout_secs=settings.timeout_secs,
            temperature=settings.temperature,
            seed=settings.seed,
            max_output_tokens=settings.max_output_tokens,
            max_concurrent_calls=settings.max_concurrent_calls,
            stream=settings.stream,
        )
    )


def open_model(
    settings: LLMSettings,
    *,
    transcript: Transcript | None = None,
    spent: Spending | None = None,
    num_calls: int = 0,
    ledger: Ledger | None = None,
    client: Client | None = None,
) -> MeteredModel:
    """Returns the model of a run, not yet called.

    Args:
        settings: the run's options.
        transcript: where exchanges are recorded.
        spent: what the session has spent before it was interrupted.
        num_calls: calls that it has reserved by then.
        ledger: where reservations are written; None for nowhere.
        client: who answers; None for `open_client`'s.

    Raises:
        LLMSetupError: an unknown provider, a missing key or package.
        UsageError: a budget is not positive, or is in USD and the price is unknown.
    """
    budget = Budget(
        max_calls=settings.max_llm_calls,
        max_tokens=settings.budget_tokens,
        max_usd=settings.budget_usd,
        spent=spent,
        num_calls=num_calls,
        ledger=ledger,
    )
    price = Price.parse(settings.price) if settings.price is not None else None
    prices = PriceList(settings.model, base_url=settings.base_url, override=price)
    budget.check_priced(prices, settings.model)
    return MeteredModel(
        client or open_client(settings),
        budget=budget,
        prices=prices,
        transcript=transcript,
        max_output_tokens=settings.max_output_tokens,
    )

"""How a run uses a language model, as the command line and the Python API take it."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import Record

DEFAULT_PROMPT_TOKENS = 8_000
DEFAULT_OUTPUT_TOKENS = 8_192
OWN_SERVER_PROMPT_TOKENS = 4_000
"""Local servers often run with small contexts, and some cut a longer prompt without a word."""


@dataclass(frozen=True)
class LLMSettings(Record):
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
        timeout_secs: the longest time for one try of a call, from asking to the whole answer.
        max_concurrent_calls: calls under way at once; more wait.
        temperature: None for the model's own default.
        seed: given to the providers that take one.
        stream: read answers as they are written, so that what has come before a timeout or a dropped connection can
            still be used.
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

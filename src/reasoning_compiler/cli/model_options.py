"""The options of a language model that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.errors import UsageError

if TYPE_CHECKING:
    from reasoning_compiler.tuner import LLMSettings

_LLM = {"rich_help_panel": "Language model"}

Llm = Annotated[str | None, typer.Option("--llm", help="A model, as openai:gpt-4o-mini, ollama:….", **_LLM)]
BaseUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible server of your own.", **_LLM)]
ApiKeyEnv = Annotated[
    str | None, typer.Option(help="The environment variable with the key, if not the usual one.", **_LLM)
]
BudgetUsd = Annotated[float | None, typer.Option(help="US dollars at most, for each run.", **_LLM)]
MaxLlmCalls = Annotated[int | None, typer.Option(help="Calls at most, for each run.", **_LLM)]
PriceOption = Annotated[
    str | None, typer.Option("--price", help="IN/OUT in US dollars per million tokens, if it is not known.", **_LLM)
]


def model_settings(
    llm: str | None,
    *,
    base_url: str | None,
    api_key_env: str | None,
    budget_usd: float | None,
    max_llm_calls: int | None,
    price: str | None,
) -> LLMSettings | None:
    """Returns the settings of the model that was asked for; None where there is none.

    Raises:
        UsageError: a server without a model.
    """
    from reasoning_compiler.tuner import LLMSettings

    if llm is None:
        if base_url is not None:
            raise UsageError("`--base-url` needs a model: give `--llm NAME` as the server calls it")
        return None
    return LLMSettings(
        model=llm,
        base_url=base_url,
        api_key_env=api_key_env,
        budget_usd=budget_usd,
        max_llm_calls=max_llm_calls,
        price=price,
    )

"""The options of a language model that several commands share, and its settings made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasoning_compiler.core.errors import UsageError

if TYPE_CHECKING:
    from reasoning_compiler.session import LLMSettings

LLM_PANEL = {"rich_help_panel": "Language model"}

Llm = Annotated[
    str | None,
    typer.Option("--llm", help="Model, such as openai:gpt-4o-mini, anthropic:…, google:… or ollama:….", **LLM_PANEL),
]
BaseUrl = Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.", **LLM_PANEL)]
ApiKeyEnv = Annotated[
    str | None, typer.Option(help="Environment variable that holds the API key. Default: the provider's.", **LLM_PANEL)
]
BudgetUsd = Annotated[float | None, typer.Option(help="Maximum spend per run (USD).", **LLM_PANEL)]
MaxLlmCalls = Annotated[int | None, typer.Option(help="Maximum number of calls per run.", **LLM_PANEL)]
PriceOption = Annotated[
    str | None,
    typer.Option("--price", help="Price as IN/OUT, in USD per million tokens, if unknown.", **LLM_PANEL),
]


def model_settings(llm: str | None, *, base_url: str | None, **options: Any) -> LLMSettings | None:
    """Returns the settings of the model that was asked for; None where there is none.

    Args:
        llm: the model.
        base_url: of a server of the user's own.
        options: further fields of `LLMSettings`.

    Raises:
        UsageError: a server without a model.
    """
    from reasoning_compiler.session import LLMSettings

    if llm is None:
        if base_url is not None:
            raise UsageError("`--base-url` needs a model: give `--llm NAME` as the server calls it")
        return None
    return LLMSettings(model=llm, base_url=base_url, **options)

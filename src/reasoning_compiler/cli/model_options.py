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
    typer.Option("--llm", help="A model, as openai:gpt-4o-mini, anthropic:…, google:…, ollama:….", **LLM_PANEL),
]
BaseUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible server of your own.", **LLM_PANEL)]
ApiKeyEnv = Annotated[
    str | None, typer.Option(help="The environment variable with the key, if not the usual one.", **LLM_PANEL)
]
BudgetUsd = Annotated[float | None, typer.Option(help="US dollars at most, for each run.", **LLM_PANEL)]
MaxLlmCalls = Annotated[int | None, typer.Option(help="Calls at most, for each run.", **LLM_PANEL)]
PriceOption = Annotated[
    str | None,
    typer.Option("--price", help="IN/OUT in US dollars per million tokens, if it is not known.", **LLM_PANEL),
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

"""The options of a language model that several commands share, and its settings made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasoning_compiler.core.errors import UsageError

if TYPE_CHECKING:
    from reasoning_compiler.session import LLMSettings

LLM_PANEL = {"rich_help_panel": "Language model"}


@dataclass(frozen=True)
class ModelOptions:
    """A language model as the command line names it."""

    llm: Annotated[
        str | None,
        typer.Option(help="Model, such as openai:gpt-4o-mini, anthropic:…, google:… or ollama:….", **LLM_PANEL),
    ] = None
    base_url: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.", **LLM_PANEL)] = None
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the API key. Default: the provider's.", **LLM_PANEL),
    ] = None
    budget_usd: Annotated[float | None, typer.Option(help="Maximum spend per run (USD).", **LLM_PANEL)] = None
    max_llm_calls: Annotated[int | None, typer.Option(help="Maximum number of calls per run.", **LLM_PANEL)] = None
    price: Annotated[
        str | None,
        typer.Option(help="Price as IN/OUT, in USD per million tokens, if unknown.", **LLM_PANEL),
    ] = None

    def settings(self, **more: Any) -> LLMSettings | None:
        """Returns the settings of the model that was asked for; None where there is none.

        Args:
            more: further fields of `LLMSettings`.

        Raises:
            UsageError: a server without a model.
        """
        from reasoning_compiler.session import LLMSettings

        if self.llm is not None:
            return LLMSettings(self.llm, **{k: v for k, v in vars(self).items() if k != "llm"}, **more)
        if self.base_url is not None:
            raise UsageError("`--base-url` needs a model: give `--llm NAME` as the server calls it")
        return None

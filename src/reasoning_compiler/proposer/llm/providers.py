"""From a model's name to pydantic-ai's model: which server, which protocol, and which key it may see."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from reasoning_compiler.core.errors import LLMSetupError
from reasoning_compiler.proposer.llm.scrub import Scrubber, is_secret_name

if TYPE_CHECKING:
    from pydantic_ai.models import Model

OWN_SERVER_KEY = "REASONC_LLM_API_KEY"
"""The key of a server given by `--base-url`: a provider's own key is never sent to another host."""
OLLAMA_URL = "http://localhost:11434/v1"

_KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "ollama": ("OLLAMA_API_KEY",),
}
BUILT_PROVIDERS = tuple(_KEYS)
"""The providers whose clients are made here; others are left to pydantic-ai."""


def split_model(model: str, base_url: str | None) -> tuple[str, str]:
    """Returns provider and name of a model. Raises LLMSetupError where the provider is not named.

    With a server given, the provider may be left out; the server then speaks OpenAI's protocol.
    """
    provider, colon, name = model.partition(":")
    if base_url is not None and provider not in _KEYS:
        return "openai", model
    if not colon or not provider or not name:
        raise LLMSetupError(
            f"`--llm` is {model!r}; name the provider and the model, as in openai:gpt-4o-mini, anthropic:…, "
            "google:…, ollama:…, or give the server with `--base-url`"
        )
    return provider, name


def connect(model: str, *, base_url: str | None = None, api_key_env: str | None = None) -> Model:
    """Returns pydantic-ai's model, without having called it.

    Args:
        model: the provider and the model, as "openai:gpt-4o-mini".
        base_url: the server, where it is not the provider's own.
        api_key_env: the environment variable that holds the key; the provider's usual one by default.

    Raises:
        LLMSetupError: an unknown provider, a missing key or a missing package.
    """
    provider, name = split_model(model, base_url)
    if base_url is not None:
        _check_url(base_url)
    try:
        import pydantic_ai  # noqa: F401
    except ImportError:
        raise LLMSetupError(
            "`--llm` needs packages that are not installed: run `python3 -m pip install '.[llm]'` in this project's "
            "folder (Python 3.11 or newer)"
        ) from None
    key = _key(provider, base_url, api_key_env)
    problem = ""
    try:
        return _model(provider, name, base_url, key)
    except Exception as error:  # any provider's package: an unknown provider, a missing package or key
        problem = str(error) or type(error).__name__
    # Raised outside of the handler: an exception in its context could hold a key.
    lines = Scrubber(extra=(key,) if key else ()).scrub(problem).splitlines()
    raise LLMSetupError(f"`--llm` is {model!r}: {lines[0]}")


def _check_url(base_url: str) -> None:
    """Raises LLMSetupError for what is no URL, and for one with a key in it: the journal keeps the URL."""
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        shown = Scrubber().scrub(base_url)
        raise LLMSetupError(f"`--base-url` is {shown!r}; give a URL, as in http://localhost:8000/v1")
    if url.username or url.password or any(is_secret_name(name) for name, _ in parse_qsl(url.query)):
        raise LLMSetupError(
            f"`--base-url` for {url.hostname} has a key or a password in it, which the run's journal would keep; "
            f"leave it out and set the environment variable {OWN_SERVER_KEY}"
        )


def _key(provider: str, base_url: str | None, api_key_env: str | None) -> str | None:
    if api_key_env is not None:
        if not os.environ.get(api_key_env):
            name = api_key_env if api_key_env.isidentifier() else "not the name of a variable"
            raise LLMSetupError(f"`--api-key-env` is {Scrubber().scrub(name)}; give the name of a variable that is set")
        return os.environ[api_key_env]
    names = (OWN_SERVER_KEY,) if base_url is not None else _KEYS.get(provider, ())
    key = next((os.environ[n] for n in names if os.environ.get(n)), None)
    if key is None and base_url is None and names and provider != "ollama":
        raise LLMSetupError(f"`--llm` {provider}:… needs a key: set the environment variable {names[0]}")
    return key


def _model(provider: str, name: str, base_url: str | None, key: str | None) -> Any:
    if provider == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        anthropic = AnthropicProvider(api_key=key or "none")
        anthropic.client.max_retries = 0
        if base_url is not None:
            anthropic.client.base_url = base_url
        return AnthropicModel(name, provider=anthropic)
    if provider == "google":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleModel(name, provider=GoogleProvider(api_key=key or "none", base_url=base_url))
    if provider == "ollama" or base_url is not None:
        from pydantic_ai.profiles.openai import OpenAIModelProfile
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        from reasoning_compiler.proposer.llm.own_server import OwnServerModel

        url = base_url or os.environ.get("OLLAMA_BASE_URL") or OLLAMA_URL
        own = OpenAICompatibleProvider("own-server", base_url=url, api_key=key)
        own.client.max_retries = 0
        # The SDK takes these from the environment and would send them along.
        own.client.organization = own.client.project = None
        # Most servers other than OpenAI's know only the older field for the answer's length; the client sends the
        # newer one to those that refuse it.
        profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
        return OwnServerModel(name, provider=own, profile=profile)
    if provider == "openai":
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        openai = OpenAIProvider(api_key=key)
        openai.client.max_retries = 0
        return OpenAIChatModel(name, provider=openai)
    from pydantic_ai.models import infer_model

    return infer_model(f"{provider}:{name}")

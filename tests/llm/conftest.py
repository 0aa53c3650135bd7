from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_server import KEY


@pytest.fixture(autouse=True)
def no_provider_is_reached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets a key that must never be written anywhere, and removes what would send a test to a real server."""
    if request.node.get_closest_marker("live"):
        yield
        return
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_BASE_URL", "OLLAMA_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY + "-anthropic")
    monkeypatch.setenv("GOOGLE_API_KEY", KEY + "-google")
    monkeypatch.setenv("REASONC_LLM_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield

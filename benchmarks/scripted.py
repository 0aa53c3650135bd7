"""The tests' model server and scripted models, and runs with them, for the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(_TESTS / "llm"), str(_TESTS)]

from fake_server import FakeServer, Script  # noqa: E402
from scripted_models import Respond, chance, engineer, nonsense, served  # noqa: E402

from reasoning_compiler.session import LLMSettings, Result, tune  # noqa: E402

__all__ = ["FakeServer", "Respond", "Script", "chance", "engineer", "late", "nonsense", "run", "served", "serving"]


def late(respond: Respond, delay_secs: float) -> Respond:
    """Returns the same answers, `delay_secs` after the question."""

    def answer(request: dict[str, Any]) -> Script:
        script = respond(request)
        script.delay_secs = delay_secs
        return script

    return answer


@contextmanager
def serving(respond: Respond) -> Iterator[FakeServer]:
    """Yields a server with these answers."""
    with FakeServer(respond=respond) as server:
        yield server


def run(
    workload: Any, server: FakeServer, *, out: Path, max_prompt_tokens: int = 8000, share: float = 0.5, **settings: Any
) -> Result:
    """Returns the result of a run with the server's model.

    Args:
        workload: as `tune` takes it.
        server: answers.
        out: the run folder.
        max_prompt_tokens: prompts as a provider's model gets them, not the shorter ones for local servers.
        share: most of the measured programs that a stand-in may fill in.
        settings: of the run.
    """
    llm = LLMSettings("scripted", base_url=server.base_url, max_prompt_tokens=max_prompt_tokens, expert_share=share)
    return tune(workload, out=out, llm=llm, **settings)

"""A compiler search that reasons: tree search over TVM schedules, guided by knowledge of the machine.

    import reasoning_compiler as rc

    result = rc.tune(rc.workloads.llama3_attention(seq_len=512), samples=64)
    print(result.best.latency_secs, result.speedup, result.library)
    print(result.report())
    kernel = rc.load(result.library)

Everything is imported when it is first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoning_compiler import workload as workloads
    from reasoning_compiler.deploy import load as load
    from reasoning_compiler.journal import read_run as read_run
    from reasoning_compiler.journal import read_session as read_session
    from reasoning_compiler.machine import detect as detect
    from reasoning_compiler.search.config import SearchConfig as SearchConfig
    from reasoning_compiler.session import Result as Result
    from reasoning_compiler.session import SessionResult as SessionResult
    from reasoning_compiler.session import Settings as Settings
    from reasoning_compiler.session import resume as resume
    from reasoning_compiler.session import tune as tune

_HOMES = {
    "Result": "session",
    "SearchConfig": "search.config",
    "SessionResult": "session",
    "Settings": "session",
    "detect": "machine",
    "load": "deploy",
    "read_run": "journal",
    "read_session": "journal",
    "resume": "session",
    "tune": "session",
}

__all__ = [*sorted(_HOMES), "workloads"]


def __getattr__(name: str) -> Any:
    if name == "workloads":
        return import_module("reasoning_compiler.workload")
    if name in _HOMES:
        return getattr(import_module(f"reasoning_compiler.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

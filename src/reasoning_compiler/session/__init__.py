"""Sessions of one or many tasks: the one loop, and the library's front door."""

from reasoning_compiler.session.result import BestProgram, Result, SessionResult
from reasoning_compiler.session.settings import PROPOSERS, LLMSettings, Progress, Settings
from reasoning_compiler.session.stored import NOT_KEPT, devices_of, explained, load_workload, machine_of, space_of
from reasoning_compiler.session.tune import resume, tune

__all__ = [
    "NOT_KEPT",
    "PROPOSERS",
    "BestProgram",
    "LLMSettings",
    "Progress",
    "Result",
    "SessionResult",
    "Settings",
    "devices_of",
    "explained",
    "load_workload",
    "machine_of",
    "resume",
    "space_of",
    "tune",
]

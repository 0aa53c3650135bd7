"""The one loop that ties the rooms together, and the library's front door."""

from reasoning_compiler.session.explaining import explained
from reasoning_compiler.session.settings import PROPOSERS, LLMSettings, Progress, Settings
from reasoning_compiler.session.tune import (
    NOT_KEPT,
    BestProgram,
    Result,
    devices_of,
    load_workload,
    machine_of,
    resume,
    space_of,
    tune,
)

__all__ = [
    "NOT_KEPT",
    "PROPOSERS",
    "BestProgram",
    "LLMSettings",
    "Progress",
    "Result",
    "Settings",
    "devices_of",
    "explained",
    "load_workload",
    "machine_of",
    "resume",
    "space_of",
    "tune",
]

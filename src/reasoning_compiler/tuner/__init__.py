"""The one loop that ties the rooms together, and the library's front door."""

from reasoning_compiler.tuner.settings import PROPOSERS, Progress, Settings
from reasoning_compiler.tuner.tune import BestProgram, Result, load_workload, machine_of, resume, tune

__all__ = ["PROPOSERS", "BestProgram", "Progress", "Result", "Settings", "load_workload", "machine_of", "resume", "tune"]

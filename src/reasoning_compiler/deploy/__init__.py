"""Saving the best program as a library, loading it, and timing it against the untuned one."""

from __future__ import annotations

from reasoning_compiler.deploy.database import export_database
from reasoning_compiler.deploy.library import TunedKernel, load, loading_code, save, time_against_untuned

__all__ = ["TunedKernel", "export_database", "load", "loading_code", "save", "time_against_untuned"]

"""The run folder: the append-only journal of a run, and the run rebuilt from it."""

from __future__ import annotations

from reasoning_compiler.journal.canonical import canonical_lines
from reasoning_compiler.journal.format import ENVIRONMENT_FILE, FORMAT_VERSION, JOURNAL_FILE, Header, package_version
from reasoning_compiler.journal.journal import Journal, require_free
from reasoning_compiler.journal.run import (
    Finish,
    ModelUse,
    Outcome,
    Rejected,
    Run,
    Sample,
    check_environment,
    read_run,
    unknown_here,
)

__all__ = [
    "ENVIRONMENT_FILE",
    "FORMAT_VERSION",
    "JOURNAL_FILE",
    "Finish",
    "Header",
    "Journal",
    "ModelUse",
    "Outcome",
    "Rejected",
    "Run",
    "Sample",
    "canonical_lines",
    "check_environment",
    "package_version",
    "read_run",
    "require_free",
    "unknown_here",
]

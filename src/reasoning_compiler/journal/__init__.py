"""A session's folder: its append-only journal, and the session rebuilt from it."""

from __future__ import annotations

from reasoning_compiler.journal.folder import (
    ENVIRONMENT_FILE,
    JOURNAL_FILE,
    TRANSCRIPT_FILE,
    WORKLOAD_FILE,
    remove_empty,
    remove_run,
)
from reasoning_compiler.journal.format import FORMAT_VERSION, Header, package_version
from reasoning_compiler.journal.journal import Journal, require_free
from reasoning_compiler.journal.reading import read_run, read_session
from reasoning_compiler.journal.run import (
    Finish,
    ModelUse,
    Outcome,
    Rejected,
    Run,
    Sample,
    SessionRecord,
    best_folder,
    check_environment,
    unknown_here,
)
from reasoning_compiler.journal.task_journal import TaskJournal

__all__ = [
    "ENVIRONMENT_FILE",
    "FORMAT_VERSION",
    "JOURNAL_FILE",
    "TRANSCRIPT_FILE",
    "WORKLOAD_FILE",
    "Finish",
    "Header",
    "Journal",
    "ModelUse",
    "Outcome",
    "Rejected",
    "Run",
    "Sample",
    "SessionRecord",
    "TaskJournal",
    "best_folder",
    "check_environment",
    "package_version",
    "read_run",
    "read_session",
    "remove_empty",
    "remove_run",
    "require_free",
    "unknown_here",
]

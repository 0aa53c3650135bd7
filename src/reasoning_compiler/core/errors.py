"""The one exception family: what this library raises, and the exit code each kind ends the command with."""

from __future__ import annotations

import shlex
from pathlib import Path


class ReasoningCompilerError(Exception):
    """Base of everything that this library raises on purpose; its text is one line for a person."""

    exit_code = 1


class UsageError(ReasoningCompilerError):
    """Bad input: an unknown workload, a file that does not parse, an option out of range."""

    exit_code = 2


class LLMSetupError(UsageError):
    """The language model cannot be used at all: a missing or refused key, an unknown model, no such server."""


class NothingMeasuredError(ReasoningCompilerError):
    """A run ended without one verified measurement."""

    exit_code = 3


class CrashedError(ReasoningCompilerError):
    """TVM has ended the process, and going on would end it again."""

    exit_code = 5


class EnvironmentMismatchError(UsageError):
    """A journal or a library belongs to another machine, target or set of versions."""


class JournalError(ReasoningCompilerError):
    """The run folder could not be written or read: a full disk, a read-only folder, a damaged journal."""

    exit_code = 4


class DeviceError(ReasoningCompilerError):
    """No device could be had to measure on: no tracker, none with the key, or all of them are gone."""

    exit_code = 6


class IllegalProgramError(ReasoningCompilerError):
    """A transformation or program that the space refuses; the text says which decision, why, and what is allowed."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; what was measured until then is kept, and the run can be resumed.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"interrupted; go on with `reasonc resume {shlex.quote(str(folder))}`")
        self.folder = folder

"""A request that failed in a known way, as the processes that build and run programs say it."""

from __future__ import annotations

from reasoning_compiler.core.measurements import FailureKind


class Refused(Exception):
    """A request failed in a known way.

    Args:
        kind: the kind of failure.
        message: why, in one line.
        retire: this process may be damaged and must be replaced.
    """

    def __init__(self, kind: FailureKind, message: str, *, retire: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retire = retire

"""What tuning came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reasoning_compiler.core.steps import Step
from reasoning_compiler.deploy.best import LIBRARY_FILE
from reasoning_compiler.journal import Run, SessionRecord


@dataclass(frozen=True)
class BestProgram:
    """The program that a run hands out, and its median latency in seconds."""

    step: Step
    latency_secs: float


@dataclass(frozen=True)
class Result:
    """What the tuning of one workload came to.

    Args:
        run: the task's run as the journal tells it.
    """

    run: Run

    @property
    def folder(self) -> Path:
        """The session's folder."""
        return self.run.folder

    @property
    def best(self) -> BestProgram | None:
        """The program that the run hands out, the untuned one where nothing was faster; None where nothing ran."""
        step, measurement = self.run.outcome.step, self.run.outcome.best
        return BestProgram(step, measurement.latency_secs) if step and measurement and measurement.ok else None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the untuned program the best one is."""
        return self.run.speedup

    @property
    def library(self) -> Path:
        """The best program's library, for `reasoning_compiler.load`."""
        return self.run.best_folder / LIBRARY_FILE

    def report(self) -> str:
        """Returns the run's report as text."""
        from reasoning_compiler.report import summarize, to_text

        return to_text(summarize(self.run))


@dataclass(frozen=True)
class SessionResult:
    """What the tuning of several workloads in one session came to.

    Args:
        record: the session as its journal tells it.
    """

    record: SessionRecord

    @property
    def folder(self) -> Path:
        """The session's folder."""
        return self.record.folder

    @property
    def tasks(self) -> tuple[Result, ...]:
        """What each workload's tuning came to, in the order in which they were given."""
        return tuple(Result(run) for run in self.record.runs)

    def report(self) -> str:
        """Returns the session's report as text: a summary, and a section for each task."""
        from reasoning_compiler.report import session_text, summarize

        return session_text([summarize(run) for run in self.record.runs])

"""Measuring the programs of a task: every result into the journal, the best library onto the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reasoning_compiler.core.errors import IllegalProgramError, NothingMeasuredError
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.steps import Step
from reasoning_compiler.deploy.best import save_best, saved_node
from reasoning_compiler.journal import TaskJournal
from reasoning_compiler.measure.instrument import Instrument, Measured
from reasoning_compiler.session.failures import why_not_again, why_nothing
from reasoning_compiler.session.repeat import Repeat
from reasoning_compiler.session.task import Task
from reasoning_compiler.session.thinking import Thinker

_CLOSE = 3.0  # an untuned program slower than this many times the best is not timed again at the end

OnResult = Callable[[Step, bool, bool], None]
"""Takes a measured program, whether it is the best so far, and whether it is the last of its batch."""


@dataclass(frozen=True)
class Ending:
    """What a task ends with; see `TaskJournal.finished`."""

    best: int
    confirmed: Measurement
    untuned: Measurement | None


class Evaluator:
    """A task at work in a session: measures what is asked for, and keeps the best of it.

    Args:
        task: whose programs are measured; it is told of every result.
        instrument: measures.
        journal: of the task.
        folder: the session's.
        best: where the best library goes; None for programs of a recording, which have none.
        source: who grows the task's tree, where that is not its own search with a quick proposer.
        batch: asked for by an earlier process, and not measured.
        is_finished: the task has ended, and the journal says so.
    """

    def __init__(
        self,
        task: Task,
        instrument: Instrument,
        journal: TaskJournal,
        *,
        folder: Path,
        best: Path | None,
        source: Thinker | Repeat | None = None,
        batch: Sequence[Step] = (),
        is_finished: bool = False,
    ) -> None:
        self.task, self.instrument, self.journal = task, instrument, journal
        self.source, self.batch, self.is_finished = source, batch, is_finished
        self.reason: str | None = None
        """Why the task takes no further samples; None while it does."""
        self._folder, self._best = folder, best
        self._artifacts: dict[int, Path] = {}

    def measure(self, batch: list[Step], on_result: OnResult) -> None:
        """Measures what is left of a batch, journals each result as it comes, and tells the search of the whole.

        Raises:
            NothingMeasuredError: it is not known what programs must compute.
        """
        applied: list[Step] = []
        modules = []
        for step in batch:
            try:
                modules.append(self.task.space.schedule(step.program).mod)
                applied.append(step)
            except IllegalProgramError as error:  # it was legal when it was proposed: TVM has crashed over it since
                failed = Measurement(failure=Failure("crash", str(error)))
                self._take_in(step, Measured(failed), on_result, is_last=step is batch[-1])
        self.instrument.measure(
            modules,
            best_secs=self.task.best_secs,
            on_result=lambda i, measured: self._take_in(applied[i], measured, on_result, is_last=i == len(applied) - 1),
        )
        self.task.tell()

    def measure_untuned(self) -> None:
        """Measures the program as it was given.

        Raises:
            NothingMeasuredError: it fails, and its workload has no other reference.
        """
        measured = self.instrument.measure_untuned()
        if measured.artifact is not None:
            self._artifacts[0] = measured.artifact
        if self.task.untuned is None:
            self.journal.measured(0, measured.measurement)
            self.task.note_untuned(measured.measurement)
            if self.task.best_node == 0 and measured.artifact is not None:
                self._save(0, measured.measurement)
        failure = measured.measurement.failure
        if failure is not None and self.task.workload.reference is None:
            raise NothingMeasuredError(
                f"the program as written fails itself ({failure.kind}: {failure.message}); "
                "try smaller shapes or a longer --timeout"
            )

    def catch_up(self) -> None:
        """Saves the best so far where an earlier process was stopped before it could. Raises as `measure`."""
        best = self.task.best_node
        if best is None or self._best is None or saved_node(self._best) == best:
            return
        if self._artifact(best) is not None:
            self._save(best, self.task.measured[best])

    def confirm(self) -> Ending:
        """Returns what the best few and the untuned program come to when they are timed in turns.

        Raises:
            NothingMeasuredError: no program could be measured and verified.
        """
        finalists = self.task.finalists()
        if not finalists and not self.task.may_be_kept:
            measured = [measurement for node, measurement in self.task.measured.items() if node]
            raise NothingMeasuredError(why_nothing(measured, self._folder))
        close = not finalists or not self.task.beats_untuned(self.task.measured[finalists[0]], times=_CLOSE)
        nodes = [node for node in [*finalists, *([0] if close else [])] if self._artifact(node) is not None]
        timed = self.instrument.confirm([self._artifacts[node] for node in nodes])
        confirmed = {node: m for node, m in zip(nodes, timed, strict=True) if m.counts or (m.ok and not finalists)}
        if not confirmed:
            raise NothingMeasuredError(why_not_again([m for m in timed if not m.counts], self._folder))
        best = min(confirmed, key=lambda node: confirmed[node].latency_secs)
        return Ending(best, confirmed[best], confirmed.get(0))

    def finish(self, ending: Ending) -> None:
        """Saves what the task hands out, and journals its end."""
        assert self.reason is not None
        self._save(ending.best, ending.confirmed)
        noise = self.instrument.noise(self._artifacts[ending.best])
        if noise is not None:
            self.journal.noise(noise)
        self.journal.finished(self.reason, best=ending.best, confirmed=ending.confirmed, untuned=ending.untuned)
        self.is_finished = True

    def _take_in(self, step: Step, measured: Measured, on_result: OnResult, *, is_last: bool) -> None:
        """Journals one measured program, and saves and shows it where it is the best so far."""
        measurement = measured.measurement
        self.journal.measured(step.node, measurement)
        improved = self.task.note(step.node, measurement)
        if measured.artifact is not None:
            self._artifacts[step.node] = measured.artifact
            if improved and self.task.beats_untuned(measurement):
                self._save(step.node, measurement)
        on_result(replace(step, measurement=measurement), improved, is_last)

    def _artifact(self, node: int) -> Path | None:
        """Returns a node's library, built again if an earlier process measured it; None if that fails now."""
        if node not in self._artifacts:
            if node == 0:
                measured = self.instrument.measure_untuned()
            else:
                try:
                    module = self.task.space.schedule(self.task.step(node).program).mod
                except IllegalProgramError:
                    return None
                (measured,) = self.instrument.measure([module], best_secs=None)
            if measured.artifact is not None:
                self._artifacts[node] = measured.artifact
        return self._artifacts.get(node)

    def _save(self, node: int, measurement: Measurement) -> None:
        """Makes a program, whose library is there, the one in the task's folder of the best."""
        if self._best is None:
            return
        step = self.task.step(node)
        save_best(
            self._best,
            self._artifacts[node],
            step=replace(step, measurement=measurement),
            schedule=self.task.space.schedule(step.program),
            about={"workload": self.task.workload.spec, "num_threads": self.task.machine.num_cores},
        )

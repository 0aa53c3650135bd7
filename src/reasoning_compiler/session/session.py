"""The one loop: ask a task for programs, measure them, tell the task, until it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import NothingMeasuredError
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Journal
from reasoning_compiler.session.dealing import deal
from reasoning_compiler.session.evaluator import Evaluator
from reasoning_compiler.session.repeat import Repeat
from reasoning_compiler.session.settings import Doing, Progress, Settings
from reasoning_compiler.session.task import Task
from reasoning_compiler.session.thinking import Thinker

if TYPE_CHECKING:
    from reasoning_compiler.session.model import Model


class Session:
    """One process's part of a session, from where the journal ends until the session does.

    Args:
        evaluators: its tasks.
        journal: keeps everything, as it happens.
        settings: the budget, and what else the session is told to do.
        clock: counts where the time goes.
        model: the language model; None for none.
        on_progress: is called whenever there is something new to show.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        journal: Journal,
        settings: Settings,
        *,
        clock: PhaseTimer,
        model: Model | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._evaluators, self._journal, self._settings = evaluators, journal, settings
        self._clock, self._model, self._on_progress = clock, model, on_progress
        self._thinkers = [evaluator.source for evaluator in evaluators if isinstance(evaluator.source, Thinker)]
        self._noticed: dict[int, int] = {}  # how many notices of each source were shown
        self._failures: list[NothingMeasuredError] = []

    def run(self) -> None:
        """Runs until the samples, the time or the patience are used up.

        Raises:
            NothingMeasuredError: of no task a program could be measured and verified.
            KeyboardInterrupt: Ctrl-C; the journal says so, and the session can be resumed.
        """
        try:
            for thinker in self._thinkers[:1]:
                thinker.first_look()
            for evaluator in self._open_evaluators():
                with self._leaving_out(evaluator):
                    self._begin(evaluator)
            while (turn := self._next_turn()) is not None:
                with self._leaving_out(turn[0]):
                    self._take_turn(*turn)
            self._stop_thinking(at_rest=True)
            for evaluator in self._open_evaluators():
                with self._leaving_out(evaluator):
                    self._finish(evaluator)
        except KeyboardInterrupt:
            self._stop_thinking(at_rest=False)
            for evaluator in self._open_evaluators():
                evaluator.journal.finished("interrupted", best=evaluator.task.best_node)
            raise
        finally:
            self._stop_thinking(at_rest=False)
        if len(self._failures) == len(self._evaluators):
            raise self._failures[0]
        self._show("done")

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _next_turn(self) -> tuple[Evaluator, list[Step]] | None:
        """Returns which task is measured next, and its programs; None where it is enough."""
        for evaluator in self._open_evaluators():
            if evaluator.batch:
                batch, evaluator.batch = list(evaluator.batch), ()
                return evaluator, batch
        while evaluators := self._hungry_evaluators():
            left = self._settings.samples - self._num_samples
            is_repeat = any(isinstance(evaluator.source, Repeat) for evaluator in evaluators)
            tasks = [evaluator.task for evaluator in evaluators]
            index, num = deal(tasks, left=left, batch=left if is_repeat else self._settings.batch)
            evaluator = evaluators[index]
            self._show("thinking", evaluator)
            batch = (evaluator.source or evaluator.task.search).ask(num)
            if batch:
                evaluator.journal.asked([step.node for step in batch])
                return evaluator, batch
            evaluator.reason = "end of the record" if is_repeat else "nothing left to try"
        return None

    def _take_turn(self, evaluator: Evaluator, batch: list[Step]) -> None:
        self._show("measuring", evaluator)
        evaluator.measure(batch, lambda *result: self._on_result(evaluator, *result))
        self._journal.stages(self._clock.take())
        if evaluator.task.untuned is None:
            self._measure_untuned(evaluator)  # after the first batch: it is slow, and people are waiting for a sample

    def _on_result(self, evaluator: Evaluator, step: Step, improved: bool, is_last: bool) -> None:
        self._show("measuring", evaluator, last=step, improved=improved)
        if not is_last:
            if isinstance(evaluator.source, Repeat):
                evaluator.source.tend()
            for thinker in self._thinkers:
                thinker.tend()

    def _open_evaluators(self) -> list[Evaluator]:
        return [evaluator for evaluator in self._evaluators if not evaluator.is_finished]

    def _hungry_evaluators(self) -> list[Evaluator]:
        """Returns the tasks that can use more samples, and notes why the others cannot."""
        for evaluator in self._open_evaluators():
            evaluator.reason = evaluator.reason or self._why_enough(evaluator.task)
        return [evaluator for evaluator in self._open_evaluators() if evaluator.reason is None]

    def _why_enough(self, task: Task) -> str | None:
        settings = self._settings
        if self._num_samples >= settings.samples:
            return "samples"
        if settings.minutes is not None and self._journal.elapsed_secs >= 60 * settings.minutes:
            return "minutes"
        if settings.patience is not None and task.num_since_better >= settings.patience:
            return "patience"
        return None

    @property
    def _num_samples(self) -> int:
        return sum(evaluator.task.num_samples for evaluator in self._evaluators)

    # -- a task's beginning and end -----------------------------------------------------------------------------------

    def _begin(self, evaluator: Evaluator) -> None:
        task = evaluator.task
        has_begun = task.num_samples and not evaluator.batch
        if task.untuned is None and (task.workload.reference is None or has_begun):
            self._measure_untuned(evaluator)
        evaluator.catch_up()

    def _measure_untuned(self, evaluator: Evaluator) -> None:
        self._show("untuned", evaluator)
        evaluator.measure_untuned()

    def _finish(self, evaluator: Evaluator) -> None:
        if isinstance(evaluator.source, Repeat):
            evaluator.source.tend()
        if evaluator.task.untuned is None:  # nothing could be tried
            self._measure_untuned(evaluator)
        self._show("confirming", evaluator)
        ending = evaluator.confirm()
        self._show("saving", evaluator)
        evaluator.finish(ending)
        self._journal.stages(self._clock.take())

    @contextmanager
    def _leaving_out(self, evaluator: Evaluator) -> Iterator[None]:
        """Ends a task of which nothing can be handed out, with its line; the others go on."""
        try:
            yield
        except NothingMeasuredError as error:
            self._failures.append(error)
            evaluator.is_finished = True
            evaluator.journal.finished(evaluator.reason or "nothing to compare with", best=None)
            if len(self._evaluators) > 1:
                self._show("measuring", evaluator, notice=f"{evaluator.task.name}: {error}")

    # -- the model ----------------------------------------------------------------------------------------------------

    def _stop_thinking(self, *, at_rest: bool) -> None:
        """Ends the calls under way, once, and journals what the model did for the session.

        Args:
            at_rest: the searches are, so what has come back by now can be taken in.
        """
        thinkers, self._thinkers = self._thinkers, []
        for thinker in thinkers:
            thinker.close(at_rest=at_rest)
        if thinkers and self._model is not None:
            self._journal.model(self._model.metered.stats.to_json(), notices=self._model.metered.notices)

    # -- what others see ----------------------------------------------------------------------------------------------

    def _new_notices(self) -> list[str]:
        sources = [self._evaluators[0].instrument]  # it speaks for the executor, which all tasks share
        sources += [self._model.metered] if self._model else []
        new: list[str] = []
        for number, source in enumerate(sources):
            notices = source.notices
            new += notices[self._noticed.get(number, 0) :]
            self._noticed[number] = len(notices)
        return new

    def _show(
        self,
        doing: Doing,
        evaluator: Evaluator | None = None,
        *,
        last: Step | None = None,
        improved: bool = False,
        notice: str = "",
    ) -> None:
        evaluator = evaluator or (self._evaluators[0] if len(self._evaluators) == 1 else None)
        task = evaluator.task if evaluator else None
        untuned = task.untuned if task else None
        self._on_progress(
            Progress(
                doing,
                str(self._journal.folder),
                self._num_samples,
                self._settings.samples,
                task=task.name if task and len(self._evaluators) > 1 else "",
                untuned_secs=untuned.latency_secs if untuned is not None and untuned.ok else None,
                best_secs=task.best_secs if task else None,
                last=last,
                improved=improved,
                notice="; ".join([*self._new_notices(), *([notice] if notice else [])]),
                elapsed_secs=self._journal.elapsed_secs,
            )
        )

"""The one loop: ask a task for programs, measure them, tell the task, until it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import NothingMeasuredError
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Journal
from reasoning_compiler.session.dealing import Claim, deal
from reasoning_compiler.session.evaluator import Evaluator
from reasoning_compiler.session.repeat import Repeat
from reasoning_compiler.session.settings import Doing, Progress, Settings
from reasoning_compiler.session.task import Task
from reasoning_compiler.session.thinking import Thinker

if TYPE_CHECKING:
    from reasoning_compiler.session.model import Model


@dataclass
class Seat:
    """A task at work in a session.

    Args:
        task: what to try next, and what is known.
        evaluator: measures it.
        source: who grows the task's tree, where that is not its own search with a quick proposer.
        batch: asked for by an earlier process, and not measured.
        is_finished: it has ended, and the journal says so.
        reason: why it takes no further samples; None while it does.
    """

    task: Task
    evaluator: Evaluator
    source: Thinker | Repeat | None = None
    batch: Sequence[Step] = ()
    is_finished: bool = False
    reason: str | None = None


class Session:
    """One process's part of a session, from where the journal ends until the session does.

    Args:
        seats: its tasks.
        journal: keeps everything, as it happens.
        settings: the budget, and what else the session is told to do.
        clock: counts where the time goes.
        model: the language model; None for none.
        on_progress: is called whenever there is something new to show.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        journal: Journal,
        settings: Settings,
        *,
        clock: PhaseTimer,
        model: Model | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._seats, self._journal, self._settings = seats, journal, settings
        self._clock, self._model, self._on_progress = clock, model, on_progress
        self._thinkers = [seat.source for seat in seats if isinstance(seat.source, Thinker)]
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
            for seat in self._open_seats():
                with self._leaving_out(seat):
                    self._begin(seat)
            while (turn := self._next_turn()) is not None:
                with self._leaving_out(turn[0]):
                    self._take_turn(*turn)
            self._stop_thinking(at_rest=True)
            for seat in self._open_seats():
                with self._leaving_out(seat):
                    self._finish(seat)
        except KeyboardInterrupt:
            self._stop_thinking(at_rest=False)
            for seat in self._open_seats():
                seat.evaluator.journal.finished("interrupted", best=seat.task.best_node)
            raise
        finally:
            self._stop_thinking(at_rest=False)
        if len(self._failures) == len(self._seats):
            raise self._failures[0]
        self._show("done")

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _next_turn(self) -> tuple[Seat, list[Step]] | None:
        """Returns which task is measured next, and its programs; None where it is enough."""
        for seat in self._open_seats():
            if seat.batch:
                batch, seat.batch = list(seat.batch), ()
                return seat, batch
        while seats := self._hungry_seats():
            left = self._settings.samples - self._num_samples
            is_repeat = any(isinstance(seat.source, Repeat) for seat in seats)
            claims = [Claim(s.task.weight, s.task.current_secs, s.task.num_samples) for s in seats]
            index, num = deal(claims, left=left, batch=left if is_repeat else self._settings.batch)
            seat = seats[index]
            self._show("thinking", seat)
            batch = (seat.source or seat.task.search).ask(num)
            if batch:
                seat.evaluator.journal.asked([step.node for step in batch])
                return seat, batch
            seat.reason = "end of the record" if is_repeat else "nothing left to try"
        return None

    def _take_turn(self, seat: Seat, batch: list[Step]) -> None:
        self._show("measuring", seat)
        seat.evaluator.measure(batch, lambda *result: self._on_result(seat, *result))
        self._journal.stages(self._clock.take())
        if seat.task.untuned is None:
            self._measure_untuned(seat)  # after the first batch: it is slow, and people are waiting for a sample

    def _on_result(self, seat: Seat, step: Step, improved: bool, is_last: bool) -> None:
        self._show("measuring", seat, last=step, improved=improved)
        if not is_last:
            if isinstance(seat.source, Repeat):
                seat.source.tend()
            for thinker in self._thinkers:
                thinker.tend()

    def _open_seats(self) -> list[Seat]:
        return [seat for seat in self._seats if not seat.is_finished]

    def _hungry_seats(self) -> list[Seat]:
        """Returns the tasks that can use more samples, and notes why the others cannot."""
        for seat in self._open_seats():
            seat.reason = seat.reason or self._why_enough(seat.task)
        return [seat for seat in self._open_seats() if seat.reason is None]

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
        return sum(seat.task.num_samples for seat in self._seats)

    # -- a task's beginning and end -----------------------------------------------------------------------------------

    def _begin(self, seat: Seat) -> None:
        task = seat.task
        has_begun = task.num_samples and not seat.batch
        if task.untuned is None and (task.workload.reference is None or has_begun):
            self._measure_untuned(seat)
        seat.evaluator.catch_up()

    def _measure_untuned(self, seat: Seat) -> None:
        self._show("untuned", seat)
        seat.evaluator.measure_untuned()

    def _finish(self, seat: Seat) -> None:
        if isinstance(seat.source, Repeat):
            seat.source.tend()
        assert seat.reason is not None
        self._show("confirming", seat)
        ending = seat.evaluator.confirm()
        self._show("saving", seat)
        seat.evaluator.finish(seat.reason, ending)
        seat.is_finished = True
        self._journal.stages(self._clock.take())

    @contextmanager
    def _leaving_out(self, seat: Seat) -> Iterator[None]:
        """Ends a task of which nothing can be handed out, with its line; the others go on."""
        try:
            yield
        except NothingMeasuredError as error:
            self._failures.append(error)
            seat.is_finished = True
            seat.evaluator.journal.finished(seat.reason or "nothing to compare with", best=None)
            if len(self._seats) > 1:
                self._show("measuring", seat, notice=f"{seat.task.name}: {error}")

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
        sources = [self._seats[0].evaluator.instrument]  # it speaks for the executor, which all tasks share
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
        seat: Seat | None = None,
        *,
        last: Step | None = None,
        improved: bool = False,
        notice: str = "",
    ) -> None:
        seat = seat or (self._seats[0] if len(self._seats) == 1 else None)
        task = seat.task if seat else None
        untuned = task.untuned if task else None
        self._on_progress(
            Progress(
                doing,
                str(self._journal.folder),
                self._num_samples,
                self._settings.samples,
                task=task.name if task and len(self._seats) > 1 else "",
                untuned_secs=untuned.latency_secs if untuned is not None and untuned.ok else None,
                best_secs=task.best_secs if task else None,
                last=last,
                improved=improved,
                notice="; ".join([*self._new_notices(), *([notice] if notice else [])]),
                elapsed_secs=self._journal.elapsed_secs,
            )
        )

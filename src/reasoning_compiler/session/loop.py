"""The one loop: ask the search for programs, measure them, tell the search, until it is enough."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError, NothingMeasuredError
from reasoning_compiler.core.measurements import Failure, FailureKind, Measurement
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.deploy.best import save_best, saved_node
from reasoning_compiler.journal import Journal, Rejected, Run, Sample, unknown_here
from reasoning_compiler.measure.instrument import Instrument, Measured
from reasoning_compiler.session.parts import Parts
from reasoning_compiler.session.repeat import Repeat
from reasoning_compiler.session.settings import Doing, Progress
from reasoning_compiler.session.thinking import Thinker

if TYPE_CHECKING:
    from reasoning_compiler.session.model import Model

_FINALISTS = 3  # programs that are measured against each other at the end
_CLEARLY = 0.99  # the share of the best latency that counts as clearly faster, for `patience`
_LOOK_AT: dict[FailureKind, str] = {
    "illegal": "TVM refuses its own schedules; try another --seed",
    "build": "`reasonc doctor` tries the compiler; with a --target of your own, see that it is this machine's",
    "crash": "`reasonc doctor` runs a kernel on this machine; then try smaller shapes",
    "timeout": "give a longer --timeout, or try smaller shapes",
    "wrong_result": "look whether the kernel, its reference and its tolerance belong together",
    "nonfinite": "look whether the kernel overflows where its reference does not",
    "device": "see that the device is there and has memory and disk left, with `reasonc doctor`",
}
_CLOSE = 3.0  # an untuned program slower than this many times the best is not timed again at the end


@dataclass(frozen=True)
class _Ending:
    """What a run ends with; see `Journal.finished`."""

    best: int
    confirmed: Measurement | None
    untuned: Measurement | None


class Loop:
    """One process's part of a run, from where the journal ends until the run does.

    Args:
        parts: space, search and surrogate.
        instrument: measures.
        journal: keeps everything, as it happens.
        model: the language model; None for none.
        recorded: a run to be done again; None for none.
        on_progress: is called whenever there is something new to show.
    """

    def __init__(
        self,
        parts: Parts,
        instrument: Instrument,
        journal: Journal,
        *,
        model: Model | None,
        recorded: Run | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._parts, self._instrument, self._journal = parts, instrument, journal
        self._on_progress = on_progress
        self._search = parts.search(self._added, self._rejected, self._expanded)
        self._model = model
        self._proposer = model.proposer(parts, journal.folder, parts.proposer) if model else None
        self._thinker: Thinker | None = None
        self._recorded = recorded
        self._repeat: Repeat | None = None
        self._noticed = [0, 0]  # of the model's notices, and of the instrument's
        self._untuned: Measurement | None = None
        self._best_secs: float | None = None
        self._num_samples = 0
        self._since_better = 0
        self._artifacts: dict[int, Path] = {}
        self._told = dict(instrument.stage_secs)
        self._open: list[tuple[int, Measurement]] = []  # measured, of a batch that is not complete
        self._new_steps: list[Step] = []  # of an expansion that is not complete, as its refusals
        self._new_refusals: list[Rejected] = []

    def run(self, earlier: Run | None = None) -> None:
        """Runs until the samples, the time or the patience are used up.

        Args:
            earlier: what the journal holds already; None for a new run.

        Raises:
            NothingMeasuredError: no program could be measured and verified.
            KeyboardInterrupt: Ctrl-C; the journal says so, and the run can be resumed.
        """
        try:
            batch = self._replay(earlier) if earlier and earlier.steps else self._begin()
            if self._recorded is not None:
                self._repeat = Repeat(self._recorded, self._search, done=earlier)
            self._thinker = self._make_thinker()
            if self._thinker is not None:
                self._thinker.first_look()
            if self._parts.workload.reference is None:
                self._measure_untuned()
            self._catch_up()
            reason = self._go_on(batch)
            self._stop_thinking(at_rest=True)
            if self._repeat is not None:
                self._repeat.tend()
            ending = self._confirm(reason)
        except KeyboardInterrupt:
            self._stop_thinking()
            self._journal.finished("interrupted", best=self._best_node())
            raise
        finally:
            self._stop_thinking()
        self._journal.finished(reason, best=ending.best, confirmed=ending.confirmed, untuned=ending.untuned)
        self._show("done")

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _go_on(self, batch: list[Step]) -> str:
        """Returns why the run ended.

        Args:
            batch: asked for already, and not measured.
        """
        while True:
            if batch:
                self._measure(batch)
            if self._untuned is None and self._num_samples:
                self._measure_untuned()  # after the first batch: it is slow, and people are waiting for a sample
            reason = self._enough()
            if reason:
                return reason
            self._show("thinking")
            left = self._parts.settings.samples - self._num_samples
            source = self._thinker or self._repeat or self._search
            batch = source.ask(left if source is self._repeat else min(self._parts.settings.batch, left))
            if not batch:
                return "nothing left to try" if self._repeat is None else "end of the record"
            self._journal.asked([step.node for step in batch])

    def _enough(self) -> str | None:
        settings = self._parts.settings
        if self._num_samples >= settings.samples:
            return "samples"
        if settings.minutes is not None and self._journal.elapsed_secs >= 60 * settings.minutes:
            return "minutes"
        if settings.patience is not None and self._since_better >= settings.patience:
            return "patience"
        return None

    def _measure(self, batch: list[Step]) -> None:
        """Measures what is left of a batch, journals each result as it comes, and tells the search of the whole."""
        self._show("measuring")
        applied: list[Step] = []
        modules = []
        for step in batch:
            try:
                modules.append(self._parts.space.schedule(step.program).mod)
                applied.append(step)
            except IllegalProgramError as error:  # it was legal when it was proposed: TVM has crashed over it since
                failed = Measurement(failure=Failure("crash", str(error)))
                self._take_in(step, Measured(failed), is_last=step is batch[-1])
        self._instrument.measure(
            modules,
            best_secs=self._best_secs,
            on_result=lambda i, measured: self._take_in(applied[i], measured, is_last=i == len(applied) - 1),
        )
        self._tell()
        self._journal_stages()

    def _tell(self) -> None:
        with self._parts.clock.stage("predict"):
            self._search.tell(self._open)
        self._open = []

    def _take_in(self, step: Step, measured: Measured, *, is_last: bool) -> None:
        """Journals one measured program, and saves and shows it where it is the best so far."""
        measurement = measured.measurement
        self._journal.measured(step.node, measurement)
        improved = self._note(step.node, measurement)
        if measured.artifact is not None:
            self._artifacts[step.node] = measured.artifact
            if improved and self._beats_untuned(measurement):
                self._save(step, measurement)
        self._show("measuring", last=replace(step, measurement=measurement), improved=improved)
        source = self._thinker or self._repeat
        if source is not None and not is_last:
            source.tend()

    def _note(self, node: int, measurement: Measurement) -> bool:
        """Counts one measured program, and how many it is since the last better one; returns whether it is the best."""
        self._open.append((node, measurement))
        self._num_samples += 1
        self._since_better += 1
        best = self._best_secs
        if not measurement.counts or (best is not None and measurement.latency_secs >= best):
            return False
        if best is None or measurement.latency_secs < _CLEARLY * best:
            self._since_better = 0
        self._best_secs = measurement.latency_secs
        return True

    def _beats_untuned(self, measurement: Measurement, *, times: float = 1.0) -> bool:
        untuned = self._untuned
        return untuned is None or not untuned.ok or times * measurement.latency_secs < untuned.latency_secs

    def _best_node(self) -> int | None:
        """Returns the fastest node so far, the untuned one among them; None where none has been verified."""
        best = self._search.best
        if best is not None and best.measurement is not None and self._beats_untuned(best.measurement):
            return best.node
        return 0 if self._untuned is not None and self._untuned.counts else None

    # -- the model --------------------------------------------------------------------------------------------------

    def _make_thinker(self) -> Thinker | None:
        llm = self._parts.settings.llm
        if self._proposer is None or llm is None:
            return None
        paper = self._parts.settings.preset == "paper"
        return Thinker(
            self._search,
            self._proposer,
            concurrency=1 if paper else llm.max_concurrent_calls,
            children=llm.children,
            stand_in=None if paper or llm.expert_share == 0 else self._parts.proposer,
            max_stood_in=int(llm.expert_share * (self._parts.settings.samples - self._num_samples)),
            settled=not paper,
        )

    def _stop_thinking(self, *, at_rest: bool = False) -> None:
        """Ends the calls under way, once, and journals what the model did for the run."""
        if self._thinker is None or self._proposer is None:
            return
        thinker, self._thinker = self._thinker, None
        thinker.close(at_rest=at_rest)
        self._journal.model(self._proposer.stats.to_json(), notices=self._proposer.notices)

    def _added(self, step: Step) -> None:
        self._new_steps.append(step)

    def _rejected(self, node: int, proposer: str, transformation: Transformation | None, why: str) -> None:
        self._new_refusals.append(Rejected(node, proposer, transformation, why))

    def _expanded(self) -> None:
        self._journal.expanded(self._new_steps, self._new_refusals)
        for step in self._new_steps:
            if self._model is not None and step.transformation is not None and step.parent is not None:
                self._model.transcript.link(step.parent, step.transformation, step.node, step.program.key)
        self._new_steps, self._new_refusals = [], []

    # -- the beginning ----------------------------------------------------------------------------------------------

    def _begin(self) -> list[Step]:
        self._journal.node(Step(0, None, UNTUNED))
        return []

    def _measure_untuned(self) -> None:
        """Measures the program as it was given; again after an interruption, where its output is the reference."""
        self._show("untuned")
        measured = self._instrument.measure_untuned()
        if measured.artifact is not None:
            self._artifacts[0] = measured.artifact
        if self._untuned is None:
            self._journal.measured(0, measured.measurement)
            self._untuned = measured.measurement
            self._search.tell([(0, measured.measurement)])
            if self._best_node() == 0 and measured.artifact is not None:
                self._save(self._search.tree.nodes[0].step, measured.measurement)
        failure = measured.measurement.failure
        if failure is not None and self._parts.workload.reference is None:
            self._journal.finished("nothing to compare with", best=None)
            raise NothingMeasuredError(
                f"the untuned program is the reference that results are verified against, and it fails itself "
                f"({failure.kind}: {failure.message}); try smaller shapes or a longer --timeout"
            )

    def _replay(self, run: Run) -> list[Step]:
        """Brings everything to where the journal ends; returns what was asked for and not measured.

        Raises:
            UsageError: the journal's programs are none of this version's.
        """
        batch: list[int] = []
        try:
            for event in run.events:
                match event:
                    case Step():
                        if event.node:
                            self._search.replay([event], [])
                    case Rejected():
                        self._search.replay([], [(event.node, event.transformation, event.why)])
                    case Sample(node=0):
                        self._untuned = event.measurement
                        self._search.tell([(0, event.measurement)])
                    case Sample():
                        self._note(event.node, event.measurement)
                        batch = [node for node in batch if node != event.node]
                        if not batch:
                            self._tell()
                    case _:
                        self._search.replay_asked(event)
                        batch = list(event)
        except IllegalProgramError as error:
            raise unknown_here(run, error) from error
        return [self._search.tree.nodes[node].step for node in batch]

    def _catch_up(self) -> None:
        """Saves the best so far where an earlier process was stopped before it could."""
        best = self._best_node()
        if best is not None and saved_node(self._best_folder) != best and self._artifact(best) is not None:
            step = self._search.tree.nodes[best].step
            assert step.measurement is not None
            self._save(step, step.measurement)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _confirm(self, reason: str) -> _Ending:
        """Times the best few and the untuned program in turns, saves the winner, and returns it."""
        finalists = self._finalists()
        if not finalists:
            self._journal.finished(reason, best=None)
            raise NothingMeasuredError(self._why_nothing())
        self._show("confirming")
        fastest = finalists[0].measurement
        assert fastest is not None
        close = not self._beats_untuned(fastest, times=_CLOSE)
        candidates = [step.node for step in finalists] + ([0] if close else [])
        numbers = [n for n in candidates if self._artifact(n) is not None]
        timed = self._instrument.confirm([self._artifacts[n] for n in numbers])
        confirmed = {n: m for n, m in zip(numbers, timed, strict=True) if m.counts}
        if not confirmed:
            self._journal.finished(reason, best=None)
            raise NothingMeasuredError(self._why_not_again([m for m in timed if not m.counts]))
        winner = min(confirmed, key=lambda n: confirmed[n].latency_secs)
        self._show("saving")
        self._save(self._search.tree.nodes[winner].step, confirmed[winner])
        self._journal_noise(winner)
        self._journal_stages()
        return _Ending(winner, confirmed[winner], confirmed.get(0))

    def _journal_noise(self, winner: int) -> None:
        noise = self._instrument.noise(self._artifacts[winner])
        if noise is not None:
            self._journal.noise(noise)

    def _finalists(self) -> list[Step]:
        steps = (node.step for node in self._search.tree.nodes[1:])
        worthy = [step for step in steps if step.measurement is not None and step.measurement.counts]
        return sorted(worthy, key=lambda s: s.measurement.latency_secs)[:_FINALISTS]  # type: ignore[union-attr]

    def _artifact(self, number: int) -> Path | None:
        """Returns a node's library, built again if an earlier process measured it; None if that fails now."""
        if number not in self._artifacts:
            if number == 0:
                measured = self._instrument.measure_untuned()
            else:
                try:
                    module = self._parts.space.schedule(self._search.tree.nodes[number].step.program).mod
                except IllegalProgramError:
                    return None
                (measured,) = self._instrument.measure([module], best_secs=None)
            if measured.artifact is not None:
                self._artifacts[number] = measured.artifact
        return self._artifacts.get(number)

    def _why_nothing(self) -> str:
        """Returns what went wrong with most programs, and where to look."""
        steps = [node.step for node in self._search.tree.nodes[1:] if node.step.measurement]
        failures = [s.measurement.failure for s in steps if s.measurement and s.measurement.failure]
        kinds = Counter(failure.kind for failure in failures)
        told = [f"{count} {kind}" for kind, count in kinds.most_common()]
        told += [f"{len(steps) - len(failures)} not verified"] if len(steps) > len(failures) else []
        if failures:
            (kind, _), *_ = kinds.most_common(1)
            (message, _), *_ = Counter(f.message for f in failures if f.kind == kind).most_common(1)
            said, look = f"most said: {message or 'nothing'}", _LOOK_AT[kind]
        else:
            said, look = "none of them failed" if steps else "nothing could be proposed", "see `reasonc doctor`"
        return (
            f"none of {len(steps)} programs could be measured and verified ({', '.join(told) or 'there were none'}); "
            f"{said}. What to do: {look}. All of it: `reasonc report {shlex.quote(str(self._journal.folder))}`"
        )

    def _why_not_again(self, timed: list[Measurement]) -> str:
        failures = (m.failure for m in timed if m.failure is not None)
        said = next((f"{failure.kind}: {failure.message}" for failure in failures), "they cannot be built again")
        return (
            f"the best programs worked during the search and fail now ({said}); "
            f"look at {self._journal.folder}, or run `reasonc doctor`"
        )

    @property
    def _best_folder(self) -> Path:
        return self._journal.folder / "best"

    def _save(self, step: Step, measurement: Measurement) -> None:
        """Makes a program, whose library is there, the one in the folder `best/`."""
        save_best(
            self._best_folder,
            self._artifacts[step.node],
            step=replace(step, measurement=measurement),
            schedule=self._parts.space.schedule(step.program),
            about={"workload": self._parts.workload.spec, "num_threads": self._parts.machine.num_cores},
        )

    # -- what others see --------------------------------------------------------------------------------------------

    def _journal_stages(self) -> None:
        now = dict(self._instrument.stage_secs)
        if self._thinker is not None:
            now["wait for the model"] = self._thinker.waited_secs
        spent = {name: secs - self._told.get(name, 0.0) for name, secs in now.items()}
        self._told = now
        self._journal.stages(self._parts.clock.take() | spent)

    def _show(self, doing: Doing, *, last: Step | None = None, improved: bool = False) -> None:
        untuned = self._untuned
        every = (self._proposer.notices if self._proposer else (), self._instrument.notices)
        notices = [notice for said, count in zip(every, self._noticed, strict=True) for notice in said[count:]]
        self._noticed = [len(said) for said in every]
        self._on_progress(
            Progress(
                doing,
                str(self._journal.folder),
                self._num_samples,
                self._parts.settings.samples,
                untuned.latency_secs if untuned is not None and untuned.ok else None,
                self._best_secs,
                last,
                improved,
                "; ".join(notices),
                self._journal.elapsed_secs,
            )
        )

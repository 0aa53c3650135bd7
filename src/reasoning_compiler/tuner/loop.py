"""The one loop: ask the search for programs, measure them, tell the search, until it is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reasoning_compiler.deploy.best import save_best
from reasoning_compiler.errors import NothingMeasuredError
from reasoning_compiler.journal import Journal, Run
from reasoning_compiler.measure.instrument import Instrument, Measured
from reasoning_compiler.records import UNTUNED, Measurement, Step, Transformation
from reasoning_compiler.tuner.parts import Parts
from reasoning_compiler.tuner.settings import Doing, Progress
from reasoning_compiler.tuner.thinking import Thinker

if TYPE_CHECKING:
    from reasoning_compiler.tuner.model import Model

_FINALISTS = 3  # programs that are measured against each other at the end
_CLEARLY = 0.99  # the share of the best latency that counts as clearly faster, for `patience`
_CLOSE = 3.0  # an untuned program slower than this many times the best is not timed again at the end


class Loop:
    """One process's part of a run, from where the journal ends until the run does.

    Args:
        parts: space, search and surrogate.
        instrument: measures.
        journal: keeps everything, as it happens.
        model: the language model; None for none.
        on_progress: is called whenever there is something new to show.
    """

    def __init__(
        self,
        parts: Parts,
        instrument: Instrument,
        journal: Journal,
        *,
        model: Model | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._parts, self._instrument, self._journal = parts, instrument, journal
        self._on_progress = on_progress
        self._search = parts.search(self._added, self._rejected)
        self._model = model
        self._proposer = model.proposer(parts, journal.folder, parts.proposer) if model else None
        self._thinker = self._make_thinker()
        self._noticed = 0
        self._untuned: Measurement | None = None
        self._best_secs: float | None = None
        self._num_samples = 0
        self._since_better = 0
        self._artifacts: dict[int, Path] = {}
        self._told = dict(instrument.stage_secs)
        self._open: list[tuple[int, Measurement]] = []  # measured, of a batch that is not complete

    def run(self, earlier: Run | None = None) -> None:
        """Runs until the samples, the time or the patience are used up, or until Ctrl-C.

        Args:
            earlier: what the journal holds already; None for a new run.

        Raises:
            NothingMeasuredError: no program could be measured and verified.
        """
        try:
            batch = self._replay(earlier) if earlier else self._begin()
            if self._thinker is not None:
                self._thinker.first_look()
            if self._parts.workload.reference is None:
                self._measure_untuned()
            reason = self._go_on(batch)
            self._stop_thinking()
            self._confirm(reason)
        except KeyboardInterrupt:
            self._stop_thinking()
            best = self._search.best
            self._journal.finished("interrupted", best=best.node if best else None)
        finally:
            self._stop_thinking()
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
            batch = (self._thinker or self._search).ask(min(self._parts.settings.batch, left))
            if not batch:
                return "nothing left to try"
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

        def take(index: int, measured: Measured) -> None:
            self._journal.measured(batch[index].node, measured.measurement)
            self._open.append((batch[index].node, measured.measurement))
            self._note(replace(batch[index], measurement=measured.measurement), measured.artifact)

        self._show("measuring")
        modules = [self._parts.space.schedule(step.program).mod for step in batch]
        self._instrument.measure(modules, best_secs=self._best_secs, on_result=take)
        self._tell()

    def _tell(self) -> None:
        with self._parts.clock.stage("predict"):
            self._search.tell(self._open)
        self._open = []
        self._journal_stages()

    def _note(self, step: Step, artifact: Path | None) -> None:
        """Takes in one measured program: whether it is the best, how long since the last better one."""
        measurement = step.measurement
        assert measurement is not None
        self._num_samples += 1
        self._since_better += 1
        if artifact is not None:
            self._artifacts[step.node] = artifact
        improved = False
        if measurement.ok and measurement.verified and not measurement.cut:
            improved = self._best_secs is None or measurement.latency_secs < self._best_secs
            if self._best_secs is None or measurement.latency_secs < _CLEARLY * self._best_secs:
                self._since_better = 0
        if improved:
            self._best_secs = measurement.latency_secs
            if artifact is not None and self._beats_untuned(measurement):
                self._save(step, artifact)
        self._show("measuring", last=step, improved=improved)

    def _beats_untuned(self, measurement: Measurement, *, times: float = 1.0) -> bool:
        untuned = self._untuned
        return untuned is None or not untuned.ok or times * measurement.latency_secs < untuned.latency_secs

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
            stand_in_share=llm.expert_share,
        )

    def _stop_thinking(self) -> None:
        """Ends the calls under way, once, and journals what the model did for the run."""
        if self._thinker is None or self._model is None or self._proposer is None:
            return
        self._thinker.close()
        self._model.close()
        self._journal.model(self._proposer.stats.to_json(), notices=self._proposer.notices)
        self._thinker = None

    def _added(self, step: Step) -> None:
        self._journal.node(step)
        if self._model is not None and step.transformation is not None and step.parent is not None:
            self._model.transcript.link(step.parent, step.transformation, step.node, step.program.key)

    def _rejected(self, node: int, proposer: str, transformation: Transformation | None, why: str) -> None:
        self._journal.rejected(node, proposer, transformation=transformation, why=why)

    # -- the beginning ----------------------------------------------------------------------------------------------

    def _begin(self) -> list[Step]:
        self._journal.node(Step(0, None, UNTUNED))
        return []

    def _measure_untuned(self) -> None:
        """Measures the program as it was given; again after an interruption, where its output is the reference."""
        self._show("untuned")
        measured = self._instrument.measure_untuned()
        if self._untuned is None:
            self._untuned = measured.measurement
            self._journal.measured(0, measured.measurement)
            self._search.tell([(0, measured.measurement)])
        if measured.artifact is not None:
            self._artifacts[0] = measured.artifact
            best = self._search.best
            if best is None or best.measurement is None or not self._beats_untuned(best.measurement):
                self._save(replace(self._search.tree.nodes[0].step, measurement=self._untuned), measured.artifact)
        failure = measured.measurement.failure
        if failure is not None and self._parts.workload.reference is None:
            self._journal.finished("nothing to compare with", best=None)
            raise NothingMeasuredError(
                f"the untuned program is the reference that results are verified against, and it fails itself "
                f"({failure.kind}: {failure.message}); try smaller shapes or a longer --timeout"
            )

    def _replay(self, run: Run) -> list[Step]:
        """Brings everything to where the journal ends; returns what was asked for and not measured."""
        steps = {step.node: step for step in run.steps}
        refused = [(r.node, r.transformation, r.why) for r in run.rejected]
        self._search.replay((step for step in run.steps if step.node), refused)
        if run.untuned is not None:
            self._untuned = run.untuned
            self._search.tell([(0, run.untuned)])
        for number, batch in enumerate(run.batches):
            self._search.replay_asked(batch)
            done = [(n, m) for n in batch if (m := steps[n].measurement) is not None]
            for node, measurement in done:
                self._note(replace(steps[node], measurement=measurement), None)
            self._open = done
            if len(done) == len(batch) or number < len(run.batches) - 1:
                self._tell()
        self._parts.clock.take()
        return [steps[number] for number in run.pending]

    # -- the end ----------------------------------------------------------------------------------------------------

    def _confirm(self, reason: str) -> None:
        """Times the best few and the untuned program in turns, saves the winner, and closes the run."""
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
        confirmed = {n: m for n, m in zip(numbers, timed, strict=True) if m.ok}
        winner = min(confirmed, key=lambda n: confirmed[n].latency_secs, default=finalists[0].node)
        self._show("saving")
        if winner in self._artifacts:
            step = replace(self._search.tree.nodes[winner].step, measurement=confirmed.get(winner))
            self._save(step, self._artifacts[winner])
        self._journal_stages()
        self._journal.finished(reason, best=winner, confirmed=confirmed.get(winner), untuned=confirmed.get(0))

    def _finalists(self) -> list[Step]:
        steps = (node.step for node in self._search.tree.nodes[1:])
        worthy = [s for s in steps if (m := s.measurement) and m.ok and m.verified and not m.cut]
        return sorted(worthy, key=lambda s: s.measurement.latency_secs)[:_FINALISTS]  # type: ignore[union-attr]

    def _artifact(self, number: int) -> Path | None:
        """Returns a node's library, built again if an earlier process measured it."""
        if number not in self._artifacts:
            module = self._parts.space.schedule(self._search.tree.nodes[number].step.program).mod
            (measured,) = self._instrument.measure([module], best_secs=None)
            if measured.artifact is not None:
                self._artifacts[number] = measured.artifact
        return self._artifacts.get(number)

    def _why_nothing(self) -> str:
        steps = [node.step for node in self._search.tree.nodes[1:] if node.step.measurement]
        kinds = Counter(s.measurement.failure.kind for s in steps if s.measurement and s.measurement.failure)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        example = next((s.measurement.failure.message for s in steps if s.measurement and s.measurement.failure), "")
        return (
            f"none of {len(steps)} programs could be measured and verified ({told or 'nothing was proposed'}); "
            f"the first said: {example or 'nothing'}. Look at {self._journal.folder}, or run `reasonc doctor`"
        )

    def _save(self, step: Step, artifact: Path) -> None:
        workload = self._parts.workload
        save_best(
            self._journal.folder / "best",
            artifact,
            step=step,
            schedule=self._parts.space.schedule(step.program),
            about={"workload": workload.spec, "num_threads": self._parts.machine.num_cores},
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
        notices = self._proposer.notices[self._noticed :] if self._proposer else ()
        self._noticed += len(notices)
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

"""A run on a tabular benchmark: the search, the proposers, the surrogate and the loop are those of any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import Program
from reasoning_compiler.experiment.tabular import TabularBenchmark
from reasoning_compiler.journal import Header, Journal, Run, read_run
from reasoning_compiler.measure.instrument import Measured
from reasoning_compiler.session.opening import Plan, make_evaluator
from reasoning_compiler.session.session import Session
from reasoning_compiler.session.settings import Progress, Settings

_UNTUNED = Path("untuned")


def search(
    benchmark: TabularBenchmark,
    settings: Settings,
    folder: Path,
    *,
    command: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Returns a run that asks the recording in place of the hardware; its folder is like any run's, without a library.

    Args:
        benchmark: what was recorded.
        settings: of the run.
        folder: of the run; new.
        command: the command line, for the journal.
        on_progress: is called whenever there is something new to show.

    Raises:
        UsageError: the paper's preset, transformations by name, or a replay: they need schedules.
        NothingMeasuredError: all programs that the search found have failed.
    """
    check(settings)
    client = None
    if settings.llm is not None:
        from reasoning_compiler.session.model import Model, checked_client

        client = checked_client(settings)
    machine = benchmark.machine
    workload: Any = benchmark.workload
    header = Header.of(
        workload, machine=machine, fingerprint=benchmark.fingerprint, config=settings.to_json(), command=command
    )
    clock = PhaseTimer()
    with Journal.create(folder, [header]) as journal:
        model = Model(settings, client, journal, earlier=None) if client is not None else None
        instrument: Any = RecordedInstrument(benchmark)
        plan = Plan(header, workload)
        evaluator = make_evaluator(
            plan, machine, settings, benchmark, instrument, journal, clock=clock, best=None, model=model
        )
        Session([evaluator], journal, settings, clock=clock, model=model, on_progress=on_progress).run()
    return read_run(folder)


def check(settings: Settings) -> None:
    """Raises UsageError where a run with these settings needs more than a recording holds."""
    by_name = settings.llm is not None and settings.llm.names_only
    if settings.preset != "default" or settings.replayed or by_name:
        raise UsageError(
            "a recording holds no schedules, which the paper's proposals and replays need; give a workload instead"
        )


class RecordedInstrument:
    """Says of a program what was recorded of it; see `Instrument`. Nothing is cut: it is known already."""

    def __init__(self, benchmark: TabularBenchmark) -> None:
        self._benchmark = benchmark
        self._programs: dict[Path, Program] = {}
        self.notices: tuple[str, ...] = ()

    def measure(
        self,
        modules: Sequence[Program],
        *,
        best_secs: float | None,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        results = []
        for index, program in enumerate(modules):
            measurement = self._benchmark.measurement(program)
            artifact = Path(program.key) if measurement.ok else None
            if artifact is not None:
                self._programs[artifact] = program
            results.append(Measured(measurement, artifact))
            if on_result is not None:
                on_result(index, results[-1])
        return results

    def measure_untuned(self) -> Measured:
        untuned = self._benchmark.untuned
        return Measured(untuned, _UNTUNED if untuned.ok else None)

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        benchmark = self._benchmark
        return [benchmark.untuned if a == _UNTUNED else benchmark.measurement(self._programs[a]) for a in artifacts]

    def noise(self, artifact: Path) -> None:
        """Returns None: a record does not vary."""

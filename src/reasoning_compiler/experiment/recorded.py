"""A run on a recorded landscape: the search, the proposers, the surrogate and the loop are those of any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.phases import Stopwatch
from reasoning_compiler.core.programs import Program
from reasoning_compiler.experiment.landscape import Landscape
from reasoning_compiler.journal import Header, Journal, Run, read_run
from reasoning_compiler.measure.instrument import Measured
from reasoning_compiler.session.opening import Plan, make_seat
from reasoning_compiler.session.session import Session
from reasoning_compiler.session.settings import Progress, Settings

_UNTUNED = Path("untuned")


def search(
    landscape: Landscape,
    settings: Settings,
    folder: Path,
    *,
    command: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Returns a run that asks the recording in place of the hardware; its folder is like any run's, without a library.

    Args:
        landscape: what was recorded.
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
    machine = landscape.machine
    workload: Any = landscape.workload
    header = Header.of(
        workload, machine=machine, fingerprint=landscape.fingerprint, config=settings.to_json(), command=command
    )
    clock = Stopwatch()
    with Journal.create(folder, [header]) as journal:
        model = Model(settings, client, journal, earlier=None) if client is not None else None
        instrument: Any = RecordedInstrument(landscape)
        plan = Plan(header, workload)
        seat = make_seat(plan, machine, settings, landscape, instrument, journal, clock=clock, best=None, model=model)
        Session([seat], journal, settings, clock=clock, model=model, on_progress=on_progress).run()
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

    def __init__(self, landscape: Landscape) -> None:
        self._landscape = landscape
        self._programs: dict[Path, Program] = {}
        self.stage_secs: dict[str, float] = {}
        self.notices: tuple[str, ...] = ()

    def measure(
        self,
        modules: Sequence[Program],
        *,
        best_secs: float | None,
        verify: bool = True,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        results = []
        for index, program in enumerate(modules):
            measurement = self._landscape.measurement(program)
            artifact = Path(program.key) if measurement.ok else None
            if artifact is not None:
                self._programs[artifact] = program
            results.append(Measured(measurement, artifact))
            if on_result is not None:
                on_result(index, results[-1])
        return results

    def measure_untuned(self) -> Measured:
        untuned = self._landscape.untuned
        return Measured(untuned, _UNTUNED if untuned.ok else None)

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        landscape = self._landscape
        return [landscape.untuned if a == _UNTUNED else landscape.measurement(self._programs[a]) for a in artifacts]

    def noise(self, artifact: Path) -> None:
        """Returns None: a record does not vary."""

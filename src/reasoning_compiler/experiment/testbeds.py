"""Where runs are made: a workload on this machine, or a tabular benchmark."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reasoning_compiler.core.crash_markers import works_on
from reasoning_compiler.core.errors import Interrupted, NothingMeasuredError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.deploy.best import LIBRARY_FILE
from reasoning_compiler.experiment.cell import Cell, cell_of
from reasoning_compiler.experiment.recorded import check, search
from reasoning_compiler.experiment.tabular_file import is_benchmark, read_benchmark
from reasoning_compiler.experiment.variants import Variant
from reasoning_compiler.journal import JOURNAL_FILE, read_run, remove_run
from reasoning_compiler.session.settings import Progress, Settings

if TYPE_CHECKING:
    from reasoning_compiler.measure.instrument import Instrument

LIBRARY = Path("best") / LIBRARY_FILE
_ROUNDS, _ROUNDS_SECS = 20, 20.0  # of timing the winners of one seed against each other

Watch = Callable[[Progress], None]


class Testbed(Protocol):
    """Where the runs of one workload are made.

    Args:
        spec: what the experiment calls the workload.
        key: identifies the kernel.
        machine: that its times are of, with as many cores as programs have threads.
        fingerprint: of that environment.
    """

    spec: str
    key: str
    machine: Machine
    fingerprint: dict[str, Any]

    def check(self, variant: Variant) -> None:
        """Raises UsageError for a variant that cannot run here."""
        ...

    def run(self, variant: Variant, seed: int, folder: Path, *, samples: int, command: str, watch: Watch) -> Cell:
        """Returns one run, resumed where it was interrupted; its folder holds what it found.

        Raises:
            NothingMeasuredError: no program could be measured and verified.
            KeyboardInterrupt: Ctrl-C; what was measured is kept.
        """
        ...

    def retime(self, winners: Mapping[str, Path], *, seed: int) -> dict[str, list[float]]:
        """Returns latencies in seconds of winners (run folders by name) and of "untuned", taken in turns."""
        ...


def open_testbed(text: str, settings: Settings) -> Testbed:
    """Returns the testbed for a workload's spec or a recording's file.

    Raises:
        UsageError: there is no such workload or recording.
    """
    return Recorded(text) if is_benchmark(text) else Hardware(text, settings)


class Recorded:
    """A tabular benchmark: exact, repeatable answers in no time. See `Testbed`.

    Args:
        path: of the recording.

    Raises:
        UsageError: it cannot be read, or does not fit the workload that its spec names today.
    """

    def __init__(self, path: str) -> None:
        from reasoning_compiler.session.tune import as_workload

        self._benchmark = read_benchmark(path)
        workload = self._benchmark.workload
        if as_workload(workload.spec).key != workload.key:
            raise UsageError(
                f"`{path}` was recorded of another version of this kernel than `{workload.spec}` is now; record it anew"
            )
        self.spec, self.key = f"{workload.spec} (recorded, {self._benchmark.tiling})", workload.key
        self.machine, self.fingerprint = self._benchmark.machine, self._benchmark.fingerprint

    def run(self, variant: Variant, seed: int, folder: Path, *, samples: int, command: str, watch: Watch) -> Cell:
        """See `Testbed.run`; an interrupted run starts over."""
        remove_run(folder)
        settings = variant.seeded(seed, key=self.key)
        run = search(self._benchmark, settings, folder, command=command, on_progress=watch)
        return cell_of(run, variant.name, workload=self.spec)

    def check(self, variant: Variant) -> None:
        """See `Testbed.check`."""
        if variant.settings is None:
            raise UsageError(f"`{variant.name}` cannot run on a recording: TVM's search needs the hardware")
        check(variant.settings)

    def retime(self, winners: Mapping[str, Path], *, seed: int) -> dict[str, list[float]]:
        """See `Testbed.retime`: the recorded latencies."""
        times = {}
        for name, folder in winners.items():
            step = read_run(folder).outcome.step
            if step is not None:
                times[name] = list(self._benchmark.measurement(step.program).latencies_secs)
        return times | {"untuned": list(self._benchmark.untuned.latencies_secs)}


class Hardware:
    """A workload on this machine; one run at a time, so that nothing disturbs its timing. See `Testbed`.

    Args:
        spec: of the workload.
        settings: with the number of threads.
    """

    def __init__(self, spec: str, settings: Settings) -> None:
        from reasoning_compiler.machine import chosen_threads, detect, fingerprint
        from reasoning_compiler.session.spaces import with_threads
        from reasoning_compiler.session.tune import as_workload

        found = detect()
        threads = chosen_threads(settings.threads, found.num_cores)
        self._workload, self._settings, self._threads = as_workload(spec), settings, threads
        self.spec, self.key = self._workload.spec, self._workload.key
        self.machine = with_threads(found, threads)
        self.fingerprint = fingerprint(found, threads)

    def check(self, variant: Variant) -> None:
        """See `Testbed.check`: all can."""

    def run(self, variant: Variant, seed: int, folder: Path, *, samples: int, command: str, watch: Watch) -> Cell:
        """See `Testbed.run`; TVM's own search starts over where it was interrupted."""
        if variant.settings is None:
            remove_run(folder)
            return self._evolutionary(variant, seed, folder, samples=samples, watch=watch)
        from reasoning_compiler.session.tune import resume, tune

        journal = folder / JOURNAL_FILE
        try:
            if journal.exists() and b"\n" in journal.read_bytes():
                run = resume(folder, on_progress=watch).run
            else:
                settings = variant.seeded(seed, key=self.key)
                run = tune(self._workload, out=folder, settings=settings, command=command, on_progress=watch).run
        except Interrupted:
            raise KeyboardInterrupt from None  # how to go on is said of the experiment, not of this run
        return cell_of(run, variant.name, workload=self.spec)

    def retime(self, winners: Mapping[str, Path], *, seed: int) -> dict[str, list[float]]:
        """See `Testbed.retime`."""
        names = list(winners)
        with self._instrument(seed) as instrument:
            untuned = instrument.measure_untuned().measurement
            libraries = [winners[name] / LIBRARY for name in names]
            timed = instrument.confirm(libraries, rounds=_ROUNDS, budget_secs=_ROUNDS_SECS) if libraries else []
        return {name: _latencies(m) for name, m in zip([*names, "untuned"], [*timed, untuned], strict=True) if m.ok}

    def _evolutionary(self, variant: Variant, seed: int, folder: Path, *, samples: int, watch: Watch) -> Cell:
        from reasoning_compiler.core.whole_files import write_together
        from reasoning_compiler.deploy.library import library_files
        from reasoning_compiler.experiment.evolutionary import evolutionary

        works_on(None)
        started = time.perf_counter()
        found: list[tuple[float, float | None]] = []

        def note(secs: float) -> None:
            at_secs = time.perf_counter() - started
            found.append((at_secs, None if math.isinf(secs) else secs))
            best = min((s for _, s in found if s is not None), default=None)
            watch(Progress("measuring", str(folder), len(found), samples, best_secs=best, elapsed_secs=at_secs))

        module, wall_secs = evolutionary(
            self._workload,
            self.machine,
            self._settings,
            samples=samples,
            seed=seed,
            in_our_space=variant.in_our_space,
            on_latency=note,
        )
        with self._instrument(seed) as instrument:
            (built,) = instrument.measure([module], best_secs=None)
            if built.artifact is None:
                raise NothingMeasuredError(f"evolutionary search's winner fails: {built.measurement.failure}")
            (folder / LIBRARY).parent.mkdir(parents=True, exist_ok=True)
            about = {"workload": self.spec, "num_threads": self._threads}
            write_together(library_files(built.artifact, folder / LIBRARY, about=about))
        return Cell(self.spec, variant.name, seed, tuple(found), None, wall_secs)

    @contextmanager
    def _instrument(self, seed: int) -> Iterator[Instrument]:
        from reasoning_compiler.machine import tvm_target
        from reasoning_compiler.measure.executors.local import LocalExecutor
        from reasoning_compiler.measure.instrument import Instrument

        target, timeout_secs = tvm_target(self.machine), self._settings.timeout_secs
        with (
            LocalExecutor(num_threads=self._threads, flush_cache=self._settings.flush_cache) as executor,
            Instrument(self._workload, target, executor, seed=seed, timeout_secs=timeout_secs) as instrument,
        ):
            yield instrument


def _latencies(measurement: Measurement) -> list[float]:
    return [float(f"{secs:.5g}") for secs in measurement.latencies_secs]

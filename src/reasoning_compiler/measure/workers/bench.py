"""The process that runs libraries on a workload's data, as the process that asks it sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.machine.cpu import read_cpu
from reasoning_compiler.measure.executors.farm import Farm
from reasoning_compiler.measure.executors.tracker import Devices
from reasoning_compiler.measure.timing.racing import Race
from reasoning_compiler.measure.verification.data import Data
from reasoning_compiler.measure.workers.pool import Pool, Request, WorkerOptions
from reasoning_compiler.measure.workers.scratch import Scratch
from reasoning_compiler.workload.workload import Workload

LONG_TIMEOUT_SECS = 600.0
"""For what may be slow by nature: reading a workload's data, running the untuned program."""

# References that are computed while a program is timed take a core from it; those of small workloads are soon there.
_WAIT_FOR_SETS_SECS = 5.0
_LEAST_FLUSH_BYTES = 64 << 20


def bytes_to_flush() -> int:
    """Returns how much memory must be read to empty this machine's caches: twice what they hold."""
    caches = read_cpu().caches
    return max(2 * (caches.l3_bytes + caches.l2_bytes), _LEAST_FLUSH_BYTES)


@dataclass(frozen=True)
class Ran:
    """What became of a library in the runner.

    Args:
        measurement: latencies or a failure.
        verify_secs: the part of its `run_secs` that verification took.
        timed_secs: the part in which the program itself ran, or packed its weights.
        wait_secs: how long it waited for the runner, beside its `run_secs`.
    """

    measurement: Measurement
    verify_secs: float = 0.0
    timed_secs: float = 0.0
    wait_secs: float = 0.0


class Bench:
    """One process that runs libraries, one at a time; it starts in the background.

    Args:
        num_threads: threads that a program may use.
        race: how long programs are timed; its `best_secs` is not used.
        timeout_secs: the longest that a program may take, all its runs together.
        memory_limit_bytes: the most memory that the process may take for data; None for most of what is free.
        flush_bytes: as much memory is read before each timing, to empty the caches; 0 for warm caches.
        farm: the devices that run them instead of a process here.
    """

    def __init__(
        self,
        num_threads: int,
        *,
        race: Race,
        timeout_secs: float,
        memory_limit_bytes: int | None = None,
        flush_bytes: int = 0,
        farm: Farm | None = None,
    ) -> None:
        self._num_threads = num_threads
        forks = not flush_bytes  # what empties the caches starts TVM's threads
        options = WorkerOptions("runner", num_threads, memory_limit_bytes, flush_bytes, forks)
        self._pool = farm or Pool(1, options)
        # A run after the first finds the caches warm, so each is timed alone.
        self._race = replace(race, min_timing_secs=0.0) if flush_bytes else race
        self._timeout_secs = timeout_secs
        self._data: Data | None = None
        self._data_are_sent = True

    @property
    def pids(self) -> list[int]:
        """The process id of the runner, in a list."""
        return self._pool.pids

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the runner, a line each; here there is nothing to say."""
        return ()

    @property
    def has_reference(self) -> bool:
        """Whether it is known what the outputs must be; waits until the workload has been read."""
        return self._data is not None and self._data.expected() is not None

    def use(self, workload: Workload, target: str, *, seed: int, scratch: Scratch) -> None:
        """Makes the bench run libraries on a workload's data; without it, inputs are random and nothing is
        verified.

        Inputs and reference are computed in the background.

        Args:
            workload: what the libraries compute.
            target: the TVM target as JSON text.
            seed: of the inputs.
            scratch: where the data go.
        """
        self._data = Data(workload, target, seed, scratch.new_folder(), num_threads=self._num_threads)
        self._data_are_sent = False

    def adopt_outputs(self) -> None:
        """Takes the outputs that the last run has saved for what the outputs must be."""
        assert self._data is not None
        self._data.adopt_outputs()
        self._data_are_sent = False

    def check(self, library: Path) -> tuple[Failure | None, float]:
        """Returns (why a library is wrong on other inputs or when run again, None if it is right; seconds).

        It is run on NaN, whose results are not looked at but which lie in its memory afterwards, on every input set of
        the workload, and repeatedly on the inputs that it is timed on. Without a workload nothing is known to be wrong.

        Args:
            library: a library that `run` has found right.
        """
        if self._data is None or self._data.expected() is None:
            return None, 0.0
        self.wait_until_ready()
        started = time.perf_counter()
        failure = self._check(library, self._data.sets())
        return failure, time.perf_counter() - started

    def check_secs(self, latency_secs: float) -> float:
        """Returns roughly how long `check` takes of a program with that latency."""
        return latency_secs * (1 + len(self._data.sets())) if self._data is not None else 0.0

    def failing_sets(self, library: Path, *, but: Collection[str]) -> list[str]:
        """Returns the names of the input sets on which a library fails; none where it also fails without them.

        Args:
            library: a library that `check` has found wrong.
            but: names of sets that need not be tried.
        """
        assert self._data is not None
        sets = [each for each in self._data.sets() if each["name"] not in but]
        if not sets or self._check(library, []) is not None:
            return []
        return [each["name"] for each in sets if self._check(library, [each]) is not None]

    def try_sets(
        self, untuned: Path, *, only: Collection[str] | None = None, budget_secs: float = math.inf
    ) -> list[str]:
        """Leaves out the input sets on which the untuned program itself is not right; returns their names.

        Where the workload has no reference, its outputs become what is expected of each set.

        Args:
            untuned: the library of the untuned program.
            only: the sets to try; None for all.
            budget_secs: no further set is tried, and so used, when this much time has been spent.
        """
        assert self._data is not None
        self.wait_until_ready()
        started, left_out = time.perf_counter(), []
        for each in self._data.sets(save=True):
            if only is not None and each["name"] not in only:
                continue
            is_late = time.perf_counter() - started > budget_secs
            if is_late or self._check(untuned, [each], timeout_secs=LONG_TIMEOUT_SECS) is not None:
                left_out.append(each["name"])
        self._data.leave_out_sets(left_out)
        return left_out

    def _check(self, library: Path, sets: list[dict[str, Any]], *, timeout_secs: float | None = None) -> Failure | None:
        assert self._data is not None
        payload = {
            "library": str(library.resolve()),
            "sets": sets,
            "inputs": self._data.input_files(),
            "verify": self._data.expected() is not None,
        }
        # None of these runs takes longer than the first, which had this time too.
        timeout_secs = (timeout_secs or self._timeout_secs) * (len(sets) + 1)
        answer = self._pool.ask(Request("check", payload, timeout_secs))
        return answer if isinstance(answer, Failure) else None

    def wait_until_ready(self) -> float:
        """Returns the seconds it still took until the runner had started and read the workload."""
        started = time.perf_counter()
        if self._data is not None and not self._data_are_sent:
            payload = self._data.payload()
            self._pool.set_up(Request("set_up", payload, LONG_TIMEOUT_SECS))
            self._data_are_sent = True
        self._pool.wait_until_ready()
        if self._data is not None:
            self._data.wait_for_sets(_WAIT_FOR_SETS_SECS)
        return time.perf_counter() - started

    def run(
        self,
        library: Path,
        *,
        best_secs: float | None,
        verify: bool,
        timeout_secs: float | None = None,
        save_outputs: bool = False,
    ) -> Ran:
        """Returns what a library's race against the best gave.

        Args:
            library: a shared library with its signature beside it.
            best_secs: the latency to beat; None where there is none.
            verify: whether to compare the outputs with the reference.
            timeout_secs: another timeout than the bench's.
            save_outputs: whether to save the outputs, for `adopt_outputs`.
        """
        waited = self.wait_until_ready()
        request = self._run_request(
            library, best_secs=best_secs, verify=verify, timeout_secs=timeout_secs, save_outputs=save_outputs
        )
        started = time.perf_counter()
        answer = self._pool.ask(request)
        return _ran(answer, secs=time.perf_counter() - started, wait_secs=waited)

    def race(self, libraries: Sequence[Path], *, best_secs: Callable[[], float | None], verify: bool) -> Iterator[Ran]:
        """Yields what each library's race gave, in order.

        Args:
            libraries: shared libraries with their signatures beside them.
            best_secs: returns the latency to beat, None where there is none; called when a library's turn comes.
            verify: whether to compare the outputs with the reference.
        """
        for library in libraries:
            yield self.run(library, best_secs=best_secs(), verify=verify)

    def compare(self, libraries: Sequence[Path], *, rounds: int, budget_secs: float) -> list[Measurement]:
        """Returns measurements of libraries that were timed in turns.

        Args:
            libraries: shared libraries of the workload, with their signatures beside them.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
        """
        self.wait_until_ready()
        payload = {
            "libraries": [str(library.resolve()) for library in libraries],
            "rounds": rounds,
            "budget_secs": budget_secs,
            "min_timing_secs": self._race.min_timing_secs,
            "verify": self.has_reference,
        }
        answer = self._pool.ask(Request("compare", payload, LONG_TIMEOUT_SECS + budget_secs))
        if isinstance(answer, Failure):
            # Alone, each shows whether it was the one that failed.
            verify, timeout_secs = self.has_reference, LONG_TIMEOUT_SECS
            return [
                self.run(library, best_secs=None, verify=verify, timeout_secs=timeout_secs).measurement
                for library in libraries
            ]
        run_secs = answer["run_secs"] / max(1, len(libraries))
        return [
            Measurement(tuple(latencies), verified=payload["verify"], run_secs=run_secs)
            for latencies in answer["latencies_secs"]
        ]

    def _run_request(
        self,
        library: Path,
        *,
        best_secs: float | None,
        verify: bool,
        timeout_secs: float | None = None,
        save_outputs: bool = False,
    ) -> Request:
        files = self._data.output_files if self._data is not None and save_outputs else None
        payload = {
            "library": str(library.resolve()),
            "race": asdict(replace(self._race, best_secs=best_secs)),
            "verify": verify,
            "save_outputs": [str(path) for path in files] if files is not None else None,
        }
        return Request("run", payload, timeout_secs or self._timeout_secs)

    def close(self) -> None:
        """Ends the process. May be called again."""
        if self._data is not None:
            self._data.close()
        self._pool.close()


class FarBench(Bench):
    """Runs libraries on devices behind TVM's RPC tracker, one at a time on each.

    Args:
        devices: where.
        num_threads: threads that a program may use there.
        race: how long programs are timed; its `best_secs` is not used.
        timeout_secs: the longest that a program may take, all its runs together.

    Raises:
        DeviceError: there is no such device.
    """

    def __init__(self, devices: Devices, num_threads: int, *, race: Race, timeout_secs: float) -> None:
        self._farm = Farm(devices, num_threads)
        super().__init__(num_threads, race=race, timeout_secs=timeout_secs, farm=self._farm)

    @property
    def notices(self) -> tuple[str, ...]:
        """What has become of the devices, a line each."""
        return self._farm.notices

    def race(self, libraries: Sequence[Path], *, best_secs: Callable[[], float | None], verify: bool) -> Iterator[Ran]:
        """See `Bench`; a library's turn comes when a device is free for it."""
        waited = self.wait_until_ready()
        started: dict[int, float] = {}

        def requests() -> Iterator[Request]:
            for index, library in enumerate(libraries):
                started[index] = time.perf_counter()
                yield self._run_request(library, best_secs=best_secs(), verify=verify)

        early: dict[int, Ran] = {}
        num_yielded = 0
        with closing(self._farm.map(requests())) as answers:
            for index, answer in answers:
                ran = _ran(answer, secs=time.perf_counter() - started[index], wait_secs=waited)
                waited = 0.0
                # Several verify at the same time, and stages are told in seconds of the wall clock.
                early[index] = replace(ran, verify_secs=ran.verify_secs / self._farm.num_seats)
                while num_yielded in early:
                    yield early.pop(num_yielded)
                    num_yielded += 1


def _ran(answer: dict[str, Any] | Failure, *, secs: float, wait_secs: float) -> Ran:
    """Returns what became of a library, from the runner's answer after so many seconds."""
    if isinstance(answer, Failure):
        return Ran(Measurement(failure=answer, run_secs=secs), wait_secs=wait_secs)
    measurement = Measurement(
        tuple(answer["latencies_secs"]),
        cut=answer["cut"],
        censored=answer["censored"],
        verified=answer["verified"],
        run_secs=answer["run_secs"],
    )
    return Ran(measurement, answer["verify_secs"], answer["timed_secs"], wait_secs)

"""Running libraries on a workload's data: what the runner process does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.processes.serving import PREPARE, Action, one_line
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.measure.executors.kernels import Kernel, Ran
from reasoning_compiler.measure.timing.racing import CUT_RATIO, Race, runs_per_timing, verdict
from reasoning_compiler.measure.verification.stored import InputSet, StoredArray, StoredOutputs
from reasoning_compiler.measure.workers.loaded import DeviceData, LoadedKernel
from reasoning_compiler.measure.workers.prepared import Prepared
from reasoning_compiler.measure.workers.runtimes import LocalRuntime, RemoteRuntime
from reasoning_compiler.measure.workers.store import Store
from reasoning_compiler.measure.workers.workspaces import FILLS, NAN, Workspaces
from reasoning_compiler.workload.input_sets import INPUT_SETS

# A program that takes this many times as long as the best has lost, however long it may be allowed to take. Killing it
# is worth while only where waiting takes longer than what must be done again: a child's birth, or without children all.
_HOPELESS_RATIO = 5.0
_LEAST_LIMIT_SECS, _LEAST_LIMIT_SECS_ALONE = 0.1, 2.0
# A race between threads goes wrong only sometimes: short programs are run this often, or for this long, to see it.
_MAX_REPEATED_RUNS = 1000
_REPEATED_SECS = 0.05
_TIMINGS_PER_VERIFICATION = 3
# In a comparison a fast library is timed more often than a slow one, up to this often.
_MAX_TIMINGS_PER_ROUND = 5


class Runner:
    """Runs libraries, one at a time, on the data of the workloads that it has prepared.

    They run in this process, or on a device that `prepare` was told to take.

    Args:
        store: where the libraries and the data are.
        limit: as `serving.limit`, but for its first argument.
        announce: as `serving.announce`, but for its first argument.
        flush_bytes: as much memory is read before each timing, so that it begins with cold caches; 0 for warm ones.
        forks: whether libraries run in forks of this process, where their data let them.
    """

    def __init__(
        self,
        store: Store,
        limit: Callable[..., None],
        announce: Callable[..., None],
        *,
        flush_bytes: int = 0,
        forks: bool = False,
    ) -> None:
        self._store = store
        self._limit = limit
        self._announce = announce
        self._forks = forks
        self.prepared = Prepared(store)
        """The data that libraries run on."""
        self._workspaces = Workspaces()
        self._eviction = None
        if flush_bytes:
            from reasoning_compiler.measure.timing.eviction import (
                Eviction,  # with TVM's compiler, that others do not need
            )

            self._eviction = Eviction(flush_bytes)

    @property
    def actions(self) -> dict[str, Action]:
        """What this process can be asked for."""
        return {PREPARE: self.prepare, "run": self.run, "check": self.check, "compare": self.compare}

    def prepare(
        self,
        *,
        key: str,
        arguments: tuple[Argument, ...],
        target: str,
        inputs: tuple[StoredArray, ...],
        expected: StoredOutputs | None,
        workspaces: str | None = None,
        devices: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Reads a workload, for the requests that name it. The last few are kept, as many as there is room for.

        Args:
            key: what requests call it.
            arguments: those of the kernel.
            target: the TVM target as JSON text; it says on which kind of device.
            inputs: one per argument that is no output, in order.
            expected: what the outputs must be; None where nothing is known.
            workspaces: the key of the library of `Workspaces`; None where kernels are verified with buffers of TVM's.
            devices: the arguments of `RemoteRuntime.take`; None where libraries run in this process.

        Returns:
            {"prepared": the keys of all workloads that requests may name now}

        Raises:
            Refused: "device" where no device can be had.
        """
        if devices is not None and isinstance(self.prepared.runtime, LocalRuntime):
            self.prepared.runtime = RemoteRuntime.take(**devices, announce=self._announce)
        self._workspaces = Workspaces(None if workspaces is None else self._store.path(workspaces))
        self.prepared.add(key, arguments, target, inputs=inputs, expected=expected)
        return {"prepared": self.prepared.keys}

    def run(self, *, workload: str, kernel: Kernel, race: Race, verify: bool) -> Ran:
        """Returns what a library comes to that is timed as long as it can still win, and verified.

        The first run is verified, and its time decides whether there are more. After every few timings the outputs
        are verified again: MetaSchedule lets parallel iterations write the same buffer, and what then goes wrong
        goes wrong only sometimes. Verifying takes the program's data out of the caches, so the next timings begin
        with a run that does not count, unless caches are to be cold or the program will hardly win.

        Args:
            workload: the key that it was prepared with.
            kernel: the library.
            race: how long it is timed.
            verify: whether to compare the outputs with what is expected.

        Raises:
            Refused: "wrong_result" or "nonfinite"; "crash" where TVM itself gives up on it.
        """
        started = time.perf_counter()
        loaded = self._load(kernel, workload)
        data = loaded.data
        data.spoil_outputs()
        if race.best_secs is not None:
            least_secs = _LEAST_LIMIT_SECS if self._forks and self.prepared.may_fork else _LEAST_LIMIT_SECS_ALONE
            self._end_after(max(least_secs, _HOPELESS_RATIO * race.best_secs), race.best_secs)
        with self._workspaces.fenced(loaded.library) as takes_buffers:
            first_secs = loaded.first_secs()
            self._workspaces.look()
        self._limit(None)
        verify_secs = data.verify() if verify else data.look_at_fences()
        timed_secs = loaded.packing_secs + first_secs
        latencies: list[float] = []
        may_win = race.best_secs is None or first_secs <= CUT_RATIO * race.best_secs
        untouched = takes_buffers  # TVM's buffers, whose pages the first run would have touched
        while (said := verdict(race, first_secs, latencies)) == "again":
            number = runs_per_timing(race, min([first_secs, *latencies]))
            data.spoil_outputs()
            if untouched or (may_win and self._eviction is None):
                timed_secs += loaded.time(1)
                untouched = False
            for _ in range(_TIMINGS_PER_VERIFICATION):
                latencies.append(self._time(loaded, number))
                timed_secs += number * latencies[-1]
                if verdict(race, first_secs, latencies) != "again":
                    break
            verify_secs += data.verify() if verify else 0.0
        run_secs = time.perf_counter() - started
        timings = tuple(latencies or [first_secs])
        measurement = Measurement(timings, cut=said == "cut", verified=verify, run_secs=run_secs)
        return Ran(measurement, verify_secs, timed_secs, loaded.linked)

    def _end_after(self, secs: float, best_secs: float) -> None:
        """Lets the race end, lost, when the first run has taken so long; on a device that may be the device's fault."""
        why = f"its first run took longer than {secs:.3g} s, and the best takes {best_secs:.3g} s"
        lost = Ran(Measurement((secs,), cut=True, censored=True, run_secs=secs), timed_secs=secs).to_json()
        self._limit(secs, why, answer=lost if isinstance(self.prepared.runtime, LocalRuntime) else None)

    def check(
        self,
        *,
        workload: str,
        kernel: Kernel,
        sets: tuple[InputSet, ...],
        inputs: tuple[StoredArray, ...],
        verify: bool,
    ) -> dict[str, Any]:
        """Verifies a library on other inputs than those it is timed on, and again on those, several times.

        Outputs are spoiled before every run. What the kernel takes for itself is filled on each set, and on the usual
        inputs with each of `FILLS`, or where it cannot be, holds the data of the set before: what is read before it is
        written shows.

        Args:
            workload: the key that it was prepared with.
            kernel: the library.
            sets: the other inputs.
            inputs: each input that it is timed on, in order.
            verify: whether these are verified too.

        Returns:
            {"run_secs": …}

        Raises:
            Refused: as `run`, with the name of the set.
        """
        started = time.perf_counter()
        loaded = self._load(kernel, workload)
        with self._workspaces.fenced(loaded.library) as takes_buffers:
            self._run_sets(loaded, sets, inputs)
            if verify and takes_buffers:
                self._run_filled(loaded)
        if verify:
            self._run_again(loaded)
        return {"run_secs": time.perf_counter() - started}

    def _run_sets(self, kernel: LoadedKernel, sets: Sequence[InputSet], inputs: Sequence[StoredArray]) -> None:
        """Verifies a library on other inputs, as `check` is asked to, and gives it the usual ones back."""
        data = kernel.data
        usual: list[StoredArray | None] = [None for _ in inputs]  # of what the set before has changed
        for each in sets:
            on = f"on {each.name} inputs: "
            self._fill(data, [new or old for new, old in zip(each.inputs, usual, strict=True)])
            usual = [None if new is None else array for new, array in zip(each.inputs, inputs, strict=True)]
            data.spoil_outputs()
            self._workspaces.fill_with(_fill(each.name))
            kernel.time(1)
            self._workspaces.look(on=on)
            if each.expected is not None:
                data.verify(each.expected.get(self._store), on=on)
            data.look_at_fences()
        self._fill(data, usual)

    def _fill(self, data: DeviceData, inputs: Sequence[StoredArray | None]) -> None:
        """Gives inputs new values; None leaves one as it is."""
        data.fill_inputs([None if array is None else array.get(self._store) for array in inputs])

    def _run_filled(self, kernel: LoadedKernel) -> None:
        """Verifies a library on the inputs that it is timed on, its fenced buffers filled with each of `FILLS`."""
        for fill in FILLS:
            self._workspaces.fill_with(fill)
            self._run_once_more(kernel)

    def _run_again(self, kernel: LoadedKernel) -> None:
        """Verifies a library on the inputs that it is timed on, again and again, as it is when nobody looks."""
        started = time.perf_counter()
        for number in range(_MAX_REPEATED_RUNS):
            if number and time.perf_counter() - started > _REPEATED_SECS:
                break
            self._run_once_more(kernel)

    def _run_once_more(self, kernel: LoadedKernel) -> None:
        """Verifies one run of a library on the inputs that it is timed on."""
        on = "run again: "
        kernel.data.spoil_outputs()
        kernel.time(1)
        self._workspaces.look(on=on)
        kernel.data.verify(on=on)

    def compare(
        self,
        *,
        workload: str,
        kernels: tuple[Kernel, ...],
        rounds: int,
        budget_secs: float,
        min_timing_secs: float,
        verify: tuple[bool, ...],
    ) -> dict[str, Any]:
        """Times libraries in turns, every other round in reverse.

        A turn begins with a run that does not count: it brings the library's own data back into the caches, as in a
        race, unless caches are to be cold.

        Args:
            workload: the key that it was prepared with.
            kernels: the libraries.
            rounds: how often each has its turn.
            budget_secs: no further round starts when this much time has been spent.
            min_timing_secs: see `Race`.
            verify: for each kernel, whether to compare its outputs with what is expected.

        Returns:
            {"latencies_secs": one list per kernel, "run_secs": …}

        Raises:
            Refused: as `run`, for the first library that fails.
        """
        started = time.perf_counter()
        rules = Race(min_timing_secs=min_timing_secs)
        loaded = [self._load(kernel, workload, alone=False) for kernel in kernels]
        secs = []
        for each, is_verified in zip(loaded, verify, strict=True):
            each.data.spoil_outputs()
            secs.append(each.first_secs())
            if is_verified:
                each.data.verify()
            if secs[-1] < min_timing_secs:
                secs[-1] = each.time(runs_per_timing(rules, secs[-1]))
        numbers = [runs_per_timing(rules, each) for each in secs]
        turns = [min(_MAX_TIMINGS_PER_ROUND, max(1, int(max(secs) / each))) for each in secs]
        latencies: list[list[float]] = [[] for _ in loaded]
        timing_started = time.perf_counter()
        for round_number in range(rounds):
            if round_number and time.perf_counter() - timing_started > budget_secs:
                break
            order = range(len(loaded)) if round_number % 2 == 0 else reversed(range(len(loaded)))
            for i in order:
                loaded[i].data.spoil_outputs()
                self._warm_up(loaded[i])
                latencies[i] += [self._time(loaded[i], numbers[i]) for _ in range(turns[i])]
                if verify[i]:
                    loaded[i].data.verify()
        return {"latencies_secs": latencies, "run_secs": time.perf_counter() - started}

    def _warm_up(self, kernel: LoadedKernel) -> float:
        """Returns the seconds of a run that brings a library's data into the caches; 0 where they are to be cold."""
        return kernel.time(1) if self._eviction is None else 0.0

    def _time(self, kernel: LoadedKernel, number: int) -> float:
        """Returns the seconds of one run, the mean of `number` in a row, with cold caches where they are flushed."""
        if self._eviction is not None:
            self._eviction.evict()
        return kernel.time(number)

    def _load(self, kernel: Kernel, workload: str, *, alone: bool = True) -> LoadedKernel:
        """Returns a kernel ready to run; `alone` when the one before it will not run again."""
        data = self.prepared.data(workload)
        packed_before_secs = data.packed.packing_secs
        library = self._store.path(kernel.code)
        try:
            module, linked = self.prepared.runtime.load(library)
            tensors = []
            for index, (argument, tensor) in enumerate(zip(kernel.signature.arguments, data.tensors, strict=True)):
                if argument.packer is not None:
                    pack = partial(module[argument.packer], tensor)
                    tensor = data.packed.get(index, argument, pack, alone=alone)
                tensors.append(tensor)
            data.device.sync()
        except Refused:
            raise
        except Exception as error:  # a symbol that is missing, arguments that do not fit, no memory
            raise Refused("crash", one_line(error), retire=True) from None
        packing_secs = data.packed.packing_secs - packed_before_secs
        key = None if linked is None else self._store.put(linked, suffix=".so")
        return LoadedKernel(self.prepared.runtime, library, module, tensors, data, packing_secs, key)


def _fill(name: str) -> int:
    """Returns what buffers are filled with on a set of inputs: the same whichever sets are run beside it."""
    return FILLS[INPUT_SETS.index(name) % len(FILLS)] if name in INPUT_SETS else NAN

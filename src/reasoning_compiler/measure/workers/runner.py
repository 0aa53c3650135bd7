"""Running libraries on a workload's data: what the runner process does."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tvm

from reasoning_compiler.codegen.signature import Signature, argument_from_json, read_signature
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.machine.cgroup import memory_limit_bytes
from reasoning_compiler.measure.timing.racing import Race, runs_per_timing, verdict
from reasoning_compiler.measure.verification.compare import Expected
from reasoning_compiler.measure.workers.loaded import DeviceData, LoadedKernel
from reasoning_compiler.measure.workers.memory import is_cpu
from reasoning_compiler.measure.workers.places import Here, Place, There
from reasoning_compiler.measure.workers.serving import SET_UP, Action, one_line
from reasoning_compiler.measure.workers.tensors import read_array
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
    """Runs libraries, one at a time, on the data of a workload, or on random data where none was set up.

    They run in this process, or on the device that `set_up` was told of.

    Args:
        limit: as `serving.limit`, but for its first argument.
        flush_bytes: as much memory is read before each timing, so that it begins with cold caches; 0 for warm ones.
        forks: whether libraries run in children of this process, where `may_fork` lets them.
    """

    def __init__(self, limit: Callable[..., None], *, flush_bytes: int = 0, forks: bool = False) -> None:
        self._limit = limit
        self._forks = forks
        self._place: Place = Here()
        self._workspaces = Workspaces()
        self._eviction = None
        if flush_bytes:
            from reasoning_compiler.measure.timing.eviction import (
                Eviction,  # with TVM's compiler, that others do not need
            )

            self._eviction = Eviction(flush_bytes)
        self._data: DeviceData | None = None
        self._random: dict[tuple[Argument, ...], DeviceData] = {}

    @property
    def actions(self) -> dict[str, Action]:
        """What this process can be asked for."""
        return {SET_UP: self.set_up, "run": self.run, "check": self.check, "compare": self.compare}

    def set_up(
        self,
        *,
        arguments: list[dict[str, Any]],
        target: str,
        inputs: list[dict[str, Any]],
        expected: list[dict[str, Any]] | None,
        rtol: float,
        atol: float,
        least: float = 0.0,
        workspaces: str | None = None,
        device: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Reads the workload that the following requests run.

        Args:
            arguments: the `Argument`s of the kernel.
            target: the TVM target as JSON text; it says on which kind of device.
            inputs: the files with each argument that is no output, in order.
            expected: the files with what each output must be, in order; None where nothing is known.
            rtol: see `workload.tolerance`.
            atol: see `workload.tolerance`.
            least: see `workload.smallest_difference`.
            workspaces: the library of `Workspaces`; None where kernels are verified with buffers of TVM's.
            device: the arguments of `There`; None to stay where libraries run now.

        Raises:
            Refused: "device" where there is no such device.
        """
        self._data = None  # the old go before the new come
        if device is not None:
            self._place = There(**device)
        self._workspaces = Workspaces(None if workspaces is None else Path(workspaces))
        data = self._allocate(tuple(argument_from_json(argument) for argument in arguments), target)
        data.fill_inputs([read_array(**file) for file in inputs])
        if expected is not None:
            values = [read_array(**file) for file in expected]
            data = replace(data, expected=Expected.of(values, rtol=rtol, atol=atol, least=least))
        self._data = data
        return {}

    @property
    def may_fork(self) -> bool:
        """Whether a child of this process could go on with its data: none lie on an accelerator, nor far away."""
        return self._data is None or (isinstance(self._place, Here) and is_cpu(self._data.device))

    def renew_outputs(self) -> None:
        """Gives the outputs memory that this process shares with no other: it need not be copied when it is written."""
        if self._data is not None:
            self._data = self._data.with_new_outputs()

    def run(
        self, *, library: str, race: dict[str, Any], verify: bool, save_outputs: list[str] | None
    ) -> dict[str, Any]:
        """Times a library as long as it can still win, and verifies it.

        The first run is verified, and its time decides whether there are more. After every few timings the outputs
        are verified again: MetaSchedule lets parallel iterations write the same buffer, and what then goes wrong
        goes wrong only sometimes. Verifying takes the program's data out of the caches, so the next timings begin
        with a run that does not count, unless caches are to be cold or the program will hardly win.

        Args:
            library: the shared library, with its signature beside it.
            race: the `Race`.
            verify: whether to compare the outputs with what is expected.
            save_outputs: files to write the outputs of the first run into; None not to.

        Returns:
            {"latencies_secs", "cut", "censored", "verified", "run_secs", "verify_secs", "timed_secs"}

        Raises:
            Refused: "wrong_result" or "nonfinite"; "crash" where TVM itself gives up on it.
        """
        started = time.perf_counter()
        rules = Race(**race)
        kernel = self._load(library)
        data = kernel.data
        data.spoil_outputs()
        if rules.best_secs is not None:
            least_secs = _LEAST_LIMIT_SECS if self._forks and self.may_fork else _LEAST_LIMIT_SECS_ALONE
            self._end_after(max(least_secs, _HOPELESS_RATIO * rules.best_secs), rules.best_secs)
        with self._workspaces.fenced(Path(library)) as takes_buffers:
            first_secs = kernel.first_secs()
            self._workspaces.look()
        self._limit(None)
        if save_outputs is not None:
            data.save_outputs(save_outputs)
        verify_secs = data.verify() if verify else data.look_at_fences()
        timed_secs = kernel.packing_secs + first_secs
        latencies: list[float] = []
        may_win = rules.best_secs is None or first_secs <= rules.cut_ratio * rules.best_secs
        untouched = takes_buffers  # TVM's buffers, whose pages the first run would have touched
        while (said := verdict(rules, first_secs, latencies)) == "again":
            number = runs_per_timing(rules, min([first_secs, *latencies]))
            data.spoil_outputs()
            if untouched or (may_win and self._eviction is None):
                timed_secs += kernel.time(1)
                untouched = False
            for _ in range(_TIMINGS_PER_VERIFICATION):
                latencies.append(self._time(kernel, number))
                timed_secs += number * latencies[-1]
                if verdict(rules, first_secs, latencies) != "again":
                    break
            verify_secs += data.verify() if verify else 0.0
        return {
            "latencies_secs": latencies or [first_secs],
            "cut": said == "cut",
            "censored": False,
            "verified": verify,
            "verify_secs": verify_secs,
            "timed_secs": timed_secs,
            "run_secs": time.perf_counter() - started,
        }

    def _end_after(self, secs: float, best_secs: float) -> None:
        """Lets the race end, lost, when the first run has taken so long; on a device that may be the device's fault."""
        why = f"its first run took longer than {secs:.3g} s, and the best takes {best_secs:.3g} s"
        lost = {
            "latencies_secs": [secs],
            "cut": True,
            "censored": True,
            "verified": False,
            "verify_secs": 0.0,
            "timed_secs": secs,
            "run_secs": secs,
        }
        self._limit(secs, why, answer=lost if isinstance(self._place, Here) else None)

    def check(
        self, *, library: str, sets: list[dict[str, Any]], inputs: list[dict[str, Any]], verify: bool
    ) -> dict[str, Any]:
        """Verifies a library on other inputs than those it is timed on, and again on those, several times.

        Outputs are spoiled before every run. What the kernel takes for itself is filled on each set, and on the usual
        inputs with each of `FILLS`, or where it cannot be, holds the data of the set before: what is read before it is
        written shows.

        Args:
            library: the shared library, with its signature beside it.
            sets: for each set of inputs {"name": …, "inputs": a file per argument that is no output, or None where it
                keeps its values, "expected": a file per output, or None where nothing is known, "looser": see
                `input_sets.LOOSER`, "save": files to write the outputs into, or None not to}.
            inputs: the files of the inputs that it is timed on, in order.
            verify: whether these are verified too.

        Returns:
            {"run_secs": …}

        Raises:
            Refused: as `run`, with the name of the set; "nonfinite" also where outputs to be saved are not finite.
        """
        started = time.perf_counter()
        kernel = self._load(library)
        with self._workspaces.fenced(Path(library)) as takes_buffers:
            self._run_sets(kernel, sets, inputs)
            if verify and takes_buffers:
                self._run_filled(kernel)
        if verify:
            self._run_again(kernel)
        return {"run_secs": time.perf_counter() - started}

    def _run_sets(self, kernel: LoadedKernel, sets: list[dict[str, Any]], inputs: list[dict[str, Any]]) -> None:
        """Verifies a library on other inputs, as `check` is asked to, and gives it the usual ones back."""
        data = kernel.data
        usual: list[dict[str, Any] | None] = [None for _ in inputs]  # the file of what the set before has changed
        for each in sets:
            on = f"on {each['name']} inputs: "
            data.fill_inputs(_read(new or old for new, old in zip(each["inputs"], usual, strict=True)))
            usual = [None if new is None else file for new, file in zip(each["inputs"], inputs, strict=True)]
            data.spoil_outputs()
            self._workspaces.fill_with(_fill(each["name"]))
            kernel.time(1)
            self._workspaces.look(on=on)
            if each["expected"] is not None:
                assert data.expected is not None
                values = [read_array(**file) for file in each["expected"]]
                expected = data.expected.with_values(values, looser=each["looser"])
                data.verify(expected, on=on)
            data.look_at_fences()
            if each["save"] is not None:
                data.require_finite_outputs()
                data.save_outputs(each["save"])
        data.fill_inputs(_read(usual))

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
        self, *, libraries: list[str], rounds: int, budget_secs: float, min_timing_secs: float, verify: bool
    ) -> dict[str, Any]:
        """Times libraries in turns, every other round in reverse.

        A turn begins with a run that does not count: it brings the library's own data back into the caches, as in a
        race, unless caches are to be cold.

        Args:
            libraries: shared libraries of the same workload.
            rounds: how often each has its turn.
            budget_secs: no further round starts when this much time has been spent.
            min_timing_secs: see `Race`.
            verify: whether to compare the outputs with what is expected.

        Returns:
            {"latencies_secs": one list per library, "run_secs": …}

        Raises:
            Refused: as `run`, for the first library that fails.
        """
        started = time.perf_counter()
        rules = Race(min_timing_secs=min_timing_secs)
        kernels = [self._load(library, alone=False) for library in libraries]
        secs = []
        for kernel in kernels:
            kernel.data.spoil_outputs()
            secs.append(kernel.first_secs())
            if verify:
                kernel.data.verify()
            if secs[-1] < min_timing_secs:
                secs[-1] = kernel.time(runs_per_timing(rules, secs[-1]))
        numbers = [runs_per_timing(rules, each) for each in secs]
        turns = [min(_MAX_TIMINGS_PER_ROUND, max(1, int(max(secs) / each))) for each in secs]
        latencies: list[list[float]] = [[] for _ in kernels]
        timing_started = time.perf_counter()
        for round_number in range(rounds):
            if round_number and time.perf_counter() - timing_started > budget_secs:
                break
            order = range(len(kernels)) if round_number % 2 == 0 else reversed(range(len(kernels)))
            for i in order:
                kernels[i].data.spoil_outputs()
                self._warm_up(kernels[i])
                latencies[i] += [self._time(kernels[i], numbers[i]) for _ in range(turns[i])]
                if verify:
                    kernels[i].data.verify()
        return {"latencies_secs": latencies, "run_secs": time.perf_counter() - started}

    def _warm_up(self, kernel: LoadedKernel) -> float:
        """Returns the seconds of a run that brings a library's data into the caches; 0 where they are to be cold."""
        return kernel.time(1) if self._eviction is None else 0.0

    def _time(self, kernel: LoadedKernel, number: int) -> float:
        """Returns the seconds of one run, the mean of `number` in a row, with cold caches where they are flushed."""
        if self._eviction is not None:
            self._eviction.evict()
        return kernel.time(number)

    def _load(self, library: str, *, alone: bool = True) -> LoadedKernel:
        """Returns a library ready to run; `alone` when the one before it will not run again."""
        signature = read_signature(Path(library))
        data = self._data if self._data is not None else self._random_data(signature)
        packed_before_secs = data.packed.packing_secs
        try:
            module = self._place.load(Path(library))
            tensors = []
            for index, (argument, tensor) in enumerate(zip(signature.arguments, data.tensors, strict=True)):
                if argument.packer is not None:
                    pack = partial(module[argument.packer], tensor)
                    tensor = data.packed.get(index, argument, pack, alone=alone)
                tensors.append(tensor)
            data.device.sync()
            return LoadedKernel(self._place, module, tensors, data, data.packed.packing_secs - packed_before_secs)
        except Refused:
            raise
        except Exception as error:  # a symbol that is missing, arguments that do not fit, no memory
            raise Refused("crash", one_line(error), retire=True) from None

    def _random_data(self, signature: Signature) -> DeviceData:
        """Returns random data for a library of which nothing but its signature is known."""
        arguments = tuple(Argument(a.name, a.shape, a.dtype, a.role) for a in signature.arguments)
        if arguments not in self._random:
            self._random.clear()
            data = self._allocate(arguments, signature.target)
            fill = tvm.get_global_func("tvm.contrib.random.random_fill_for_measure")
            for memory in data.inputs:
                fill(memory.tensor)
                memory.allow_writing(False)
            self._random[arguments] = data
        return self._random[arguments]

    def _allocate(self, arguments: tuple[Argument, ...], target: str) -> DeviceData:
        """Returns arguments with undefined values, where libraries run."""
        room_bytes = _room_bytes() if isinstance(self._place, Here) else 0  # a device may be small
        return DeviceData.allocate(arguments, self._place.device(target), room_bytes=room_bytes)


def _room_bytes() -> int:
    """Returns how much memory packed weights may take: a quarter of what there is for this process."""
    limits = [psutil.virtual_memory().available, memory_limit_bytes(), resource.getrlimit(resource.RLIMIT_DATA)[0]]
    return min(each for each in limits if each is not None and each != resource.RLIM_INFINITY) // 4


def _fill(name: str) -> int:
    """Returns what buffers are filled with on a set of inputs: the same whichever sets are run beside it."""
    return FILLS[INPUT_SETS.index(name) % len(FILLS)] if name in INPUT_SETS else NAN


def _read(files: Iterable[dict[str, Any] | None]) -> list[np.ndarray | None]:
    return [None if file is None else read_array(**file) for file in files]

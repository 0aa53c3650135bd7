"""What is asked of an executor about the kernels of one workload: races, checks and comparisons."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property

from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.processes.pool import Preparation
from reasoning_compiler.core.processes.serving import PREPARE
from reasoning_compiler.core.processes.worker import Answer, Request
from reasoning_compiler.core.records import plain
from reasoning_compiler.measure.executors.kernels import Kernel, Ran
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.timing.racing import Race
from reasoning_compiler.measure.verification.data import Data
from reasoning_compiler.measure.verification.stored import InputSet
from reasoning_compiler.workload.workload import Workload

LONG_TIMEOUT_SECS = 600.0
"""For what may be slow by nature: reading a workload's data, running the untuned program."""

# References that are computed while a program is timed take a core from it; those of small workloads are soon there.
_WAIT_FOR_SETS_SECS = 5.0


class Bench:
    """Runs the kernels of one workload on an executor, which others may use in turn.

    Inputs and reference are computed in the background.

    Args:
        executor: where they run.
        workload: what they compute.
        target: the TVM target as JSON text.
        race: how long programs are timed; its `best_secs` is not used.
        timeout_secs: the longest that a program may take, all its runs together.
        seed: of the inputs.
        clock: counts time spent waiting for processes as the stage "wait", and verification inside "run" as "verify".
    """

    def __init__(
        self,
        executor: LocalExecutor,
        workload: Workload,
        target: str,
        *,
        race: Race,
        timeout_secs: float,
        seed: int = 0,
        clock: PhaseTimer,
    ) -> None:
        # A run after the first finds the caches warm, so each is timed alone where they are to be cold.
        self._race = replace(race, min_timing_secs=0.0) if executor.flushes_cache else race
        self._timeout_secs = timeout_secs
        self._clock = clock
        self._runners, self._num_runners = executor.runners, executor.num_runners
        self._data = Data(workload, target, seed, executor)
        self._tried_sets: set[str] = set()
        self.left_out_sets: list[str] = []
        """Input sets on which nothing is verified, since the untuned program itself is not right on them."""

    @property
    def has_reference(self) -> bool:
        """Whether it is known what the outputs must be; waits until the workload has been read."""
        return self.reference_failure is None

    @property
    def reference_failure(self) -> Failure | None:
        """Why it is not known what the outputs must be; waits until the workload has been read."""
        with self._clock.stage("wait"):
            return self._data.failure

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the reference, a line each."""
        return self._data.notices

    def check(self, kernel: Kernel, untuned: Callable[[], Kernel | None]) -> Failure | None:
        """Returns why a kernel is wrong on other inputs or when run again, None if it is right.

        It is run on NaN, whose results are not looked at but which lie in its memory afterwards, on every input set of
        the workload, and repeatedly on the inputs that it is timed on. An input set says nothing if the untuned program
        fails on it too, which is tried when it first matters; it is left out from then on.

        Args:
            kernel: one that `run` has found right.
            untuned: returns the untuned program, which need not be right on the usual inputs; None where it fails.
        """
        if not self.has_reference:
            return None
        self.wait_until_ready()
        failure = self._check(kernel, self._sets())
        if failure is None or failure.kind == "device":
            return failure
        untried = [each for each in self._sets() if each.name not in self._tried_sets]
        if not untried or self._check(kernel, []) is not None:
            return failure
        failing = [each for each in untried if self._check(kernel, [each]) is not None]
        known = untuned() if failing else None
        if known is None:
            return failure
        self._tried_sets.update(each.name for each in failing)
        left_out = [each.name for each in failing if self._check(known, [each], again=False) is not None]
        self.left_out_sets += left_out
        return self._check(kernel, self._sets()) if left_out else failure

    def check_secs(self, latency_secs: float) -> float:
        """Returns roughly how long `check` takes of a program with that latency."""
        return latency_secs * (1 + len(self._sets()))

    def _sets(self) -> list[InputSet]:
        return [each for each in self._data.sets() if each.name not in self.left_out_sets]

    def _check(self, kernel: Kernel, sets: list[InputSet], *, again: bool = True) -> Failure | None:
        """Returns why a kernel is wrong on input sets, or where it is run `again` on the usual inputs."""
        payload = {
            "workload": self._preparation.key,
            "kernel": kernel,
            "sets": sets,
            "inputs": self._data.inputs(),
            "verify": again and self.has_reference,
        }
        # None of these runs takes longer than the first, which had this time too.
        timeout_secs = (self._timeout_secs if again else LONG_TIMEOUT_SECS) * (len(sets) + 1)
        answer = self._ask(Request("check", payload, timeout_secs))
        return answer if isinstance(answer, Failure) else None

    def wait_until_ready(self) -> None:
        """Returns when a runner has started and read the workload."""
        with self._clock.stage("wait"):
            self._runners.wait_until_ready(self._preparation)
            self._data.wait_for_sets(_WAIT_FOR_SETS_SECS)

    @cached_property
    def _preparation(self) -> Preparation:
        """What a runner must have done before it can take our requests; waits until its data are there."""
        payload = self._data.payload()
        key = hashlib.sha256(json.dumps(payload, sort_keys=True, default=plain).encode()).hexdigest()[:16]
        return Preparation(key, Request(PREPARE, payload | {"key": key}, LONG_TIMEOUT_SECS))

    def _ask(self, request: Request) -> Answer:
        return self._runners.ask(request, self._preparation)

    def run(
        self,
        kernel: Kernel,
        *,
        best_secs: float | None,
        verify: bool,
        timeout_secs: float | None = None,
    ) -> Ran:
        """Returns what a kernel's race against the best gave.

        Args:
            kernel: of the workload.
            best_secs: the latency to beat; None where there is none.
            verify: whether to compare the outputs with the reference.
            timeout_secs: another timeout than the bench's.
        """
        self.wait_until_ready()
        request = self._run_request(kernel, best_secs=best_secs, verify=verify, timeout_secs=timeout_secs)
        started = time.perf_counter()
        answer = self._ask(request)
        return self._ran(answer, secs=time.perf_counter() - started, num_at_once=1)

    def race(self, kernels: Sequence[Kernel], *, best_secs: Callable[[], float | None]) -> Iterator[Ran]:
        """Yields what each kernel's race gave, in order; outputs are compared with the reference.

        Args:
            kernels: of the workload.
            best_secs: returns the latency to beat, None where there is none; called when a kernel's turn comes.
        """
        self.wait_until_ready()
        started: dict[int, float] = {}

        def requests() -> Iterator[Request]:
            for index, kernel in enumerate(kernels):
                started[index] = time.perf_counter()
                yield self._run_request(kernel, best_secs=best_secs(), verify=True)

        early: dict[int, Ran] = {}
        num_yielded = 0
        with closing(self._runners.map(requests(), self._preparation)) as answers:
            for index, answer in answers:
                secs = time.perf_counter() - started[index]
                early[index] = self._ran(answer, secs=secs, num_at_once=self._num_runners)
                while num_yielded in early:
                    yield early.pop(num_yielded)
                    num_yielded += 1

    def compare(
        self, kernels: Sequence[Kernel], *, rounds: int, budget_secs: float, unverified: Collection[Kernel] = ()
    ) -> list[Measurement]:
        """Returns measurements of kernels that were timed in turns.

        One that fails is left out, and the others are timed in turns again: timings of different times cannot be
        compared. Where none fails alone and they still cannot be timed together, that is the failure of each.

        Args:
            kernels: of the workload.
            rounds: timings of each.
            budget_secs: no further round starts when this much time has been spent.
            unverified: those whose outputs are not compared with the reference.
        """
        self.wait_until_ready()
        verify = [self.has_reference and kernel not in unverified for kernel in kernels]
        measured: dict[int, Measurement] = {}
        left = list(range(len(kernels)))
        was_tried = False
        while left:
            chosen, verified = [kernels[i] for i in left], [verify[i] for i in left]
            answer = self._compare(chosen, verified, rounds=rounds, budget_secs=budget_secs)
            if not isinstance(answer, Failure):
                run_secs = answer["run_secs"] / len(left)
                for i, latencies in zip(left, answer["latencies_secs"], strict=True):
                    measured[i] = Measurement(tuple(latencies), verified=verify[i], run_secs=run_secs)
                break
            if was_tried or len(left) == 1:
                measured |= {i: Measurement(failure=answer) for i in left}
                break
            for i in left:
                alone = self.run(kernels[i], best_secs=None, verify=verify[i], timeout_secs=LONG_TIMEOUT_SECS)
                if not alone.measurement.ok:
                    measured[i] = alone.measurement
            was_tried = not measured.keys() & set(left)
            left = [i for i in left if i not in measured]
        return [measured[i] for i in range(len(kernels))]

    def _compare(self, kernels: Sequence[Kernel], verify: list[bool], *, rounds: int, budget_secs: float) -> Answer:
        payload = {
            "workload": self._preparation.key,
            "kernels": kernels,
            "rounds": rounds,
            "budget_secs": budget_secs,
            "min_timing_secs": self._race.min_timing_secs,
            "verify": verify,
        }
        return self._ask(Request("compare", payload, LONG_TIMEOUT_SECS + budget_secs))

    def _run_request(
        self, kernel: Kernel, *, best_secs: float | None, verify: bool, timeout_secs: float | None = None
    ) -> Request:
        payload = {
            "workload": self._preparation.key,
            "kernel": kernel,
            "race": replace(self._race, best_secs=best_secs),
            "verify": verify,
        }
        return Request("run", payload, timeout_secs or self._timeout_secs)

    def close(self) -> None:
        """Stops what is still computed and drops the workload's data; the executor goes on. May be called again."""
        self._data.close()

    def _ran(self, answer: Answer, *, secs: float, num_at_once: int) -> Ran:
        """Returns what became of a kernel, from a runner's answer after so many seconds, as others run at once."""
        if isinstance(answer, Failure):
            return Ran(Measurement(failure=answer, run_secs=secs))
        ran = Ran.within(answer)
        # Several verify at the same time, and stages are told in seconds of the wall clock.
        self._clock.move(ran.verify_secs / num_at_once, source="run", to="verify")
        return ran

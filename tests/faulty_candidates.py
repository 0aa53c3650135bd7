"""Many candidates with faults planted among them, measured one after another: what became of each, and what leaked."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from measure_kernels import (
    Gemm,
    N,
    beside_its_own,
    calling,
    gemm_without_last,
    greedy_gemm,
    nan_gemm,
    scheduled,
    sometimes_wrong_gemm,
    target,
    tvm,
)
from own_executor import measuring
from reasoning_compiler.core.measurements import FailureKind
from reasoning_compiler.measure.instrument import Instrument, Measured

_BATCH = 8
_LIMIT_BYTES = 2 << 30


def _not_for_this_target() -> Any:
    schedule = tvm.s_tir.Schedule(Gemm().mod)
    schedule.bind(schedule.get_loops(schedule.get_sblock("C"))[0], "threadIdx.x")
    return schedule.mod


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Args:
        name: what goes wrong.
        mod: a GEMM in which it does.
        kind: what must be said of it; None where the candidate works and only its process suffers.
        kill: from outside, while it is at work: "builders" or "runner"; empty for nobody.
    """

    name: str
    mod: Callable[[], Any]
    kind: FailureKind | None
    kill: str = ""


FAULTS = (
    Fault("abort", lambda: calling("abort"), "crash"),
    Fault("edge not written", lambda: gemm_without_last(columns=1), "wrong_result"),
    Fault("hang", lambda: calling("pause"), "timeout"),
    Fault("NaN", nan_gemm, "nonfinite"),
    Fault("does not compile", _not_for_this_target, "build"),
    Fault("leaks descriptors", lambda: calling("dup", 1, times=100), None),
    Fault("segmentation fault", lambda: calling("memset", 0, 1, 99, ret="void"), "crash"),
    Fault("sums one step short", lambda: gemm_without_last(steps=1), "wrong_result"),
    Fault("exits as if all were well", lambda: calling("_exit", 0), "crash"),
    Fault("unknown symbol", lambda: calling("no_such_function"), "crash"),
    Fault("too much memory", lambda: greedy_gemm(_LIMIT_BYTES + (1 << 30)), "crash"),
    Fault("wrong from the second run on", sometimes_wrong_gemm, "wrong_result"),
    Fault("floods its output", lambda: calling("puts", "x" * 1000, times=20_000), None),
    Fault("never ends, and computes", lambda: calling("usleep", 1, times=1 << 30), "timeout"),
    Fault("writes behind memory of its own", lambda: beside_its_own(at=N * N, num_bytes=64), "crash"),
    Fault("writes before memory of its own", lambda: beside_its_own(more=16, at=-16, num_bytes=64), "wrong_result"),
    Fault("runner killed from outside", lambda: calling("pause"), "crash", "runner"),
    Fault("builder killed from outside", lambda: Gemm().mod, "build", "builders"),
)


@dataclass
class Outcome:
    """What became of the candidates, and what was left behind.

    Args:
        num: candidates.
        planted: how many there were of each fault.
        mistaken: of which something else was said than must be, in words.
        num_replaced: worker processes that were replaced.
        leaked_fds: descriptors of this process that were not there before.
        left_processes: worker processes, and what they started, that outlived the instrument.
        left_files: temporary files that did.
        growth_bytes: by how much this process grew from the first tenth of the candidates on.
        wall_secs: from start to end.
    """

    num: int
    planted: Counter[str] = field(default_factory=Counter)
    mistaken: list[str] = field(default_factory=list)
    num_replaced: int = 0
    leaked_fds: int = 0
    left_processes: int = 0
    left_files: int = 0
    growth_bytes: int = 0
    wall_secs: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether every word was right and nothing was left behind."""
        return not (self.mistaken or self.leaked_fds or self.left_processes or self.left_files)


def measure(num: int, faults: Sequence[Fault], *, scratch: Path, seed: int = 0) -> Outcome:
    """Returns what became of so many candidates.

    Args:
        num: candidates.
        faults: planted among them, in this order, at places drawn at random.
        scratch: an empty folder.
        seed: of the places.
    """
    started = time.perf_counter()
    outcome = Outcome(num)
    places = np.sort(np.random.default_rng(seed).choice(num, len(faults), replace=False))
    planted = {int(place): fault for place, fault in zip(places, faults, strict=True)}
    good = [scheduled(Gemm(), tile=tile) for tile in (8, 16, 32, 64)]
    me = psutil.Process()
    fds_before = me.num_fds()
    bytes_early, groups = 0, set()
    with measuring(
        Gemm(),
        target(),
        num_threads=2,
        timeout_secs=3,
        repeats=2,
        memory_limit_bytes=_LIMIT_BYTES,
        scratch_dir=scratch,
    ) as instrument:
        groups |= _processes(instrument)
        best_secs: float | None = None
        for batch in _batches(num, planted):
            expected = [planted.get(i) for i in batch]
            mods = [fault.mod() if fault else good[i % len(good)] for i, fault in zip(batch, expected, strict=True)]
            with _killing(instrument, expected[0].kill if expected[0] else ""):
                # Without a best, so that none of them is given up as too slow before it is killed.
                known_secs = None if expected[0] and expected[0].kill else best_secs
                results = instrument.measure(mods, best_secs=known_secs)
            for number, fault, result in zip(batch, expected, results, strict=True):
                outcome.planted[fault.name if fault else "none"] += 1
                outcome.mistaken += _mistaken(number, fault, result)
                if fault is None and result.measurement.counts:
                    best_secs = min(best_secs or 1.0, result.measurement.latency_secs)
            groups |= _processes(instrument)
            if batch[-1] >= num // 10 and not bytes_early:
                bytes_early = me.memory_info().rss
        outcome.growth_bytes = me.memory_info().rss - bytes_early
        outcome.num_replaced = len(groups) - len(_processes(instrument))
    time.sleep(0.2)
    outcome.leaked_fds = me.num_fds() - fds_before
    outcome.left_processes = sum(_is_of(groups, process) for process in psutil.process_iter())
    outcome.left_files = len(list(scratch.iterdir()))
    outcome.wall_secs = time.perf_counter() - started
    return outcome


def _processes(instrument: Instrument) -> set[int]:
    """Returns the process ids of the workers and of the runner's child."""
    return set(instrument._executor.pids) | {
        child.pid for child in psutil.Process(instrument._executor.pids[0]).children()
    }


def _batches(num: int, planted: dict[int, Fault]) -> list[list[int]]:
    """Returns the candidates in batches; who is killed from outside is alone, so that nobody else is meant."""
    batches: list[list[int]] = [[]]
    for number in range(num):
        alone = number in planted and bool(planted[number].kill)
        if alone or len(batches[-1]) == _BATCH:
            batches.append([])
        batches[-1].append(number)
        if alone:
            batches.append([])
    return [batch for batch in batches if batch]


class _killing:
    """Kills workers from outside while they are at work."""

    def __init__(self, instrument: Instrument, who: str) -> None:
        instrument._bench.wait_until_ready()  # else it is one that is being replaced who gets killed
        pids = {"": [], "runner": instrument._executor.pids[:1], "builders": instrument._executor.pids[1:]}[who]
        self._timer = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids])
        self._pids, self._stops = pids, who == "builders"

    def __enter__(self) -> None:
        for pid in self._pids if self._stops else ():  # else the build would be done too soon
            os.kill(pid, signal.SIGSTOP)
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        if not self._pids:
            self._timer.cancel()
        self._timer.join()


def _mistaken(number: int, fault: Fault | None, result: Measured) -> list[str]:
    """Returns what is wrong about what was said of a candidate, in a list that is empty where it is right."""
    failure = result.measurement.failure
    if fault and fault.kind == "timeout" and result.measurement.cut and not result.measurement.verified:
        return []  # it was ended when it could no longer win
    if (failure.kind if failure else None) == (fault.kind if fault else None):
        return [] if failure or result.measurement.verified else [f"{number}: not verified"]
    said = f"{failure.kind}: {failure.message}" if failure else "ok"
    return [f"{number} ({fault.name if fault else 'nothing planted'}): {said}"]


def _is_of(groups: set[int], process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False

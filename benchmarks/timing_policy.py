"""Whether building while timing disturbs the timings: the same programs timed with the builders idle and busy.

    python benchmarks/timing_policy.py [--pairs 12] [WORKLOAD ...]

Idle and busy timings alternate, every other pair in reverse. Busy means that so many builders build another program
over and over. Where the ratios are not 1, builds and runs must not overlap on this machine.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from bench import publish, spread

from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.machine import detect, num_physical_cores, tvm_target
from reasoning_compiler.measure.bench import Bench
from reasoning_compiler.measure.executors.kernels import Kernel
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.timing.comparison import compare
from reasoning_compiler.measure.timing.racing import Race
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import Workload, parse

WORKLOADS = [
    "gemm[256,1024,512]",
    "llama3-attention[seq_len=128]",
    "flux-conv[height=16,width=16,in_channels=256,out_channels=256]",
]
CANDIDATES = 8
SETTLE_SECS = 0.05


@contextmanager
def building(executor: LocalExecutor, jobs: list[tuple[Any, str]]) -> Iterator[None]:
    """Keeps the builders busy meanwhile."""
    is_over = threading.Event()

    def build() -> None:
        while not is_over.is_set():
            executor.build(jobs)

    thread = threading.Thread(target=build)
    thread.start()
    time.sleep(SETTLE_SECS)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def fastest(workload: Workload, executor: LocalExecutor, bench: Bench) -> tuple[Kernel, Any]:
    """Returns (kernel, module) of the fastest of some random programs."""
    target = tvm_target(detect())
    space = Space(workload.mod, target)
    modules = [space.schedule(space.sample(seed)).mod for seed in range(CANDIDATES)]
    built = executor.build([(mod, str(target)) for mod in modules], arguments=workload.arguments)
    timed = []
    for each, mod in zip(built, modules, strict=True):
        if each.kernel is not None:
            measurement = bench.run(each.kernel, best_secs=None, verify=False).measurement
            if measurement.ok:
                timed.append((measurement.latency_secs, each.kernel, mod))
    _, kernel, mod = min(timed, key=lambda row: row[0])
    return kernel, mod


def measure(spec: str, *, num_builders: int, num_pairs: int, threads: int) -> dict[str, Any]:
    """Returns the row of one program with one number of busy builders."""
    with LocalExecutor(num_threads=threads, num_build_workers=num_builders) as executor:
        workload, target = parse(spec), str(tvm_target(detect()))
        bench = Bench(executor, workload, target, race=Race(), timeout_secs=60.0, clock=PhaseTimer())
        kernel, mod = fastest(workload, executor, bench)
        jobs = [(mod, target)] * num_builders
        secs: dict[bool, list[float]] = {False: [], True: []}
        for number in range(num_pairs):
            for is_busy in (False, True) if number % 2 == 0 else (True, False):
                with building(executor, jobs) if is_busy else nullcontext():
                    (timed,) = bench.compare([kernel], rounds=3, budget_secs=1.0)
                secs[is_busy].append(timed.latency_secs)
    return {
        "workload": spec,
        "busy_builders": num_builders,
        "busy_over_idle": asdict(compare(secs[True], secs[False])),
        "idle_secs": spread(secs[False]),
        "busy_secs": spread(secs[True]),
    }


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--pairs", type=int, default=12)
    options = parser.parse_args()
    threads = num_physical_cores()
    rows = [
        measure(spec, num_builders=num_builders, num_pairs=options.pairs, threads=threads)
        for spec in options.workloads
        for num_builders in sorted({1, threads})
    ]
    publish("timing_policy", {"threads": threads, "rows": rows})


if __name__ == "__main__":
    main()

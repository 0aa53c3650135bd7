"""What a candidate costs beside building it and running it: milliseconds a candidate, by stage, in whole runs.

    python benchmarks/overhead.py [--samples 40] [WORKLOAD ...]

The instrument's part: "run" is what the runner takes beside the program's own code, its runs and its packing of
weights (loading it, talking), "verify" compares the outputs with the reference after every timing. Each program that
may become the best is also run on further inputs and again and again for 0.05 s, which most are spared: told apart,
as "check_ms". The search's part: "propose", "apply" and "predict", for as many programs as it considers for each that
is measured. What a run pays for once is told apart: starting processes, reading the workload's data and importing
XGBoost are left out, and the first batch, with the expert's first look at the kernel, is given as "first_batch_ms".
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from bench import publish

from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.measure import instrument
from reasoning_compiler.measure.bench import Bench
from reasoning_compiler.measure.executors.kernels import Ran
from reasoning_compiler.session import tune

WORKLOADS = ["gemm[512,4096,1024]", "llama3-attention", "llama4-mlp"]
LIMIT_MS = 20.0
SEARCH = ("propose", "apply", "predict")
INSTRUMENT = ("run", "verify")


class CountedBench(Bench):
    """A bench that counts the time in which programs run, and in which those that may become the best are checked."""

    running_secs = 0.0
    each_check_secs: ClassVar[list[float]] = []

    def run(self, *args: Any, **kwargs: Any) -> Ran:
        return self._count(super().run(*args, **kwargs))

    def race(self, *args: Any, **kwargs: Any) -> Iterator[Ran]:
        return map(self._count, super().race(*args, **kwargs))

    def _count(self, ran: Ran) -> Ran:
        # Where a program fails there is no word on how long it ran; all of it counts as running.
        CountedBench.running_secs += ran.timed_secs or ran.measurement.run_secs
        return ran

    def check(self, *args: Any, **kwargs: Any) -> Failure | None:
        started = time.perf_counter()
        try:
            return super().check(*args, **kwargs)
        finally:
            CountedBench.each_check_secs.append(time.perf_counter() - started)

    def compare(self, *args: Any, **kwargs: Any) -> list[Measurement]:
        started = time.perf_counter()
        try:
            return super().compare(*args, **kwargs)
        finally:
            CountedBench.running_secs += time.perf_counter() - started


def overhead(spec: str, samples: int) -> dict[str, Any]:
    """Returns the row of one workload."""
    import xgboost  # noqa: F401 - the first workload would pay for it

    CountedBench.running_secs = 0.0
    CountedBench.each_check_secs.clear()
    with tempfile.TemporaryDirectory() as folder:
        run = tune(spec, out=Path(folder) / "run", samples=samples).run
        first = first_batch(Path(folder) / "run")
    secs = dict(run.stage_secs)
    secs["run"] -= CountedBench.running_secs
    secs["verify"] -= sum(CountedBench.each_check_secs)
    later = samples - run.config["batch"]
    ms = {name: 1e3 * (secs[name] - first[name]) / later for name in SEARCH}
    ms |= {name: 1e3 * secs[name] / samples for name in INSTRUMENT}
    return {
        "workload": spec,
        "samples": samples,
        "failed": sum(step.measurement is not None and not step.measurement.ok for step in run.steps),
        "considered": (len(run.steps) - 1) / samples,
        "ms": ms,
        "instrument_ms": sum(ms[name] for name in INSTRUMENT),
        "search_ms": sum(ms[name] for name in SEARCH),
        "checked": len(CountedBench.each_check_secs),
        "check_ms": 1e3 * sum(CountedBench.each_check_secs) / max(1, len(CountedBench.each_check_secs)),
        "first_batch_ms": sum(1e3 * first[name] for name in SEARCH),
    }


def first_batch(folder: Path) -> dict[str, float]:
    """Returns the seconds of each stage up to the end of the first batch."""
    with open(folder / "journal.jsonl", encoding="utf-8") as file:
        return next(event["secs"] for event in map(json.loads, file) if event["event"] == "stages")


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--samples", type=int, default=40)
    given = parser.parse_args()
    instrument.Bench = CountedBench  # type: ignore[misc]
    rows = [overhead(spec, given.samples) for spec in given.workloads]
    within = all(row["instrument_ms"] < LIMIT_MS for row in rows)
    publish("overhead", {"limit_ms": LIMIT_MS, "instrument_within_limit": within, "rows": rows})


if __name__ == "__main__":
    main()

"""What a candidate costs beside building it and running it: milliseconds a candidate, by stage, in whole runs.

    python benchmarks/overhead.py [--samples 32] [WORKLOAD ...]

"run" is what the runner takes beside the program's own runs: loading it, packing its weights, talking. "propose",
"apply" and "predict" are the search. "verify" compares the outputs with the reference after every timing. Starting
processes and reading the workload's data are left out: a run pays for them once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import publish

from reasoning_compiler.measure import instrument
from reasoning_compiler.measure.bench import Bench, Ran
from reasoning_compiler.records import Measurement
from reasoning_compiler.tuner import tune

WORKLOADS = ["gemm[512,4096,1024]", "llama3-attention", "llama4-mlp"]
LIMIT_MS = 20.0


class CountedBench(Bench):
    """A bench that counts the time in which programs run."""

    running_secs = 0.0

    def run(self, *args: Any, **kwargs: Any) -> Ran:
        ran = super().run(*args, **kwargs)
        # Where a program fails there is no word on how long it ran; all of it counts as running.
        CountedBench.running_secs += ran.timed_secs or ran.measurement.run_secs
        return ran

    def compare(self, *args: Any, **kwargs: Any) -> list[Measurement]:
        started = time.perf_counter()
        try:
            return super().compare(*args, **kwargs)
        finally:
            CountedBench.running_secs += time.perf_counter() - started


def overhead(spec: str, samples: int) -> dict[str, Any]:
    """Returns the row of one workload."""
    CountedBench.running_secs = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run = tune(spec, out=Path(folder) / "run", samples=samples).run
    secs = dict(run.stage_secs)
    secs["run"] -= CountedBench.running_secs
    ms = {name: 1e3 * secs[name] / samples for name in ("propose", "apply", "predict", "run", "verify")}
    failed = sum(step.measurement is not None and not step.measurement.ok for step in run.steps)
    return {"workload": spec, "samples": samples, "failed": failed, "ms": ms, "total_ms": sum(ms.values())}


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--samples", type=int, default=32)
    given = parser.parse_args()
    instrument.Bench = CountedBench  # type: ignore[misc]
    rows = [overhead(spec, given.samples) for spec in given.workloads]
    within = all(row["total_ms"] < LIMIT_MS for row in rows)
    publish("overhead", {"limit_ms": LIMIT_MS, "within_limit": within, "rows": rows})


if __name__ == "__main__":
    main()

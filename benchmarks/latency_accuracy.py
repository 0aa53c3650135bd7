"""Whether the latencies that a run reports are those that a user finds: against a plain harness in a fresh process.

    python benchmarks/latency_accuracy.py [--programs 4] [WORKLOAD ...]

Of each kernel, random programs are measured as in a run, and the fastest few are timed by `plain_harness.py`, which
shares no code with this package, with other inputs. `race` is the latency of the search, `final` that of the timing in
turns at a run's end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import publish, spread

from reasoning_compiler.machine import detect, num_physical_cores, tvm_target
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse

WORKLOADS = [
    "gemm[256,1024,512]",
    "llama3-attention[seq_len=128]",
    "flux-conv[height=16,width=16,in_channels=256,out_channels=256]",
    "llama4-mlp[tokens=16,hidden=1024,width=2048]",
    "deepseek-moe[hidden=1024,width=1024]",
]
CANDIDATES_PER_PROGRAM = 3
TARGET_ERROR = 0.03
HARNESS = Path(__file__).with_name("plain_harness.py")


def measure(spec: str, *, num_programs: int, threads: int) -> list[dict[str, Any]]:
    """Returns a row for each of a kernel's programs."""
    workload, target = parse(spec), tvm_target(detect())
    space = Space(workload.mod, target)
    modules = [space.schedule(space.sample(seed)).mod for seed in range(CANDIDATES_PER_PROGRAM * num_programs)]
    with LocalExecutor(num_threads=threads) as executor, Instrument(workload, target, executor) as instrument:
        measured = instrument.measure(modules, best_secs=None)
        kept = sorted((m for m in measured if m.artifact is not None), key=lambda m: m.measurement.latency_secs)
        rows = []
        for each in kept[:num_programs]:
            command = [sys.executable, str(HARNESS), str(each.artifact), str(threads)]
            before = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            (final,) = instrument.confirm([each.artifact], budget_secs=1.0)
            rows.append(
                {
                    "workload": spec,
                    "harness_secs": before,
                    "race_secs": each.measurement.latency_secs,
                    "final_secs": final.latency_secs,
                }
            )
    return rows


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--programs", type=int, default=4)
    options = parser.parse_args()
    threads = num_physical_cores()
    rows = [row for spec in options.workloads for row in measure(spec, num_programs=options.programs, threads=threads)]
    errors = {kind: [abs(row[f"{kind}_secs"] / row["harness_secs"] - 1) for row in rows] for kind in ("race", "final")}
    publish(
        "latency_accuracy",
        {
            "programs": len(rows),
            "target_median_error": TARGET_ERROR,
            "within_target": all(statistics.median(each) <= TARGET_ERROR for each in errors.values()),
            "race_error": spread(errors["race"]),
            "final_error": spread(errors["final"]),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

"""The expert's few samples against many of TVM's evolutionary search, on the same instrument, in turns.

    python benchmarks/expert_against_evolutionary.py [--samples 16] [--evolutionary 64] [--seeds 3] [WORKLOAD ...]

For each workload and seed both methods run one after the other, the order alternating; then the two winners are timed
against each other in turns. The ratio is expert / evolutionary: below 1 the expert is faster.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench import evolutionary, publish, spread

from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.tuner import tune
from reasoning_compiler.workload import parse


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("workloads", nargs="*", default=["gemm[512,4096,1024]", "llama3-attention"])
    arguments.add_argument("--samples", type=int, default=16)
    arguments.add_argument("--evolutionary", type=int, default=64)
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    threads = detect().num_cores
    rows = [
        compare(spec, seed, given.samples, given.evolutionary, threads)
        for spec in given.workloads
        for seed in range(given.seeds)
    ]
    summary = {}
    for spec in given.workloads:
        mine = [row for row in rows if row["workload"] == spec]
        ratios = [row["ratio"] for row in mine]
        summary[spec] = {
            "expert_over_evolutionary": spread(ratios),
            "expert_gflops": spread([row["expert_gflops"] for row in mine]),
            "evolutionary_gflops": spread([row["evolutionary_gflops"] for row in mine]),
            "expert_share_of_peak": statistics.median(row["expert_gflops"] for row in mine) * 1e9 / detect().peak_flops,
            "expert_wall_secs": spread([row["expert_wall_secs"] for row in mine]),
            "evolutionary_wall_secs": spread([row["evolutionary_wall_secs"] for row in mine]),
        }
    medians = [s["expert_over_evolutionary"]["median"] for s in summary.values()]
    geomean = math.exp(statistics.mean(math.log(m) for m in medians))
    publish(
        "expert_against_evolutionary",
        {
            "samples": {"expert": given.samples, "evolutionary": given.evolutionary},
            "summary": summary,
            "geomean_ratio": geomean,
            "rows": rows,
        },
    )


def compare(spec: str, seed: int, samples: int, budget: int, threads: int) -> dict[str, float | str | int]:
    workload = parse(spec)
    target = tvm_target(replace(detect(), num_cores=threads))

    def expert() -> tuple[Path, float]:
        started = time.perf_counter()
        result = tune(workload, out=Path(folder) / "expert", samples=samples, seed=seed)
        return result.library, time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        if seed % 2:
            module, evolutionary_secs = evolutionary(workload, samples=budget, seed=seed, threads=threads)
            library, expert_secs = expert()
        else:
            library, expert_secs = expert()
            module, evolutionary_secs = evolutionary(workload, samples=budget, seed=seed, threads=threads)
        with Instrument(workload, target, num_threads=threads, seed=seed) as instrument:
            (built,) = instrument.measure([module], best_secs=None)
            if built.artifact is None:
                raise RuntimeError(f"evolutionary search's winner fails: {built.measurement.failure}")
            mine, theirs = instrument.confirm([library, built.artifact], rounds=20, budget_secs=20)
    row = {
        "workload": spec,
        "seed": seed,
        "expert_secs": mine.latency_secs,
        "evolutionary_secs": theirs.latency_secs,
        "ratio": mine.latency_secs / theirs.latency_secs,
        "expert_gflops": workload.flops / mine.latency_secs / 1e9,
        "evolutionary_gflops": workload.flops / theirs.latency_secs / 1e9,
        "expert_wall_secs": expert_secs,
        "evolutionary_wall_secs": evolutionary_secs,
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()

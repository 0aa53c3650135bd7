"""How fast the best program is after each sample: the expert, random proposals, and TVM's evolutionary search.

    python benchmarks/best_so_far.py [--samples 64] [--seeds 3] [WORKLOAD ...]
    python benchmarks/picture.py

All three are measured by the same builder and runner, in turns, the order rotating with the seed. A sample is a program
that was built and run, or that failed in that. What was stopped early because it had lost counts as a sample.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench import evolutionary, publish

from reasoning_compiler.journal import Run
from reasoning_compiler.machine import detect
from reasoning_compiler.tuner import tune
from reasoning_compiler.workload import parse

METHODS = ("expert", "random", "evolutionary")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("workloads", nargs="*", default=["gemm[512,4096,1024]", "llama3-attention"])
    arguments.add_argument("--samples", type=int, default=64)
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    curves = []
    for spec, seed in itertools.product(given.workloads, range(given.seeds)):
        for method in METHODS[seed % 3 :] + METHODS[: seed % 3]:
            best_secs = curve(spec, method, seed=seed, samples=given.samples)
            curves.append({"workload": spec, "method": method, "seed": seed, "best_secs": best_secs})
            print(f"{spec} {method} {seed}: {best_secs[-1]}", flush=True)
    flops = {spec: parse(spec).flops for spec in given.workloads}
    publish("best_so_far", {"samples": given.samples, "flops": flops, "curves": curves})


def curve(spec: str, method: str, *, seed: int, samples: int) -> list[float | None]:
    """Returns the best latency after each sample, in seconds; None before there is one."""
    if method == "evolutionary":
        latencies_secs: list[float] = []
        evolutionary(
            parse(spec), samples=samples, seed=seed, threads=detect().num_cores, on_latency=latencies_secs.append
        )
        return best_so_far(latencies_secs)
    with tempfile.TemporaryDirectory() as folder:
        run = tune(spec, out=Path(folder) / "run", samples=samples, seed=seed, proposer=method).run
    return run_curve(run)


def run_curve(run: Run) -> list[float | None]:
    """Returns the best latency after each sample of a run, the untuned program left out."""
    samples = [sample.measurement for sample in run.samples if sample.node]
    return best_so_far([m.latency_secs if m.counts else math.inf for m in samples])


def best_so_far(latencies_secs: Iterable[float]) -> list[float | None]:
    """Returns the least of the latencies up to each, None while it is infinite."""
    return [None if math.isinf(best) else float(f"{best:.4g}") for best in itertools.accumulate(latencies_secs, min)]


if __name__ == "__main__":
    main()

"""A model that reasons against chance, and one that talks nonsense against the expert alone, on real hardware.

    python benchmarks/llm_scripted.py [--samples 32] [--seeds 5] [KERNEL ...]

The models are scripts behind a server (`tests/llm/scripted_models.py`) that see nothing but the prompt; their rules
were written for no particular kernel, and the kernels (`other_kernels.py`) are none of the paper's five.

- "engineer": the model that reasons; nobody stands in for it, and chance takes what it leaves
- "random": proposals by chance, in the same search with the same surrogate
- "expert": the rules of this package, no model
- "nonsense": the model that talks nonsense, beside the expert as it is by default

All four tune every kernel with every seed, in an order that changes; their winners are then timed against each other in
turns. The targets are engineer / random well below 1 and nonsense / expert at most 1.1, in the geometric mean.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import publish, spread
from other_kernels import NAMES
from scripted import engineer, nonsense, run, served, serving

from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.session import Result, tune
from reasoning_compiler.workload import parse

METHODS = ("engineer", "random", "expert", "nonsense")
KERNELS_FILE = Path(__file__).with_name("other_kernels.py")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kernels", nargs="*", default=NAMES, metavar="KERNEL")
    arguments.add_argument("--samples", type=int, default=32)
    arguments.add_argument("--seeds", type=int, default=5)
    given = arguments.parse_args()
    rows = [compare(name, seed, given.samples) for name in given.kernels for seed in range(given.seeds)]
    publish(
        "llm_scripted",
        {
            "samples": given.samples,
            "seeds": given.seeds,
            "engineer_over_random": summary(rows, "engineer", "random"),
            "nonsense_over_expert": summary(rows, "nonsense", "expert"),
            "engineer_over_expert": summary(rows, "engineer", "expert"),
            "rows": rows,
        },
    )


def summary(rows: list[dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Returns how long one method's winners take relative to the other's: in all, by kernel, and how often less."""
    ratios = {(row["kernel"], row["seed"]): row["secs"][one] / row["secs"][other] for row in rows}
    kernels = dict.fromkeys(kernel for kernel, _ in ratios)
    logs = [math.log(ratio) for ratio in ratios.values()]
    return {
        "geomean": math.exp(statistics.mean(logs)),
        "wins": sum(log < 0 for log in logs),
        "of": len(logs),
        "by_kernel": {k: spread([ratio for (kernel, _), ratio in ratios.items() if kernel == k]) for k in kernels},
    }


def compare(name: str, seed: int, samples: int) -> dict[str, Any]:
    """Returns one kernel's figures with one seed: the latency of each method's winner, and what the models did."""
    workload = parse(f"{KERNELS_FILE}:{name}")
    machine = detect()
    first = seed % len(METHODS)
    results: dict[str, Result] = {}
    wall_secs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS[first:] + METHODS[:first]:
            started = time.perf_counter()
            results[method] = search(method, workload, Path(folder) / method, seed=seed, samples=samples)
            wall_secs[method] = time.perf_counter() - started
        target = tvm_target(machine)
        with (
            LocalExecutor(num_threads=machine.num_cores) as executor,
            Instrument(workload, target, executor, seed=seed) as instrument,
        ):
            timed = instrument.confirm([results[m].library for m in METHODS], rounds=20, budget_secs=20)
    row = {
        "kernel": name,
        "seed": seed,
        "secs": {m: t.latency_secs for m, t in zip(METHODS, timed, strict=True)},
        "wall_secs": wall_secs,
        "fallback_rate": {m: r.run.models[0].stats["fallback_rate"] for m, r in results.items() if r.run.models},
        "calls": {m: r.run.models[0].stats["calls"] for m, r in results.items() if r.run.models},
    }
    print(row, flush=True)
    return row


def search(method: str, workload: Any, out: Path, *, seed: int, samples: int) -> Result:
    if method in ("expert", "random"):
        return tune(workload, out=out, samples=samples, seed=seed, proposer=method)
    model, proposer, share = (engineer, "random", 0.0) if method == "engineer" else (nonsense, "expert", 0.5)
    with serving(served(model, seed=seed)) as server:
        return run(workload, server, out=out, samples=samples, seed=seed, proposer=proposer, share=share)


if __name__ == "__main__":
    main()

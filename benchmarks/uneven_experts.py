"""Experts with uneven token counts beside PyTorch's loop over them, and beside as many rows in equal parts.

    python benchmarks/uneven_experts.py [--samples 32] [--seeds 2] [--python PYTHON] [WORKLOAD]

PyTorch multiplies the same rows, those that only fill a block among them, by the same experts, whose rows it knows
before it compiles: each call of ours takes other counts. `--python` names the Python that has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench import publish, spread

from reasoning_compiler.machine import detect
from reasoning_compiler.session import tune
from reasoning_compiler.workload import Workload, parse

TORCH = Path(__file__).with_name("torch_experts.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="?", default="routed-experts")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    workload = parse(given.kernel)
    shapes = {argument.name: argument.shape for argument in workload.arguments}
    blocks, tokens, hidden = shapes["X"]
    num_experts, _, width = shapes["W_gate"]
    rows = []
    for seed in range(given.seeds):
        index = [argument.name for argument in workload.arguments].index("expert_of_block")
        counts = tokens * np.bincount(workload.make_inputs(seed)[index], minlength=num_experts)
        command = [given.python, TORCH, hidden, width, detect().num_cores, *counts]
        peers = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
        ours = tuned_secs(workload, seed, given.samples)
        rows.append(
            {
                "seed": seed,
                "rows_of_experts": " ".join(map(str, counts)),
                "ours_secs": ours,
                "torch_secs": peers,
                "ours_over_best_of_torch": ours / min(peers.values()),
            }
        )
        print(rows[-1], flush=True)
    equal = (
        f"deepseek-moe[tokens={blocks * tokens // num_experts},num_experts={num_experts},hidden={hidden},width={width}]"
    )
    equally = [tuned_secs(parse(equal), seed, given.samples) for seed in range(given.seeds)]
    record = {
        "kernel": given.kernel,
        "samples": given.samples,
        "equal_counts": equal,
        "equal_counts_secs": spread(equally),
    }
    publish("uneven_experts", record | {"rows": rows}, python=given.python)


def tuned_secs(workload: Workload, seed: int, samples: int) -> float:
    """Returns the time of the best program of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return tune(workload, out=Path(folder) / "run", samples=samples, seed=seed).best.latency_secs


if __name__ == "__main__":
    main()

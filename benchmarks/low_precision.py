"""One product in float32, bfloat16 and int8, by the machine's dot-product instructions, and PyTorch's.

    python benchmarks/low_precision.py [--samples 32] [--seeds 2] [--python PYTHON] [KERNEL]

The weights are constant, so both sides may lay them out ahead of time. PyTorch's are a bfloat16 linear layer, compiled
and as it is, and `torch._int_mm`, each timed in a process of its own; `--python` names the Python that has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import publish, spread

from reasoning_compiler.machine import detect
from reasoning_compiler.session import tune
from reasoning_compiler.workload import parse

DTYPES = ("float32", "bfloat16", "int8")
TORCH = Path(__file__).with_name("torch_product.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="?", default="gemm[512,4096,1024]")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    rows = [row(given.kernel, dtype, given) for dtype in DTYPES]
    record = {"kernel": given.kernel, "samples": given.samples, "rows": rows}
    publish("low_precision", record, python=given.python)


def row(kernel: str, dtype: str, given: argparse.Namespace) -> dict[str, Any]:
    """Returns what one type takes: ours over the seeds, and PyTorch's configurations."""
    workload = parse(f"{kernel.removesuffix(']')},dtype={dtype}]")
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(seed) for seed in range(given.seeds)]
        results = [tune(workload, out=out, samples=given.samples, seed=seed) for seed, out in enumerate(outs)]
    secs = [result.best.latency_secs for result in results]
    (m, k), (_, n) = (argument.shape for argument in workload.arguments[:2])
    command = [given.python, TORCH, m, n, k, detect().num_cores, dtype]
    peers = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    print(dtype, secs, peers, flush=True)
    return {
        "dtype": dtype,
        "ours_secs": spread(secs),
        "giga_operations_per_sec": workload.flops / spread(secs)["median"] / 1e9,
        "torch_secs": peers,
        "ours_over_best_of_torch": spread(secs)["median"] / min(peers.values()),
    }


if __name__ == "__main__":
    main()

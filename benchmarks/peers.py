"""Our tuned libraries against PyTorch, ONNX Runtime and OpenVINO, each in its best configuration, timed in turns.

    python benchmarks/peers.py [--samples 64] [--seeds 3] [--python PYTHON] [--library KERNEL=FILE] [KERNEL ...]

Each contestant is a process of its own (`contestant.py`), with the same inputs and number of threads, its weights laid
out ahead of time as it likes them; `--python` names the Python that has the peers (`pip install
'reasoning-compiler[peers]'`). Outputs are compared with the workload's reference. A round times every contestant once,
in an order that turns; a variant that is clearly not a peer's best is not timed further. Kernels that are left out keep
their rows of earlier commands. With `weight=false` the peers lay the second matrix out ahead of time all the same,
where ours has to do it in each call.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench import publish, spread
from kept import read

from reasoning_compiler.machine import detect
from reasoning_compiler.measure.verification.compare import Expected
from reasoning_compiler.measure.verification.expectations import by_functions
from reasoning_compiler.session import tune
from reasoning_compiler.workload import parse
from reasoning_compiler.workload.workload import Workload

KERNELS = (
    "llama3-attention",
    "deepseek-moe",
    "flux-attention",
    "flux-conv",
    "llama4-mlp",
    "gemm[512,4096,1024]",
    "gemm[1,4096,4096]",
)
PAPERS_FIVE = KERNELS[:5]
VARIANTS = (
    ("torch", "eager"),
    ("torch", "onednn"),
    ("torch", "compile"),
    ("onnxruntime", "bound"),
    ("openvino", "from-onnx"),
    ("openvino", "from-torch"),
)
CONTESTANT = Path(__file__).with_name("contestant.py")
BLOCK_SECS = 0.1
REST_SECS = 0.05  # in which the threads of the one before stop spinning
HOPELESS = 1.3


def main() -> None:
    """Measures, and publishes together with what earlier commands have measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--library", action="append", default=[], help="KERNEL=FILE, tuned before, in place of tuning")
    parser.add_argument("--name", default="peers", help="of the file in results/")
    options = parser.parse_args()
    libraries: dict[str, list[Path]] = {}
    for given in options.library:
        spec, _, path = given.rpartition("=")
        libraries.setdefault(spec, []).append(Path(path))
    rows = []
    for spec in options.kernels:
        with tempfile.TemporaryDirectory() as folder:
            ours = libraries.get(spec) or tuned(spec, options.samples, options.seeds, Path(folder))
            rows += compare(spec, ours, options.python, options.rounds, Path(folder))
    measured = {row["kernel"] for row in rows}
    rows = [r for r in read().get(options.name, {"rows": []})["rows"] if r["kernel"] not in measured] + rows
    rows.sort(key=lambda row: (KERNELS.index(row["kernel"]) if row["kernel"] in KERNELS else 99, row["secs"]["median"]))
    record = {"samples": options.samples, **summary(rows), "rows": rows}
    publish(options.name, record, python=options.python)


def tuned(spec: str, samples: int, seeds: int, folder: Path) -> list[Path]:
    """Returns the libraries that the expert finds, one for each seed."""
    return [tune(spec, out=folder / f"run{seed}", samples=samples, seed=seed).library for seed in range(seeds)]


def compare(spec: str, libraries: Sequence[Path], python: str, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Returns a row for each contestant on one kernel."""
    workload, threads = parse(spec), detect().num_cores
    inputs = workload.make_inputs(0)
    expected = Expected.of(*by_functions(workload, inputs))
    for index, array in enumerate(inputs):
        np.save(folder / f"in{index}.npy", array)
    task = {"threads": threads, "folder": str(folder), "num_inputs": len(inputs), **operation(workload)}
    del inputs
    running: dict[tuple[str, str], tuple[Any, str]] = {}
    with ExitStack() as stack:
        entries = [("ours", f"seed{i}", sys.executable, {"library": str(p.resolve())}) for i, p in enumerate(libraries)]
        entries += [(name, variant, python, {}) for name, variant in VARIANTS]
        for name, variant, interpreter, more in entries:
            contestant = stack.enter_context(process(interpreter, name, variant))
            said = contestant(task | more)
            if "error" in said:
                print(f"{spec}: {name} {variant} cannot: {said['error']}", file=sys.stderr)
                continue
            wrong = expected.why_not([np.load(said["output"])])
            if wrong is not None:
                print(f"{spec}: {name} {variant} is wrong: {wrong.message}", file=sys.stderr)
                continue
            running[name, variant] = (contestant, said["version"])
        timings = race(running, rounds)
    roof = max(workload.flops / detect().peak_flops, workload.bytes / detect().bandwidth_bytes_per_sec)
    peers = {key: statistics.median(secs) for key, secs in timings.items() if key[0] != "ours"}
    if not peers:
        raise SystemExit("no peer ran: `--python` names a Python that has torch, onnxruntime and onnx, or openvino")
    best = min(peers.values())
    return [
        {
            "kernel": spec,
            "contestant": name,
            "variant": variant,
            "version": running[name, variant][1],
            "secs": spread(secs),
            "gflops": workload.flops / statistics.median(secs) / 1e9,
            "gbytes_per_sec": workload.bytes / statistics.median(secs) / 1e9,
            "roofline_share": roof / statistics.median(secs),
            "over_best_peer": statistics.median(secs) / best,
        }
        for (name, variant), secs in timings.items()
    ]


def race(running: dict[tuple[str, str], Any], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Returns the seconds of a call in each round, by contestant, after two calls to warm up."""
    number = {}
    first = {}
    for key, (contestant, _) in running.items():
        first[key] = min(contestant(3))
        number[key] = max(1, math.ceil(BLOCK_SECS / first[key]))
    best = {name: min(secs for (n, _), secs in first.items() if n == name) for name, _ in running}
    left = [key for key in running if key[0] == "ours" or first[key] <= HOPELESS * best[key[0]]]
    timings: dict[tuple[str, str], list[float]] = {key: [] for key in left}
    for turn in range(rounds):
        for key in left[turn % len(left) :] + left[: turn % len(left)]:
            time.sleep(REST_SECS)
            running[key][0](1)
            timings[key].append(statistics.median(running[key][0](number[key])))
    return timings


def operation(workload: Workload) -> dict[str, Any]:
    """Returns what a peer has to know of a named kernel beside its inputs."""
    name = workload.name.partition("[")[0]
    if "attention" in name:
        return {"op": "attention", "causal": name.startswith("llama3")}
    if "conv" in name:
        return {"op": "conv", "channels_last": "NCHW" not in workload.spec}
    return {"op": "swiglu" if len(workload.arguments) > 3 else "product"}


@contextmanager
def process(python: str, name: str, variant: str) -> Iterator[Any]:
    """Yields a function that sends a contestant a request and returns its answer."""
    command = [python, str(CONTESTANT), name, variant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def ask(request: Any) -> Any:
            try:
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
            except BrokenPipeError:
                pass
            line = child.stdout.readline()
            return json.loads(line) if line else {"error": f"ended with exit code {child.wait()}"}

        try:
            yield ask
        finally:
            child.kill()


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns by kernel our median seed over the best peer, and the geometric mean over the paper's five kernels."""
    ratios = {}
    for spec in dict.fromkeys(row["kernel"] for row in rows):
        mine = [row["over_best_peer"] for row in rows if row["kernel"] == spec and row["contestant"] == "ours"]
        ratios[spec] = spread(mine)
    five = [ratios[spec]["median"] for spec in PAPERS_FIVE if spec in ratios]
    mean = math.exp(statistics.mean(map(math.log, five))) if len(five) == len(PAPERS_FIVE) else None
    return {"ours_over_best_peer": ratios, "geomean_of_the_papers_five": mean}


if __name__ == "__main__":
    main()

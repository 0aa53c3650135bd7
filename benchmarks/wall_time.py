"""The wall time of 64 samples: this tuner against TVM's `tune_tir` exactly as it ships.

    python benchmarks/wall_time.py [--samples 64] [--repeats 3] [WORKLOAD]

Each side runs in a fresh process, in turns. TVM's side gets no help: its own builder, runner, thread count and imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import publish, spread

AS_SHIPPED = """
import sys, tempfile
import tvm
from tvm.s_tir import meta_schedule as ms
mod = tvm.ir.load_json(open(sys.argv[1]).read())
with tempfile.TemporaryDirectory() as work_dir:
    ms.tune_tir(mod, tvm.target.Target(eval(sys.argv[2])), work_dir, max_trials_global=int(sys.argv[3]))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("workload", nargs="?", default="gemm[512,4096,1024]")
    arguments.add_argument("--samples", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    ours, theirs, shares = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "module.json"
        target = store(given.workload, module)
        script = Path(folder) / "as_shipped.py"
        script.write_text(AS_SHIPPED)
        for repeat in range(given.repeats):
            out = Path(folder) / f"run{repeat}"
            command = [sys.executable, "-m", "reasoning_compiler", "tune", given.workload, "--quiet"]
            ours.append(timed([*command, "--samples", str(given.samples), "--seed", str(repeat), "--out", str(out)]))
            theirs.append(timed([sys.executable, str(script), str(module), target, str(given.samples)], cwd=folder))
            shares.append(share_of_peak(out))
            print(f"ours {ours[-1]:.1f} s ({shares[-1]:.0%} of peak), tune_tir {theirs[-1]:.1f} s", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    publish(
        "wall_time",
        {
            "workload": given.workload,
            "samples": given.samples,
            "ours_secs": spread(ours),
            "ours_share_of_peak": spread(shares),
            "tune_tir_secs": spread(theirs),
            "ratio": spread(ratios),
        },
    )


def store(spec: str, path: Path) -> str:
    """Returns the TVM target as text, after writing the workload's module to a file."""
    from reasoning_compiler.machine import detect, import_tvm
    from reasoning_compiler.workload import parse

    path.write_text(import_tvm().ir.save_json(parse(spec).mod))
    return detect().target


def share_of_peak(folder: Path) -> float:
    """Returns the best program's FLOP/s as a share of the machine's measured peak."""
    from reasoning_compiler.journal import read_run

    run = read_run(folder)
    best = run.outcome.best
    return run.header.flops / best.latency_secs / run.header.machine.peak_flops if best is not None else 0.0


def timed(command: list[str], cwd: str | None = None) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in ("TVM_NUM_THREADS", "TVM_BIND_THREADS")}
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

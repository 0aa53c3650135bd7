"""How long a person waits: for `reasonc --help`, and for the first measured sample of a run.

python benchmarks/start_up.py [--repeats 5] [WORKLOAD ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import publish, spread


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("workloads", nargs="*", default=["gemm[512,4096,1024]", "llama3-attention"])
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    record = {
        "help_secs": spread([help_secs() for _ in range(given.repeats)]),
        "first_sample_secs": {
            spec: spread([first_sample_secs(spec) for _ in range(given.repeats)]) for spec in given.workloads
        },
    }
    publish("start_up", record)


def help_secs() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "reasoning_compiler", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_sample_secs(spec: str) -> float:
    """Returns seconds from the start of the command until its journal holds the first measured sample."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "run" / "journal.jsonl"
        command = [sys.executable, "-m", "reasoning_compiler", "tune", spec, "--quiet", "--samples", "4"]
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(journal.parent)], stdout=subprocess.DEVNULL)
        try:
            while not has_sample(journal):
                if process.poll() is not None or time.perf_counter() - started > 120:
                    raise RuntimeError(f"{spec}: no sample after {time.perf_counter() - started:.0f} s")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def has_sample(journal: Path) -> bool:
    if not journal.exists():
        return False
    for line in journal.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "measured" and event["node"] != 0:
            return True
    return False


if __name__ == "__main__":
    main()

"""What the space costs: milliseconds to apply a program with its postprocessing, and to list a program's decisions.

    python benchmarks/space_overhead.py [--edits 200] [WORKLOAD ...]

Edits are drawn as the random proposer draws them, in chains of ten from a random program; each is applied to a new
schedule and postprocessed. The first edit into a structure also generates its sketch and counts separately. TVM is
nearly all of it, in one thread: `cpu` is what it takes where nothing else runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from bench import publish, spread

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse

WORKLOADS = ["gemm[512,4096,1024]", "llama3-attention", "flux-attention", "flux-conv", "llama4-mlp", "deepseek-moe"]
LIMIT_MS = 10.0
CHAIN = 10

T = TypeVar("T")


class Timings:
    """Wall and CPU milliseconds of calls of one kind."""

    def __init__(self) -> None:
        self.wall_ms: list[float] = []
        self.cpu_ms: list[float] = []

    def of(self, call: Callable[[], T]) -> T:
        """Returns what the call returns, and keeps its times if it does."""
        wall, cpu = time.perf_counter(), time.thread_time()
        result = call()
        self.cpu_ms.append((time.thread_time() - cpu) * 1e3)
        self.wall_ms.append((time.perf_counter() - wall) * 1e3)
        return result

    def to_json(self) -> dict[str, Any]:
        return {"calls": len(self.wall_ms), "wall": spread(self.wall_ms), "cpu": spread(self.cpu_ms)}


def measure(spec: str, target: Any, num_edits: int) -> dict[str, Any]:
    """Returns the row of one workload."""
    made, edits, new_structures, tables = Timings(), Timings(), Timings(), Timings()
    workload = parse(spec)
    space = made.of(lambda: Space(workload.mod, target))
    rng = np.random.default_rng(0)
    program, seen, refused = space.start, {space.start.structure}, 0
    for number in range(num_edits):
        if number % CHAIN == 0:
            program = space.sample(number)
            seen.add(program.structure)
        transformation = mutate(tables.of(lambda current=program: space.table(current)), rng)
        if transformation is None:
            break
        before = program
        trial = Timings()
        try:
            program = trial.of(lambda: space.edit(before, transformation))  # noqa: B023
        except IllegalProgramError:
            refused += 1
            continue
        timings = edits if program.structure in seen else new_structures
        timings.wall_ms += trial.wall_ms
        timings.cpu_ms += trial.cpu_ms
        seen.add(program.structure)
    row = {"workload": spec, "decisions": len(space.table(program)), "refused": refused, "space_ms": made.to_json()}
    row |= {"edit_ms": edits.to_json(), "table_ms": tables.to_json()}
    return row | ({"new_structure_ms": new_structures.to_json()} if new_structures.wall_ms else {})


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--edits", type=int, default=200)
    options = parser.parse_args()
    target = tvm_target(detect())
    rows = [measure(spec, target, options.edits) for spec in options.workloads]
    worst = max(row["edit_ms"]["wall"]["median"] for row in rows)
    publish("space_overhead", {"limit_ms": LIMIT_MS, "within_limit": worst < LIMIT_MS, "rows": rows})


if __name__ == "__main__":
    main()

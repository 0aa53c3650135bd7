"""What the search itself costs: milliseconds for each program asked for and told of, by the size of the tree.

    python benchmarks/search_overhead.py [--nodes 1000 10000 100000] [--rounds 50]

Space, proposer and predictor cost next to nothing here, so what is left is the search: selection, contexts, checks
for known programs, backpropagation, the queue. A quarter of the nodes has been measured, as with the defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence

from bench import publish, spread

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Program, Transformation
from reasoning_compiler.core.steps import Known, Proposal, Step
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.search.search import TreeSearch

BATCH = 4
LIMIT_MS = 5.0


class CountingSpace:
    """Every edit leads to a program that has not been there before."""

    def __init__(self) -> None:
        self.count = 0
        self._table = (Decision("unroll", "choice", ChoiceDomain((0, 16)), 0),)

    def table(self, program: Program) -> tuple[Decision, ...]:
        return self._table

    def edit(self, program: Program, transformation: Transformation) -> Program:
        self.count += 1
        tiles = tuple((f"C.{axis} tile", (self.count, 4, 8, 16)) for axis in "ijk")
        return Program((("C", "tiled"),), (*tiles, ("unroll", 16)))


class SameEdits:
    """Proposes as many edits as are wanted."""

    name = "same"

    def propose(self, context: Context, num: int, rng: object) -> Proposal:
        return Proposal(self.name, "", (Transformation((("unroll", 16),)),) * num)


class HashPredictor:
    """Predicts a latency that only the program decides."""

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float]:
        return [secs(program) for program in programs]

    def learn(self, known: Sequence[Known]) -> None:
        pass


def secs(program: Program) -> float:
    """Returns a latency between 1 and 2 ms that the program determines."""
    return 1e-3 * (1 + int.from_bytes(hashlib.sha256(repr(program.decisions).encode()).digest()[:4], "big") / 2**32)


def told(steps: Sequence[Step]) -> list[tuple[int, Measurement]]:
    """Returns measurements of some nodes."""
    return [(step.node, Measurement((secs(step.program),), verified=True)) for step in steps]


def grown(num_nodes: int) -> TreeSearch:
    """Returns a search whose tree has that many nodes, made by searching, with big batches to be quick about it."""
    search = TreeSearch(CountingSpace(), SameEdits(), HashPredictor(), config=SearchConfig())
    while len(search.tree) < num_nodes:
        search.tell(told(search.ask(max(BATCH, len(search.tree) // 8))))
    return search


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    rows = []
    for num_nodes in options.nodes:
        search = grown(num_nodes)
        ask_ms, tell_ms = [], []
        for _ in range(options.rounds):
            started = time.perf_counter()
            batch = search.ask(BATCH)
            asked = time.perf_counter()
            search.tell(told(batch))
            ask_ms.append((asked - started) * 1e3 / len(batch))
            tell_ms.append((time.perf_counter() - asked) * 1e3 / len(batch))
        depth = max(sum(1 for _ in search.tree.path(number)) - 1 for number in range(len(search.tree)))
        row = {"nodes": len(search.tree), "samples": search.num_samples, "depth": depth}
        rows.append(row | {"ask_ms_per_program": spread(ask_ms), "tell_ms_per_program": spread(tell_ms)})
    worst = max(row["ask_ms_per_program"]["median"] for row in rows)
    publish("search_overhead", {"batch": BATCH, "limit_ms": LIMIT_MS, "within_limit": worst < LIMIT_MS, "rows": rows})


if __name__ == "__main__":
    main()

"""1,000 candidates with 10% planted faults of every kind: is each told as what it is, and does anything leak?

    python benchmarks/planted_faults.py [--candidates 1000] [--pieces 4] [--piece N]

All pieces are measured one after another, each with workers of its own, or only piece N, whose outcome is kept in
results/planted_faults.pieces.json until all are there. The kernels are tiny: what takes the time is two threads
building, and workers that start again after a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench import RESULTS, publish

from faulty_candidates import FAULTS, measure

PIECES = RESULTS / "planted_faults.pieces.json"


def main() -> None:
    """Measures, and publishes once all pieces are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--pieces", type=int, default=4)
    parser.add_argument("--piece", type=int)
    given = parser.parse_args()
    done: dict[str, Any] = json.loads(PIECES.read_text()) if PIECES.exists() and given.piece else {}
    share = given.candidates // given.pieces
    for piece in [given.piece] if given.piece else range(1, given.pieces + 1):
        faults = list(islice(cycle(FAULTS), (piece - 1) * share // 10, piece * share // 10))
        with tempfile.TemporaryDirectory() as scratch:
            done[str(piece)] = vars(measure(share, faults, scratch=Path(scratch), seed=piece))
        RESULTS.mkdir(exist_ok=True)
        PIECES.write_text(json.dumps(done, indent=1) + "\n")
        print(json.dumps(done[str(piece)], indent=1), flush=True)
    if len(done) < given.pieces:
        return
    outcomes = list(done.values())
    planted = sum((Counter(each["planted"]) for each in outcomes), Counter())
    publish(
        "planted_faults",
        {
            "candidates": sum(each["num"] for each in outcomes),
            "pieces": given.pieces,
            "planted": dict(planted.most_common()),
            "mistaken": [line for each in outcomes for line in each["mistaken"]],
            **{
                name: sum(each[name] for each in outcomes)
                for name in ("num_replaced", "leaked_fds", "left_processes", "left_files", "wall_secs")
            },
            "growth_bytes": max(each["growth_bytes"] for each in outcomes),
        },
    )
    PIECES.unlink()


if __name__ == "__main__":
    main()

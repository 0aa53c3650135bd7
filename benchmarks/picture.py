"""Draws the best program so far against the samples measured, as an SVG.

    python benchmarks/picture.py
    python benchmarks/picture.py --out mine.svg expert=runs/one expert=runs/two random=runs/three

Without arguments it draws `results/best_so_far.json` into docs/images/best_so_far.svg. With NAME=RUN it draws run
folders: runs of the same name and workload make one curve. A curve is the median over seeds, the band around it reaches
from the slowest to the fastest.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoning_compiler.report.picture import Curve, draw

RESULTS = Path(__file__).parent / "results" / "best_so_far.json"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "best_so_far.svg"

_NAMES = {"expert": "expert (this project)", "evolutionary": "TVM's evolutionary search", "random": "random proposals"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="*", metavar="NAME=RUN")
    arguments.add_argument("--out", type=Path, default=IMAGE)
    given = arguments.parse_args()
    if given.runs:
        svg = picture(from_runs(given.runs), footnote="")
    else:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
        svg = picture(from_results(record), footnote=footnote(record))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(svg, encoding="utf-8")


def picture(panels: dict[str, list[Curve]], *, footnote: str) -> str:
    """Returns the SVG."""
    axis = "GFLOP/s of the best so far"
    return draw(panels, title="GFLOP/s of the best program so far", axis=axis, footnote=footnote, labels=_NAMES)


def from_results(record: dict[str, Any]) -> dict[str, list[Curve]]:
    """Returns the curves of each workload in what best_so_far.py has published."""
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for curve in record["curves"]:
        gflops = _gflops(curve["best_secs"], record["flops"][curve["workload"]])
        found.setdefault(curve["workload"], {}).setdefault(curve["method"], []).append(gflops)
    return _curves(found)


def from_runs(pairs: Sequence[str]) -> dict[str, list[Curve]]:
    """Returns the curves of run folders, given as NAME=RUN."""
    from best_so_far import run_curve

    from reasoning_compiler.journal import read_run

    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        run = read_run(folder)
        gflops = _gflops(run_curve(run), run.header.flops)
        found.setdefault(run.header.spec, {}).setdefault(name, []).append(gflops)
    return _curves(found)


def _curves(found: dict[str, dict[str, list[tuple[float, ...]]]]) -> dict[str, list[Curve]]:
    def order(name: str) -> tuple[int, str]:
        return (list(_NAMES).index(name) if name in _NAMES else len(_NAMES), name)

    return {spec: [Curve(name, tuple(rows[name])) for name in sorted(rows, key=order)] for spec, rows in found.items()}


def footnote(record: dict[str, Any]) -> str:
    """Returns where and how often the curves were measured."""
    machine, seeds = record["machine"], len({curve["seed"] for curve in record["curves"]})
    times = "1 seed" if seeds == 1 else f"median of {seeds} seeds, bands from the slowest to the fastest"
    return f"{machine['name']}, {machine['num_cores']} cores, peak {machine['peak_flops'] / 1e9:.0f} GFLOP/s; {times}"


def _gflops(best_secs: Sequence[float | None], flops: float) -> tuple[float, ...]:
    return tuple(math.nan if secs is None else flops / secs / 1e9 for secs in best_secs)


if __name__ == "__main__":
    main()

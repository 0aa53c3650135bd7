"""Draws the best program so far against the samples measured, as an SVG.

    python benchmarks/picture.py
    python benchmarks/picture.py --out mine.svg expert=runs/one expert=runs/two random=runs/three

Without arguments it draws `results/best_so_far.json` into docs/images/best_so_far.svg. With NAME=RUN it draws run
folders: runs of the same name and workload make one curve. A curve is the median over seeds, the band around it reaches
from the slowest to the fastest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parent / "results" / "best_so_far.json"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "best_so_far.svg"

_NAMES = {"expert": "expert (this project)", "evolutionary": "TVM's evolutionary search", "random": "random proposals"}
_COLOURS = ("#0b62a4", "#c8550a", "#8a8a8a", "#5a8f29", "#7a4fa3")
_WIDTH, _HEIGHT = 400, 250  # of a panel's axes
_LEFT, _GAP, _BOTTOM = 62, 74, 52
_LINE = 18


@dataclass(frozen=True)
class Curve:
    """One method on one workload: GFLOP/s of the best so far, per seed and sample; NaN before there is one."""

    name: str
    gflops: tuple[tuple[float, ...], ...]

    def band(self) -> list[tuple[int, float, float, float]]:
        """Returns (sample, least, median, greatest) for each sample at which every seed has a program."""
        columns = enumerate(zip(*self.gflops, strict=False), start=1)
        return [(n, min(c), statistics.median(c), max(c)) for n, c in columns if not any(map(math.isnan, c))]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="*", metavar="NAME=RUN")
    arguments.add_argument("--out", type=Path, default=IMAGE)
    given = arguments.parse_args()
    if given.runs:
        svg = draw(from_runs(given.runs), footnote="")
    else:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
        svg = draw(from_results(record), footnote=footnote(record))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(svg, encoding="utf-8")


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


def draw(panels: dict[str, list[Curve]], *, footnote: str) -> str:
    """Returns the SVG: one panel per workload, side by side, with one legend."""
    names = list(dict.fromkeys(curve.name for curves in panels.values() for curve in curves))
    colours = dict(zip(dict.fromkeys([*_NAMES, *names]), itertools.cycle(_COLOURS), strict=False))
    width = _LEFT + len(panels) * (_WIDTH + _GAP) - _GAP + 16
    top = 40 + _LINE * len(names)
    height = top + _HEIGHT + _BOTTOM + (_LINE if footnote else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        "<title>GFLOP/s of the best program so far, against the samples measured</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_legend(names, colours),
    ]
    for index, (spec, curves) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({_LEFT + index * (_WIDTH + _GAP)},{top})">')
        parts += [*_panel(spec, curves, colours), "</g>"]
    if footnote:
        parts.append(f'<text x="{_LEFT}" y="{height - 10}" fill="#555">{escape(footnote)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(names: Iterable[str], colours: dict[str, str]) -> Iterable[str]:
    for index, name in enumerate(names):
        y = 14 + _LINE * index
        yield f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + 24}" y2="{y}" stroke="{colours[name]}" stroke-width="3"/>'
        yield f'<text x="{_LEFT + 32}" y="{y + 4}">{escape(_NAMES.get(name, name))}</text>'


def _panel(spec: str, curves: Sequence[Curve], colours: dict[str, str]) -> Iterable[str]:
    bands = {curve.name: curve.band() for curve in curves}
    num_samples = max((band[-1][0] for band in bands.values() if band), default=1)
    step = _round_step(max((row[3] for band in bands.values() for row in band), default=1.0) / 4)
    top = step * math.ceil(max((row[3] for band in bands.values() for row in band), default=1.0) / step)

    def x(sample: float) -> str:
        return f"{_WIDTH * (sample - 1) / max(1, num_samples - 1):.1f}"

    def y(gflops: float) -> str:
        return f"{_HEIGHT * (1 - gflops / top):.1f}"

    yield f'<text x="0" y="-14" font-weight="bold">{escape(spec)}</text>'
    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        yield f'<line x1="0" y1="{at}" x2="{_WIDTH}" y2="{at}" stroke="#e4e4e4"/>'
        yield f'<text x="-8" y="{float(at) + 4:.1f}" text-anchor="end" fill="#555">{tick * step:g}</text>'
    for sample in dict.fromkeys([1, *range(_tick(num_samples), num_samples + 1, _tick(num_samples))]):
        yield f'<text x="{x(sample)}" y="{_HEIGHT + 18}" text-anchor="middle" fill="#555">{sample}</text>'
    yield f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT + 36}" text-anchor="middle">samples measured</text>'
    yield f'<g transform="translate(-46,{_HEIGHT / 2:g}) rotate(-90)">'
    yield '<text text-anchor="middle">GFLOP/s of the best so far</text></g>'
    for name, band in bands.items():
        if not band:
            continue
        high, low = ([(n, row[i]) for n, *row in band] for i in (2, 0))
        points = " ".join(f"{x(n)},{y(g)}" for n, g in [*_stairs(high), *reversed(_stairs(low))])
        yield f'<polygon points="{points}" fill="{colours[name]}" fill-opacity="0.15"/>'
        points = " ".join(f"{x(n)},{y(g)}" for n, g in _stairs([(n, median) for n, _, median, _ in band]))
        yield f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'


def _stairs(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns the points of a line that keeps each value until the next sample."""
    corners = ((n, before) for (_, before), (n, _) in itertools.pairwise(points))
    return [points[0], *itertools.chain.from_iterable(zip(corners, points[1:], strict=True))]


def _gflops(best_secs: Sequence[float | None], flops: float) -> tuple[float, ...]:
    return tuple(math.nan if secs is None else flops / secs / 1e9 for secs in best_secs)


def _round_step(value: float) -> float:
    scale = 10 ** math.floor(math.log10(value))
    return scale * next(nice for nice in (1, 2, 5, 10) if nice * scale >= value)


def _tick(num_samples: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 10**6) if num_samples / step <= 8)


if __name__ == "__main__":
    main()

"""Curves with bands against samples, as an SVG."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_COLOURS = ("#0b62a4", "#c8550a", "#8a8a8a", "#5a8f29", "#7a4fa3", "#b8336a", "#2a9d8f", "#8d6e2f")
_WIDTH, _HEIGHT = 400, 250  # of a panel's axes
_LEFT, _GAP, _BOTTOM = 62, 74, 52
_LINE = 18
_COLUMNS, _ROW_GAP = 3, 30  # of panels


@dataclass(frozen=True)
class Curve:
    """One method on one workload: how good its best so far is, per seed and sample; NaN before there is one."""

    name: str
    values: tuple[tuple[float, ...], ...]

    def median_at(self, sample: int) -> float | None:
        """Returns the median over seeds after so many samples, or at a run's end; None while a seed has nothing."""
        values = [line[min(sample, len(line)) - 1] for line in self.values]
        return None if any(map(math.isnan, values)) else statistics.median(values)

    def band(self) -> list[tuple[int, float, float, float]]:
        """Returns (sample, least, median, greatest) for each sample at which every seed has a program."""
        columns = enumerate(zip(*self.values, strict=False), start=1)
        return [(n, min(c), statistics.median(c), max(c)) for n, c in columns if not any(map(math.isnan, c))]


def draw(
    panels: Mapping[str, Sequence[Curve]],
    *,
    title: str,
    axis: str,
    footnote: str = "",
    lines: Mapping[str, tuple[str, float]] | None = None,
) -> str:
    """Returns the SVG: a panel for each workload with one legend for all, medians with bands over the seeds.

    Args:
        panels: the curves, by workload.
        title: of the picture, for those who cannot see it.
        axis: what the values are.
        footnote: where they were measured; may be empty.
        lines: (name, value) of a dashed line across a panel, by workload.
    """
    lines = lines or {}
    named = [curve.name for curves in panels.values() for curve in curves] + [name for name, _ in lines.values()]
    colours = dict(zip(dict.fromkeys(named), itertools.cycle(_COLOURS), strict=False))
    num_columns, num_rows = max(1, min(_COLUMNS, len(panels))), max(1, math.ceil(len(panels) / _COLUMNS))
    width = _LEFT + num_columns * (_WIDTH + _GAP) - _GAP + 16
    top = 40 + _LINE * len(colours)
    row_height = _HEIGHT + _BOTTOM + _ROW_GAP
    height = top + num_rows * row_height - _ROW_GAP + (_LINE if footnote else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f"<title>{escape(title)}, against the samples measured</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_legend(colours),
    ]
    for index, (spec, curves) in enumerate(panels.items()):
        row, column = divmod(index, _COLUMNS)
        parts.append(f'<g transform="translate({_LEFT + column * (_WIDTH + _GAP)},{top + row * row_height})">')
        parts += [*_panel(spec, curves, colours, axis, lines.get(spec)), "</g>"]
    if footnote:
        parts.append(f'<text x="{_LEFT}" y="{height - 10}" fill="#555">{escape(footnote)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(colours: Mapping[str, str]) -> Iterable[str]:
    for index, (name, colour) in enumerate(colours.items()):
        y = 14 + _LINE * index
        yield f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + 24}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{_LEFT + 32}" y="{y + 4}">{escape(name)}</text>'


def _panel(
    spec: str, curves: Sequence[Curve], colours: Mapping[str, str], axis: str, line: tuple[str, float] | None
) -> Iterable[str]:
    bands = {curve.name: curve.band() for curve in curves}
    num_samples = max((band[-1][0] for band in bands.values() if band), default=1)
    highest = max([row[3] for band in bands.values() for row in band] + ([line[1]] if line else []), default=1.0)
    step = _round_step(highest / 4)
    top = step * math.ceil(highest / step)

    def x(sample: float) -> str:
        return f"{_WIDTH * (sample - 1) / max(1, num_samples - 1):.1f}"

    def y(value: float) -> str:
        return f"{_HEIGHT * (1 - value / top):.1f}"

    yield f'<text x="0" y="-14" font-weight="bold">{escape(spec)}</text>'
    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        yield f'<line x1="0" y1="{at}" x2="{_WIDTH}" y2="{at}" stroke="#e4e4e4"/>'
        yield f'<text x="-8" y="{float(at) + 4:.1f}" text-anchor="end" fill="#555">{tick * step:g}</text>'
    for sample in dict.fromkeys([1, *range(_tick(num_samples), num_samples + 1, _tick(num_samples))]):
        yield f'<text x="{x(sample)}" y="{_HEIGHT + 18}" text-anchor="middle" fill="#555">{sample}</text>'
    yield f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT + 36}" text-anchor="middle">samples measured</text>'
    yield f'<g transform="translate(-46,{_HEIGHT / 2:g}) rotate(-90)">'
    yield f'<text text-anchor="middle">{escape(axis)}</text></g>'
    if line is not None:
        name, at = line[0], y(line[1])
        yield f'<line x1="0" y1="{at}" x2="{_WIDTH}" y2="{at}" stroke="{colours[name]}" stroke-dasharray="6 4"/>'
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


def _round_step(value: float) -> float:
    scale = 10 ** math.floor(math.log10(value))
    return scale * next(nice for nice in (1, 2, 5, 10) if nice * scale >= value)


def _tick(num_samples: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 10**6) if num_samples / step <= 8)

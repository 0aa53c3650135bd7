"""Small plots of block characters."""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_compiler.report.units import ratio_text

_UPRIGHT = " ▁▂▃▄▅▆▇█"
_LYING = " ▏▎▍▌▋▊▉█"
_MIN_COLUMNS = 48


def bar(share: float, width: int) -> str:
    """Returns a horizontal bar of up to `width` columns for a share, which is clipped to [0, 1]."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return ("█" * (eighths // 8) + _LYING[eighths % 8]).rstrip()


def curve_lines(points: Sequence[tuple[int, float]], *, width: int, height: int = 6) -> list[str]:
    """Returns a rising step curve from 0 as lines of at most `width` columns, its axes included.

    Args:
        points: (sample, speed-up) in the order of samples, at least one, speed-ups above 0. A column shows
            the last point up to it.
        width: columns, at least 30.
        height: lines of the plot itself.
    """
    top = max(value for _, value in points)
    labels = [ratio_text(top * (height - row) / height) for row in range(height)]
    margin = max(map(len, labels))
    last = points[-1][0]
    num_columns = min(width - margin - 2, max(last + 1, _MIN_COLUMNS))
    heights = []
    for column in range(1, num_columns + 1):
        sample = -((last + 1) * -column // num_columns) - 1
        value = max((v for s, v in points if s <= sample), default=0.0)
        heights.append(round(value / top * height * 8))
    lines = []
    for row in range(height):
        below = (height - 1 - row) * 8
        cells = "".join(_UPRIGHT[min(max(eighths - below, 0), 8)] for eighths in heights)
        lines.append(f"{'' if row % 2 else labels[row]:>{margin}} {'│' if row % 2 else '┤'}{cells}")
    blank = " " * margin
    lines.append(f"{blank} └{'─' * num_columns}")
    lines.append(f"{blank}  0{f'sample {last}':>{num_columns - 1}}")
    return lines

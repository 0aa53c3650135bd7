"""Lines of text for a terminal: wrapped, indented, in tables, and free of what could steer it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

INDENT = "  "
_MIN_NAME_WIDTH = 8


def harmless(line: str) -> str:
    """Returns a line without what could steer a terminal; its spaces stay."""
    return "".join(c if c.isprintable() else " " for c in line)


def printable(text: str) -> str:
    """Returns the text as one line of printable characters: no escape sequence reaches the terminal."""
    return " ".join(harmless(text).split())


def wrap(text: str, width: int, indent: str = "", *, max_lines: int = 4) -> list[str]:
    """Returns a text in lines of at most `width` columns, cut off after `max_lines`."""
    return _filled(printable(text), width, indent, max_lines=max_lines)


def wrap_items(items: Iterable[str], width: int, indent: str) -> list[str]:
    """Returns lines of items behind each other, each kept whole where it fits."""
    glued = (printable(item).replace(" ", "\u00a0") for item in items)
    return [line.replace("\u00a0", " ") for line in _filled("; ".join(glued), width, indent, max_lines=None)]


def _filled(text: str, width: int, indent: str, *, max_lines: int | None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        max_lines=max_lines,
        placeholder=" …",
    )


def table(rows: Sequence[Sequence[str]], *, align: str, width: int) -> list[str]:
    """Returns lines with the cells under each other; `align` has a `<` or `>` for each column."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(align))]
    excess = len(INDENT) * len(widths) + sum(widths) - width
    if excess > 0:
        widths[0] = max(widths[0] - excess, _MIN_NAME_WIDTH)
    lines = []
    for row in cells:
        row[0] = _shortened(row[0], widths[0])
        line = "".join(f"{INDENT}{cell:{side}{w}}" for cell, side, w in zip(row, align, widths, strict=True))
        lines.append(_shortened(line.rstrip(), width))
    return lines


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def count(number: int, noun: str) -> str:
    """Returns so many of something in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""A kernel's TVMScript in as few tokens as it takes to know its loops and what its blocks compute."""

from __future__ import annotations

import math
import re
import textwrap

from reasoning_compiler.proposer.llm.calls import estimate_tokens
from reasoning_compiler.proposer.llm.values import clip

_NOISE = re.compile(
    r"#|@|T\.reads\(|T\.writes\(|T\.func_attr\(|T\.sblock_attr\(|T\.block_attr\(|from |import |class |$", re.ASCII
)
_LOOPS = re.compile(r"\bfor .+? in \w+\(([^)]*)\)")
_BLOCK = re.compile(r"^ *block (\S+):$", re.M)
_NAME_NUMBER = re.compile(r"_\d+(?=\b|_)")
_REMAP = re.compile(r'(\w+(?:, \w+)*) = T\.axis\.remap\("([A-Z]+)", \[(\w+(?:, \w+)*)\]\)')
_MAX_LINE_CHARS = 300
_SPELLED_SHORTER = (
    (re.compile(r'T\.Buffer\(\(([^()]*)\), "(\w+)"\)'), r"\2[\1]"),
    (re.compile(r'T\.(?:sblock_)?alloc_buffer\(\(([^()]*)\)(?:, "(\w+)")?[^()]*\)'), r"buffer \2[\1]"),
    (re.compile(r'with T\.s?block\("([^"]+)"\):'), r"block \1:"),
    (re.compile(r"T\.(?:float|int)\d+\((-?[\d.]+(?:e[+-]?\d+)?)\)"), r"\1"),
    (re.compile(r"\bT\."), ""),
)
_ACCESS = re.compile(r"\b[A-Za-z_]\w*\[[^\[\]]*\]")
_OPERATION = re.compile(r" [-+*/%] | // |\b[A-Za-z_]\w*\(")
_LONG_NUMBER = re.compile(r"\b\d+\.\d{5,}\b|\b\d{16,}\.\d+\b")


def compact(text: str) -> str:
    """Returns the program without what its other lines say already: comments, decorators, reads and writes.

    A block's statement shows what it reads and writes. Block variables that only rename loops take the loops'
    names. Indentation is one space a level; buffers, blocks and constants are spelled shorter.
    """
    lines: list[str] = []
    renamed: dict[str, str] = {}
    renamed_from = 0
    for line in text.splitlines():
        stripped = line.strip()
        if _NOISE.match(stripped):
            continue
        indent = (len(line) - len(line.lstrip())) // 4
        if renamed and indent < renamed_from:
            renamed = {}
        if remap := _REMAP.fullmatch(stripped):
            loops = remap[3].split(", ")
            renamed = dict(zip(remap[1].split(", "), loops, strict=False))
            renamed_from = indent
            stripped = _axes(loops, remap[2])
        elif renamed:
            words = re.split(r"(\w+)", stripped)
            stripped = "".join(renamed.get(word, word) for word in words)
        for long, short in _SPELLED_SHORTER:
            stripped = long.sub(short, stripped)
        stripped = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.6g}", stripped)
        lines.append(" " * indent + (stripped if len(stripped) <= _MAX_LINE_CHARS else _outline(stripped)))
    return textwrap.dedent("\n".join(lines))


def shorten(text: str, max_tokens: int) -> str:
    """Returns the program in at most about `max_tokens` tokens.

    First the lossless part (`compact`). If that is still too long: nests that repeat an earlier one but for
    names become a line each, then those with the fewest iterations; at last the text is cut in the middle.
    """
    text = compact(text)
    if estimate_tokens(text) <= max_tokens:
        return text
    parts = _parts(text)
    seen: dict[str, str] = {}
    for i, part in enumerate(parts):
        if _is_nest(part):
            shape = _NAME_NUMBER.sub("", part)
            if shape in seen:
                parts[i] = _left_out(part, f"like {seen[shape]}")
            else:
                seen[shape] = ", ".join(_BLOCK.findall(part)) or "the loops above"
    by_work = sorted((i for i, part in enumerate(parts) if _is_nest(part)), key=lambda i: _work(parts[i]))
    while estimate_tokens("\n".join(parts)) > max_tokens and len(by_work) > 1:
        i = by_work.pop(0)
        parts[i] = _left_out(parts[i], f"{_work(parts[i]):,} iterations")
    return clip("\n".join(parts), max_tokens * 3)


def _outline(line: str) -> str:
    """Returns a long line in short: of an assignment, what it is made of and how much work it is."""
    result, equals, expression = line.partition(" = ")
    read = dict.fromkeys(access for access in _ACCESS.findall(expression))
    if not equals or not read or len(result) > _MAX_LINE_CHARS // 3:
        return clip(line, _MAX_LINE_CHARS)
    return clip(f"{result} = {len(_OPERATION.findall(expression))} operations on {', '.join(read)}", _MAX_LINE_CHARS)


def _axes(loops: list[str], kinds: str) -> str:
    """Returns the line that says which loops are spatial and which are reductions."""
    named = {"S": "spatial", "R": "reduction"}
    groups: dict[str, list[str]] = {}
    for loop, kind in zip(loops, kinds, strict=False):
        groups.setdefault(kind, []).append(loop)
    return "# " + "; ".join(f"{named.get(kind, kind)} {', '.join(group)}" for kind, group in groups.items())


def _parts(text: str) -> list[str]:
    """Returns the program's lines, with each outermost loop nest as one part."""
    parts: list[str] = []
    nest_indent: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if nest_indent is not None and indent > nest_indent:
            parts[-1] += "\n" + line
            continue
        nest_indent = indent if line.lstrip().startswith("for ") else None
        parts.append(line)
    return parts


def _is_nest(part: str) -> bool:
    return "\n" in part


def _work(part: str) -> int:
    """Returns about how many iterations the innermost loops of a nest make."""
    extents = [int(n) for loops in _LOOPS.findall(part) for n in re.findall(r"\b\d+\b", loops)]
    return math.prod(n for n in extents if n)


def _left_out(part: str, why: str) -> str:
    indent = " " * (len(part) - len(part.lstrip()))
    blocks = ", ".join(_BLOCK.findall(part)) or "loops"
    return f"{indent}# {blocks}: {why}, left out"

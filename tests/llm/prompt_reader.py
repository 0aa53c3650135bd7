"""What a model can know: a prompt's text, read back into machine, loops, decisions and results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = int | str | tuple[int, ...]

_MACHINE = re.compile(
    r"(\d+) cores, .*? \((\d+) float32\), (\d+) vector registers, .*?"
    r"L1d (\d+(?:\.\d+)?) (KB|MB) and L2 (\d+(?:\.\d+)?) (KB|MB) per core"
)
_LOOPS = re.compile(r"Loops of (\S+) when tiled, outermost first: (.*)\.")
_ACCESS = re.compile(r"\b([A-Za-z_]\w*)\[([^\[\]]*)\]")
_TILE = re.compile(r"(\d+) factors, product (\d+)(?:, innermost ≤ (\d+))?")
_ENTRY = re.compile(r'([^=;]+)=(\[[\d,]+\]|-?\d+|"[^"]*")(?:; | \(|$)')
_TOLD = re.compile(r"^node (\d+)(?: \([^)]*\))?: (.*?) -> (.*)$", re.M)
_UNITS = {"ms": 1e-3, "s": 1.0, "KB": 1024, "MB": 1024**2}


@dataclass(frozen=True)
class Choice:
    """One line of the decision table.

    Args:
        kind: "structure", "tile", "choice" or "location".
        now: the present value.
        values: the allowed values, of all but tiles.
        num_factors: of tiles.
        extent: of tiles, the product of the factors.
        limit: of tiles, the largest innermost factor.
    """

    kind: str
    now: Value
    values: tuple[Value, ...] = ()
    num_factors: int = 0
    extent: int = 0
    limit: int = 1 << 30


@dataclass(frozen=True)
class Seen:
    """A prompt, read.

    Args:
        num: how many transformations are asked for.
        cores, lanes, registers, l1_bytes, l2_bytes: of the machine.
        levels: by tiled block, its loops by level, outermost first.
        statements: by block, what it writes and what it reads: (buffer, indices) each, the written one first.
        decisions: the table.
        results: (edits from the present program, seconds) of all that was measured and told; the program itself has
            no edits.
        proposed: edits of those that have not been measured, or failed.
        refused: what is said of proposals that were refused, before or just now.
    """

    num: int = 1
    cores: int = 1
    lanes: int = 8
    registers: int = 16
    l1_bytes: float = 32768.0
    l2_bytes: float = 262144.0
    levels: Mapping[str, list[list[str]]] = field(default_factory=dict)
    statements: Mapping[str, list[tuple[str, str]]] = field(default_factory=dict)
    decisions: Mapping[str, Choice] = field(default_factory=dict)
    results: tuple[tuple[dict[str, Value], float], ...] = ()
    proposed: tuple[dict[str, Value], ...] = ()
    refused: str = ""


def read_prompt(request: Mapping[str, Any]) -> Seen:
    """Returns what a chat-completions request says of the machine, the kernel and the program to transform.

    A request for a repair is read by its first question.
    """
    system, user = (m["content"] for m in request["messages"][:2])
    machine = _MACHINE.search(system)
    assert machine is not None, "the prompt has no machine"
    cores, lanes, registers, l1, l1_unit, l2, l2_unit = machine.groups()
    last = request["messages"][-1]["content"]
    told = _told(user)
    wanted = re.search(r"(?:Propose|Give) (\d+)", last)
    return Seen(
        num=int(wanted[1]) if wanted else 1,
        cores=int(cores),
        lanes=int(lanes),
        registers=int(registers),
        l1_bytes=float(l1) * _UNITS[l1_unit],
        l2_bytes=float(l2) * _UNITS[l2_unit],
        levels={b: [level.split() for level in text.split(" | ")] for b, text in _LOOPS.findall(system)},
        statements=_statements(system),
        decisions=_decisions(user.split("\n\n")[0]),
        results=tuple((edits, secs) for edits, secs in told if secs is not None),
        proposed=tuple(edits for edits, secs in told if secs is None),
        refused=user.partition("REFUSED")[2].partition("\n\n")[0] + (last if last != user else ""),
    )


def _statements(system: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    block = ""
    for line in system.splitlines():
        if match := re.fullmatch(r" *block (\S+):", line):
            block = match[1]
        elif block and re.match(r" *\w+\[[^=]*\] = ", line):
            found[block] = _ACCESS.findall(line)  # the last statement of a block: the first may set sums to zero
    return found


def _decisions(table: str) -> dict[str, Choice]:
    found: dict[str, Choice] = {}
    kind, limit = "", 1 << 30
    for line in table.splitlines()[1:]:
        if not line.startswith("  "):
            kind = line.split(" ")[0].rstrip(":")
            said = re.search(r"innermost ≤ (\d+)", line)
            limit = int(said[1]) if said else 1 << 30
            continue
        name, _, rest = line.strip().partition(": ")
        domain, _, now = rest.rpartition("; now ")
        if kind == "tile":
            match = _TILE.match(domain)
            assert match is not None, line
            own = int(match[3]) if match[3] else limit
            found[name] = Choice(kind, _value(now), (), int(match[1]), int(match[2]), own)
        elif kind == "structure":
            values = re.findall(r'(?:^|\| )"([^"]*)"', domain)
            found[name] = Choice(kind, now.strip('"'), tuple(values))
        else:
            listed = re.sub(r"\([^)]*\)", "", domain.removeprefix("one of ")).split(",")
            found[name] = Choice(kind, _value(now), tuple(_value(v.strip()) for v in listed))
    return found


def _told(user: str) -> list[tuple[dict[str, Value], float | None]]:
    """Returns the edits of each program that is told of, and its seconds, if they are."""
    told: list[tuple[dict[str, Value], float | None]] = []
    for number, text, outcome in _TOLD.findall(user):
        secs = re.match(r"([\d.e+]+) (ms|s) measured", outcome)
        own = "this program" in user.split(f"node {number}", 1)[1][:14]
        told_as_path = "whole program" in text or "untuned" in text or "→" in text
        if own or not told_as_path:
            edits = {} if own or text == "the same decisions" else {n: _value(v) for n, v in _ENTRY.findall(text)}
            told.append((edits, float(secs[1]) * _UNITS[secs[2]] if secs else None))
    return told


def _value(text: str) -> Value:
    if text.startswith("["):
        return tuple(int(part) for part in text.strip("[]").split(","))
    return int(text) if re.fullmatch(r"-?\d+", text) else text.strip('"')

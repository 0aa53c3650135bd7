"""Writes docs/transformations.md from the language itself (`reasoning_compiler.core.primitives`).

python docs/generate_transformations.py
"""

from __future__ import annotations

import json
from pathlib import Path

from reasoning_compiler.core.primitives import (
    DECISION_MEANINGS,
    KIND_MEANINGS,
    MAX_PRIMITIVES,
    SIGNATURES,
    Primitive,
    Signature,
)

PAGE = Path(__file__).parent / "transformations.md"

INTRODUCTION = """\
# Transformations

<!-- Written by docs/generate_transformations.py from the code; do not edit. -->

A transformation is an edge of the search tree: it turns one program into another. It has two parts, and either may be
empty:

- `edits` set [decisions](#decisions) by name;
- `primitives` are [schedule primitives](#primitives) of TVM, applied in order after the decisions.

A [language model](language-models.md) writes both, the [journal](file-formats.md) stores both, and in Python they look
like this:

"""

PYTHON = """\
```text
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, Transformation

tiled = Transformation((("C.i tile", (16, 4, 1, 8)), ("unroll", 16)))
split = Transformation((), primitives=(Primitive("split", ("C.k_1", (None, 4))), Primitive("unroll", ("C.k_1_1",))))
program = space.edit(space.edit(UNTUNED, tiled), split)
```

Every transformation is checked. An illegal one is refused with a reason and costs nothing. A legal one is built, timed
and verified like every other program.

## Decisions

Each decision of a program has a name, a kind, a domain and a value. The name begins with the block. The kinds are:

| kind | a value is |
|---|---|
"""

PRIMITIVES = """\
[how-it-works.md](how-it-works.md#the-space) explains where decisions come from.

## Primitives

Primitives do what no decision can. A program has at most {most} of them. They follow the decisions and precede
MetaSchedule's postprocessors, which then parallelize, vectorize and unroll what is left. When a later transformation
changes a decision, the primitives are applied again, and those that no longer fit are dropped. A program stores its
primitives as applied, with all arguments filled in.

Blocks, loops and buffers have the names that the program shows after its decisions and earlier primitives. A loop is
named with its block, such as `C.k_1`. In JSON, a primitive is a list of its name and arguments:
`["split", "C.k_1", [null, 4]]`. In the examples below, block `C` reads the buffers `A` and `B`.

Language models use primitives, and the expert does where its analysis clearly favours them (scalar reductions). Random
proposals and the paper's preset do not.

"""

ARGUMENTS = """\
## Arguments

| kind | |
|---|---|
"""


def page() -> str:
    """Returns the whole page."""
    lines = [INTRODUCTION + PYTHON.rstrip()]
    lines += [f"| {kind} | {meaning} |" for kind, meaning in DECISION_MEANINGS.items()]
    lines += ["", PRIMITIVES.format(most=MAX_PRIMITIVES).rstrip(), ""]
    lines += [_section(signature) for signature in SIGNATURES.values()]
    lines += [ARGUMENTS.rstrip()]
    lines += [f"| {kind} | {meaning} |" for kind, meaning in KIND_MEANINGS.items()]
    return "\n".join(lines) + "\n"


def _section(signature: Signature) -> str:
    example = Primitive(signature.name, signature.example)
    made = f" Makes {signature.makes}." if signature.makes else ""
    return "\n".join(
        [
            f"### {signature.name}",
            "",
            f"`{signature}`: {signature.does}{made}",
            "",
            f"`{json.dumps(example.to_json())}` is described as “{example.words}”:",
            "",
            "```text",
            *_side_by_side(signature.before.splitlines(), signature.after.splitlines()),
            "```",
            "",
        ]
    )


def _side_by_side(before: list[str], after: list[str]) -> list[str]:
    width = max(map(len, before))
    rows = max(len(before), len(after))
    padded = [(lines + [""] * rows)[:rows] for lines in (before, after)]
    arrows = ["→", *[" "] * (rows - 1)]
    return [f"{b:{width}}  {arrow}  {a}".rstrip() for b, arrow, a in zip(padded[0], arrows, padded[1], strict=True)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

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

A transformation is one edge of the search tree: it says what changes from a program to the next. It has two parts, and
either may be empty:

- `edits` set [decisions](#decisions), which the rules of the space leave open, by name;
- `primitives` are [schedule primitives](#primitives) of TVM's, applied to what comes out of the decisions, in order.

A language model writes both (see [language-models.md](language-models.md)), a journal keeps both (see
[file-formats.md](file-formats.md)), and from Python they are written like this:

"""

PYTHON = """\
```text
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, Transformation

tiled = Transformation((("C.i tile", (16, 4, 1, 8)), ("unroll", 16)))
split = Transformation((), primitives=(Primitive("split", ("C.k_1", (None, 4))), Primitive("unroll", ("C.k_1_1",))))
program = space.edit(space.edit(UNTUNED, tiled), split)
```

Every transformation is checked. What does not fit is refused with a line that says why and what there is, and costs
nothing; what fits is built, timed and verified against the untuned program's results like every other program.

## Decisions

The table of a program has a row for each decision: its name, its kind, its domain and its present value. Names begin
with the block's. What each kind of value says:

| kind | a value is |
|---|---|
"""

PRIMITIVES = """\
How the table comes about is told in [how-it-works.md](how-it-works.md#the-space-decisions-with-names).

## Primitives

They are for what no decision can say. A program has at most {most} of them. They come after the decisions and before
MetaSchedule's postprocessors, which then make parallel, vectorize and unroll what nobody has decided about. When a
later transformation changes a decision, the program's primitives are applied again, and those that no longer fit are
left out: what a program has is what was applied, with every argument filled in.

Blocks, loops and buffers are named as the program shows them after its decisions, or as primitives before made them. A
loop is named with its block, as `C.k_1`. In JSON, a primitive is a list of its name and its arguments:
`["split", "C.k_1", [null, 4]]`. In the examples below, block `C` reads the buffers `A` and `B`.

Who uses them: a language model, which is told their names; and the expert, where its analysis favours them much (sums
that run scalar). Random proposals have none. The paper's preset has none either, as in the paper.

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
            f"`{json.dumps(example.to_json())}` is told as “{example.words}”:",
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

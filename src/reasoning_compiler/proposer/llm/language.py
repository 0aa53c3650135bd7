"""What a prompt says of schedule primitives: signatures, a worked example, the loops and buffers they may name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from reasoning_compiler.core.primitives import KIND_MEANINGS, MAX_LANES, MAX_UNROLLED, SIGNATURES, Primitive

if TYPE_CHECKING:
    from reasoning_compiler.space.named import NamedBlock

_RULES = """\
PRIMITIVES, for "then" beside "edits", for what decisions cannot say: TVM schedule primitives, applied in order after \
the decisions and before the compiler's own fusing, parallelizing, vectorizing and unrolling. The steps that a program \
has stay; yours come after them. Factors need not divide a loop: a condition guards the rest."""


def language_text(example: Sequence[Primitive]) -> str:
    """Returns the reference of the primitives, with an example that this kernel takes; there may be none."""
    lines = [_RULES]
    for signature in SIGNATURES.values():
        lines.append(f"{signature}" + (f" makes {signature.makes}" if signature.makes else ""))
    kinds = dict.fromkeys(p.kind for s in SIGNATURES.values() for p in s.parameters)
    lines.append("Arguments: " + "; ".join(f"{kind}: {KIND_MEANINGS[kind]}" for kind in kinds) + ".")
    lines.append(f"At most {MAX_LANES} iterations are vectorized and {MAX_UNROLLED} unrolled.")
    if example:
        lines.append(f'Example, on the start program: "then": {json.dumps([step.to_json() for step in example])}')
    return "\n".join(lines)


def worked_example(
    blocks: Sequence[NamedBlock], accepts: Callable[[tuple[Primitive, ...]], bool]
) -> tuple[Primitive, ...]:
    """Returns steps in a kernel's own names that it takes: a buffer packed and loops reordered, or a loop split.

    Args:
        blocks: of the start program.
        accepts: whether the start program takes steps.
    """
    for block in sorted(blocks, key=lambda block: -block.iterations):
        inner = [f"{block.name}.{loop.name}" for loop in block.loops if loop.extent > 1][-2:]
        for buffer, dimensions in zip(block.reads, block.dimensions, strict=True):
            if len(dimensions) < 2 or not all(dimensions):
                continue
            read = Primitive("cache_read", (block.name, buffer, "global"))
            turned = (*dimensions[1:], dimensions[0])
            laid_out = Primitive("transform_layout", (block.name, f"{buffer}_global", turned))
            swapped = (Primitive("reorder", (tuple(reversed(inner)),)),) if len(inner) == 2 else ()
            for steps in ((read, laid_out, *swapped), (read, laid_out)):
                if accepts(steps):
                    return steps
        if inner:
            steps = (Primitive("split", (inner[-1], (None, 2))), Primitive("unroll", (f"{inner[-1]}_1",)))
            if accepts(steps):
                return steps
    return ()


def loops_text(blocks: Iterable[NamedBlock], num_steps: int) -> str:
    """Returns the loops and buffers that further primitives may name, a line for each block.

    Loops of one iteration are not worth their tokens.
    """
    lines = []
    for block in blocks:
        loops = ", ".join(f"{x.name}{'*' if x.reduces else ''} {x.extent}" for x in block.loops if x.extent != 1)
        lines.append(f"  {block.name} (reads {', '.join(block.reads) or 'nothing'}; writes {block.writes}): {loops}")
    after = f"after its {num_steps} steps" if num_steps > 1 else "after its step" if num_steps else "without any step"
    return f"LOOPS of this program {after}, before the compiler's own (* reduces)\n" + "\n".join(lines) if lines else ""


def steps_text(primitives: Sequence[Primitive]) -> str:
    """Returns a program's steps with their numbers."""
    told = "; ".join(f"{number}. {step}" for number, step in enumerate(primitives, 1))
    return f"steps after them, which stay: {told}"

"""What a large language model answered in November 2026, read and applied again: which wishes are refused today.

The recordings are of three runs: 75 proposals, of which 27 were refused then, for spellings, names, limits and reasons
that TVM gave.
"""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("tvm")

import tvm

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.proposer.llm.answer import parse_answer
from reasoning_compiler.proposer.llm.language import worked_example
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.space.space import Space

pytestmark = pytest.mark.tvm

RECORDED = json.loads(lzma.decompress((Path(__file__).parent / "recorded" / "answers.json.xz").read_bytes()))

STILL_REFUSED = {
    # `compute_rf` reads the maximum too, and stands outside of the loop into which the maximum is to be moved.
    ("logsoftmax", 5, 0): "move it first",
    # The run took this one: the moved sums lost the condition of the last block, and the program read beyond its input
    # and crashed.
    ("logsoftmax", 6, 1): "would lose the condition",
    # The program at hand has the loop split by other factors.
    ("logsoftmax", 9, 0): "makes one loop of it again",
    ("logsoftmax", 9, 1): "makes one loop of it again",
}
"""Of each kernel's answers and their proposals, by number: the refusals that are left, and what they say."""


@dataclass(frozen=True)
class Wish:
    """A proposal of a recorded answer.

    Args:
        base: the program that it was made for.
        transformation: as it is read today; None where it cannot be.
        was: why it was refused then; empty where it was taken.
        why: why it is refused today; empty where it is taken.
    """

    base: Program
    transformation: Transformation | None
    was: str
    why: str


@cache
def space(kernel: str) -> Space:
    mod = tvm.ir.load_json(json.dumps(RECORDED["kernels"][kernel]["module"]))
    target = tvm.target.Target(RECORDED["target"])
    return Space(mod, target, rules=rules_for(mod, target, stream_bytes=RECORDED["l2_bytes"]))


@cache
def wishes() -> dict[tuple[str, int, int], Wish]:
    """Returns the recorded proposals by kernel, answer and position in it."""
    found = {}
    for kernel, recorded in RECORDED["kernels"].items():
        programs = {int(node): Program.from_json(program) for node, program in recorded["programs"].items()}
        for number, exchange in enumerate(recorded["exchanges"]):
            base = programs[exchange["node"]]
            table = space(kernel).table(base)
            items = parse_answer(exchange["answer"], table, allow_unchanged=base.is_untuned).items
            for position, (item, was) in enumerate(zip(items, exchange["refused"], strict=True)):
                made = item.transformation
                why = item.why if made is None else space(kernel).why_not(base, made) or ""
                found[kernel, number, position] = Wish(base, made, was, why)
    return found


def test_what_was_refused_for_names_spellings_arguments_and_limits_is_taken() -> None:
    assert len(wishes()) == 75 and sum(bool(wish.was) for wish in wishes().values()) == 27
    refused = {key: wish.why for key, wish in wishes().items() if wish.why}
    assert refused.keys() == STILL_REFUSED.keys(), refused
    for key, words in STILL_REFUSED.items():
        assert words in refused[key]


def test_the_step_that_a_refusal_names_makes_the_wish_work() -> None:
    helped = 0
    for (kernel, _, _), wish in wishes().items():
        for start in ("move it first, ", "it was split, and "):
            if start not in wish.why or wish.transformation is None:
                continue
            name, *arguments = json.JSONDecoder().raw_decode(wish.why.partition(start)[2])[0]
            step = Primitive(name, tuple(tuple(a) if isinstance(a, list) else a for a in arguments))
            steps = json.dumps([primitive.to_json() for primitive in wish.transformation.primitives])
            if name == "fuse":
                old, new = arguments[0][0].removesuffix("_0"), wish.why.rpartition("again, `")[2].rstrip("`")
                steps = re.sub(re.escape(old) + '(?=["_])', new, steps)
            steps = [Primitive.from_json(each) for each in json.loads(steps)]
            then = replace(wish.transformation, primitives=(step, *steps))
            assert space(kernel).why_not(wish.base, then) is None
            helped += 1
    assert helped == 3


@pytest.mark.parametrize("kernel", RECORDED["kernels"])
def test_the_prompts_example_is_one_that_each_kernel_takes(kernel: str) -> None:
    made = space(kernel)

    def accepts(steps: tuple[Primitive, ...]) -> bool:
        return made.why_not(UNTUNED, Transformation((), primitives=steps)) is None

    example = worked_example(made.named_blocks(UNTUNED), accepts)
    assert [step.name for step in example] == ["cache_read", "transform_layout", "reorder"]
    assert made.edit(UNTUNED, Transformation((), primitives=example)).primitives

"""The rule that pads what no good tile divides, on convolutions: where it is offered, and that it keeps the meaning."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import tvm_ffi

from fresh_process import schedule_hash
from gemm_nest import machine
from reasoning_compiler import codegen
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.space import Space
from space_kernels import Kernel, depthwise, make, make_inputs, te, topi, tvm
from test_packed_contraction import output, space_of
from test_padded_contraction import AsItIs, space_for
from test_proposers import of_root

pytestmark = pytest.mark.tvm


def conv(
    sizes: tuple[int, ...], ci: int, co: int, *, window: int = 3, stride: int = 1, dilation: int = 1, relu: bool = False
) -> Kernel:
    """A convolution over one, two or three dimensions, channels last, with constant weights and zeros around."""
    pad = dilation * (window // 2)
    x = te.placeholder((1, *sizes, ci), name="X")
    w = te.placeholder((*[window] * len(sizes), ci, co), name="W")
    made = {1: topi.nn.conv1d_nwc, 2: topi.nn.conv2d_nhwc, 3: topi.nn.conv3d_ndhwc}[len(sizes)]
    y = made(x, w, stride, pad, dilation, *([1] if len(sizes) == 3 else []))

    def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        around = np.pad(x, ((0, 0), *[(pad, pad)] * len(sizes), (0, 0)))
        counts = [(size + 2 * pad - dilation * (window - 1) - 1) // stride + 1 for size in sizes]
        found = 0
        for at in itertools.product(range(window), repeat=len(sizes)):
            starts = [dilation * each for each in at]
            spans = [slice(a, a + stride * (c - 1) + 1, stride) for a, c in zip(starts, counts, strict=True)]
            found = found + around[(slice(None), *spans)] @ w[at]
        return np.maximum(found, 0) if relu else found

    return make([x, w, topi.nn.relu(y) if relu else y], reference, weights=(1,))


@cache
def space(*sizes: int) -> Space:
    return space_for(conv(sizes, 5, 40).mod)


def site(made: Space) -> str:
    return next((d.name for d in made.table(UNTUNED) if d.name.endswith(" padding")), "")


def offered(made: Space) -> tuple[str, ...]:
    return next((tuple(map(str, d.domain.values)) for d in made.table(UNTUNED) if d.name == site(made)), ())


def padded(made: Space, label: str, *, registers: bool = True) -> Program:
    block = site(made).removesuffix(" padding")
    contraction = ((f"{block} contraction", IN_REGISTERS),) if registers else ()
    return made.edit(UNTUNED, Transformation(((site(made), label), *contraction)))


@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [
        (17, 64, ("xx from 17 to 18",)),
        (73, 64, ("xx from 73 to 76", "xx from 73 to 78")),
        (14, 72, ("ff from 72 to 80",)),
        (14, 24, ("ff from 24 to 32",)),  # two vectors in place of three of half the width
        (17, 40, ("xx from 17 to 18", "ff from 40 to 48", "xx from 17 to 18, ff from 40 to 48")),
        (14, 64, ()),
        (13, 64, ()),
        (7, 64, ()),
        (2, 64, ()),
    ],
)
def test_it_is_offered_where_no_good_tile_divides(size: int, channels: int, expected: tuple[str, ...]) -> None:
    assert offered(space_for(conv((size, size), 4, channels).mod))[1:] == expected


def test_what_it_cannot_pad_is_left_as_it_is() -> None:
    x, w = te.placeholder((1, 14, 14, 40), name="X"), te.placeholder((3, 3, 10, 40), name="W")
    grouped = make([x, w, topi.nn.group_conv2d_nhwc(x, w, 1, 1, 1, 4)], lambda x, w: x, weights=(1,))
    assert offered(space_for(grouped.mod)) == (), "each group of columns has rows of its own"
    assert offered(space_for(depthwise(17, 20).mod)) == ()


KERNELS = {
    "plain": lambda: conv((17, 17), 6, 24),
    "strided": lambda: conv((33, 34), 3, 24, window=5, stride=2, relu=True),
    "dilated": lambda: conv((19, 17), 5, 16, dilation=2),
    "pointwise": lambda: conv((17, 19), 7, 20, window=1),
    "1d": lambda: conv((37,), 6, 40),
    "3d": lambda: conv((3, 1, 17), 4, 17),
}


@pytest.mark.parametrize("name", KERNELS)
def test_random_programs_on_odd_shapes_keep_the_meaning(name: str) -> None:
    kernel, rng = KERNELS[name](), np.random.default_rng(len(name))
    made, inputs = space_of(kernel.mod), make_inputs(kernel, 1)
    expected = kernel.reference(*inputs)
    labels = offered(made)[1:]
    assert labels and not labels[0].startswith("ff"), "this width has no good tile"
    for label in dict.fromkeys([labels[0], labels[-1]]):
        program = padded(made, label, registers=bool(rng.integers(4)))
        for _ in range(6):
            change = mutate(made.table(program), rng)
            try:
                program = made.edit(program, change) if change is not None else program
            except IllegalProgramError:
                continue
        np.testing.assert_allclose(output(made, program, inputs), expected, rtol=1e-4, atol=1e-4)


def test_no_patches_and_no_padded_results_are_in_memory() -> None:
    made = space(17, 17)
    for label in offered(made)[1:]:
        allocated = made.schedule(padded(made, label)).mod["main"].body.block.alloc_buffers
        shapes = {b.name: tuple(map(int, b.shape)) for b in allocated if b.scope() != "local"}
        assert shapes.pop("pad_temp") == (1, 19, 19, 5) and all(name.startswith("W_") for name in shapes)


def test_padded_rows_read_the_last_row_that_counts() -> None:
    made = space(17, 17)
    text = codegen.rewritten(made.schedule(padded(made, "xx from 17 to 18")).mod).script()
    assert "T.min(v_xx, 16) + v_rx" in text and "v_xx < 17" not in text
    assert "v_xx < 17" in made.raw_schedule(padded(made, "xx from 17 to 18")).mod.script()


def test_its_trace_replays_in_plain_tvm() -> None:
    kernel = conv((17, 17), 5, 40)
    made, inputs = space_of(kernel.mod), make_inputs(kernel, 1)
    program = padded(made, offered(made)[-1])
    raw, whole = tvm.s_tir.Schedule(made.mod), tvm.s_tir.Schedule(made.mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), raw)
    assert tvm_ffi.structural_equal(raw.mod, made.raw_schedule(program).mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.schedule(program).trace.as_json(), whole)
    found = output(AsItIs(made.target, whole), UNTUNED, inputs)
    np.testing.assert_allclose(found, kernel.reference(*inputs), rtol=1e-4, atol=1e-4)


def test_a_record_replays_in_a_fresh_process() -> None:
    program = padded(space(17, 17), offered(space(17, 17))[-1])
    there = schedule_hash(program, __name__, "space(17, 17)")
    assert there == tvm_ffi.structural_hash(space(17, 17).schedule(program).mod)


@pytest.mark.parametrize(("size", "channels", "label"), [(73, 96, "xx from 73 to 7"), (27, 72, "ff from 72 to 80")])
def test_the_expert_pads_and_says_why(size: int, channels: int, label: str) -> None:
    made = space_for(conv((size, size), 64, channels).mod)
    first = Expert(made, machine()).propose(of_root(made), 4, np.random.default_rng(0)).transformations[0]
    assert dict(first.edits)["conv2d_nhwc padding"].startswith(label)
    assert "No good tile divides" in first.reasoning

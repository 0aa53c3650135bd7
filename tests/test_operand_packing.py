"""The rule that packs an operand in each call: where it is offered, what it computes, how it is priced and told."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm_ffi

from fresh_process import schedule_hash
from gemm_nest import machine
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.space import Space
from space_kernels import Kernel, attention, batched_matmul, conv2d, gemm, make, make_inputs, tvm
from test_packed_contraction import output, space_of
from test_padded_contraction import space_for
from test_proposers import of_root

pytestmark = pytest.mark.tvm


def given(kernel: Kernel) -> Kernel:
    """Returns the kernel with no constants: all operands are given in each call."""
    return Kernel(tvm.IRModule({"main": kernel.mod["main"].without_attr("layout_free_buffers")}), kernel.reference)


KERNELS = {
    "plain": lambda: given(gemm(48, 224, 150)),
    "odd rows": lambda: given(gemm(53, 208, 170)),
    "odd columns of eight": lambda: given(gemm(34, 360, 96)),
    "relu": lambda: given(gemm(36, 192, 175, relu=True)),
    "transposed": lambda: given(gemm(40, 224, 147, transposed=True)),
    "batched": lambda: batched_matmul(3, 33, 112, 100),
    "conv": lambda: given(conv2d(7, 64, 64)),
}


@cache
def kernel(name: str) -> Kernel:
    return KERNELS[name]()


@cache
def space(name: str) -> Space:
    return space_of(kernel(name).mod)


def site(made: Space) -> tuple[str, str] | None:
    """Returns the first site at which an operand may be packed, with that alternative."""
    found = (d for d in made.table(UNTUNED) if d.name.endswith(" packing"))
    return next(((d.name, str(d.domain.values[-1])) for d in found), None)


def packed(made: Space, *edits: tuple[str, Any]) -> Program:
    chosen = site(made)
    assert chosen is not None
    return made.edit(UNTUNED, Transformation((chosen, *edits)))


def in_registers(made: Space) -> tuple[tuple[str, str], ...]:
    table = made.table(UNTUNED)
    return tuple((d.name, IN_REGISTERS) for d in table if IN_REGISTERS in getattr(d.domain, "values", ()))


@pytest.mark.parametrize(
    ("made", "is_offered"),
    [
        (lambda: given(gemm(32, 256, 128)), True),
        (lambda: gemm(32, 256, 128), False),  # a constant is packed ahead of time
        (lambda: given(gemm(31, 256, 128)), False),  # few rows
        (lambda: given(gemm(64, 128, 128)), False),  # it is in the cache
        (lambda: given(gemm(32, 257, 128)), False),  # columns that are padded are copied anyway
        (lambda: batched_matmul(4, 64, 64, 128), True),
        (lambda: attention(8, 64, 128), False),  # has a rule of its own
    ],
)
def test_it_is_offered_where_many_rows_share_a_large_argument(made: Any, is_offered: bool) -> None:
    assert (site(space_for(made().mod)) is not None) == is_offered


@pytest.mark.parametrize("name", KERNELS)
def test_random_programs_keep_the_meaning(name: str) -> None:
    made, rng, inputs = space(name), np.random.default_rng(2), make_inputs(kernel(name), 1)
    expected = kernel(name).reference(*inputs)
    for registers in (False, True):
        program = packed(made, *(in_registers(made) if registers else ()))
        for _ in range(5):
            change = mutate(tuple(d for d in made.table(program) if d.kind != "structure"), rng)
            if change is not None and made.why_not(program, change) is None:
                program = made.edit(program, change)
        np.testing.assert_allclose(output(made, program, inputs), expected, rtol=1e-3, atol=1e-3)


def test_the_copy_has_the_order_in_which_it_is_read_and_is_written_in_vectors() -> None:
    made = space("plain")
    tiles = ("C.i tile", (4, 2, 6)), ("C.j tile", (7, 1, 32)), ("C.k tile", (15, 10))
    main = made.schedule(packed(made, *in_registers(made), *tiles)).mod["main"]
    shapes = {b.name: tuple(map(int, b.shape)) for b in main.body.block.alloc_buffers}
    assert shapes["B_global"] == (7, 15, 10, 32)
    copy, _ = made.nests(packed(made, *in_registers(made), *tiles))[:2]
    assert copy.block == "B_global" and copy.loops[0].kind == "parallel" and copy.loops[-1].kind == "vectorized"
    assert all(access.stride(len(copy.loops) - 1) == 1 for access in copy.accesses)


def test_traces_replay_in_plain_tvm() -> None:
    for name in ("plain", "odd rows"):
        made = space(name)
        program = packed(made, *in_registers(made))
        for schedule in (made.raw_schedule(program), made.schedule(program)):
            replayed = tvm.s_tir.Schedule(made.mod)
            tvm.s_tir.Trace.apply_json_to_schedule(schedule.trace.as_json(), replayed)
            assert tvm_ffi.structural_equal(replayed.mod, schedule.mod)


def test_a_record_replays_in_a_fresh_process() -> None:
    made = space_for(kernel("plain").mod)
    program = packed(made, *in_registers(made), ("C.i tile", (4, 2, 6)), ("C.j tile", (7, 1, 32)))
    there = schedule_hash(program, __name__, "space_for(kernel('plain').mod)")
    assert there == tvm_ffi.structural_hash(made.schedule(program).mod)


@pytest.mark.parametrize(("rows", "pays"), [(32, False), (2048, True)])
def test_the_expert_packs_where_rows_pay_for_it(rows: int, pays: bool) -> None:
    made = space_for(given(gemm(rows, 2048, 2048)).mod)
    first, *others = Expert(made, machine()).propose(of_root(made), 4, np.random.default_rng(0)).transformations
    assert ("C packing" in dict(first.edits)) == pays
    assert ("Each call copies B into the order in which it is read" in first.reasoning) == pays
    assert any("C packing" not in dict(other.edits) for other in others)


def test_the_copy_is_priced() -> None:
    made = space_for(given(gemm(64, 2048, 1024)).mod)
    with_copies = [group for group in made.tile_groups if group.packed]
    assert len(with_copies) == len(made.tile_groups) / 2
    for group in with_copies:
        assert [copy.block for copy in group.copies] == ["B_global"] and dict(group.needs).keys() >= {"C packing"}


def test_a_part_of_an_operand_is_left_alone() -> None:
    a, b = tvm.te.placeholder((64, 512), name="A"), tvm.te.placeholder((512, 113), name="B")
    k = tvm.te.reduce_axis((0, 512), "k")
    c = tvm.te.compute((64, 96), lambda i, j: tvm.te.sum(a[i, k] * b[k, j], axis=k), name="C")
    assert site(space_for(make([a, b, c], lambda x, y: x @ y[:, :96]).mod)) is None

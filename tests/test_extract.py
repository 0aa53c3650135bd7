"""Loop nests as read from scheduled modules, against what was counted by hand."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest

from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.ir.affine import Affine, Digit
from reasoning_compiler.ir.extract import nests
from reasoning_compiler.ir.nest import Access, Loop, Nest
from reasoning_compiler.space.space import Space
from space_kernels import KERNELS, attention, conv2d, gemm, gemm_vnni, softmax, te, tvm

pytestmark = pytest.mark.tvm


@cache
def space(name: str) -> Space:
    mcpu = {"vnni": "cascadelake"}.get(name, "skylake-avx512")
    made = {"gemm": gemm, "vnni": gemm_vnni, "conv2d": conv2d, "softmax": softmax, "attention": attention}[name]()
    return Space(made.mod, tvm.target.Target({"kind": "llvm", "mcpu": mcpu, "num-cores": 2}))


def edited(name: str, **edits: Any) -> tuple[Nest, ...]:
    """Returns the nests of the start program with edits, whose names come with `_` for what no keyword can hold."""
    made = space(name)
    names = {"".join(c if c.isalnum() else "_" for c in d.name): d.name for d in made.table(UNTUNED)}
    return made.nests(made.edit(UNTUNED, Transformation(tuple((names[n], v) for n, v in edits.items()))))


def block(found: tuple[Nest, ...], name: str) -> Nest:
    (nest,) = (nest for nest in found if nest.block == name)
    return nest


def access(nest: Nest, buffer: str) -> Access:
    (found,) = (a for a in nest.accesses if a.buffer == buffer)
    return found


def lone(expression: Any, *, size: int = 8, dtype: str = "float32") -> Nest:
    """Returns the nest of an elementwise block over one argument."""
    x = te.placeholder((size,), dtype, name="X")
    y = te.compute((size,), lambda i: expression(x[i]), name="Y")
    func = te.create_prim_func([x, y]).with_attr("global_symbol", "main")
    (nest,) = nests(tvm.IRModule({"main": func}))
    return nest


def test_a_tiled_product() -> None:
    found = edited("gemm", C_i_tile=(4, 2, 1, 4), C_j_tile=(2, 1, 1, 16), C_k_tile=(8, 4), unroll=64)
    assert [nest.block for nest in found] == ["C_init", "C_update"]  # the packing of B is done ahead of time

    nest = block(found, "C_update")
    assert [(loop.name, loop.extent, loop.kind, loop.reduces) for loop in nest.loops] == [
        ("i_0_j_0_i_1_j_1_fused", 16, "parallel", False),
        ("k_0", 8, "serial", True),
        ("i_2", 1, "serial", False),
        ("j_2", 1, "serial", False),
        ("k_1", 4, "serial", True),
        ("i_3", 4, "serial", False),
        ("j_3_fused", 16, "vectorized", False),
    ]
    assert (nest.flops, nest.scalar_calls, nest.unroll_limit, nest.tiling) == (2, 0, 64, "SSRSRS")
    assert nest.iterations == 32 * 32 * 32

    # i = (i_0 * 2 + i_1) * 4 + i_3 of the fused i_0 (4), j_0 (2), i_1 (2), j_1 (1)
    a, b, c = access(nest, "A"), access(nest, "B_global"), access(nest, "C")
    assert (a.shape, a.item_bytes, a.region, a.writes, a.external) == ((32, 32), 4, (1, 1), False, True)
    assert a.steps[1] == (0, 4, 0, 0, 1, 0, 0)
    assert a.steps[0] == (4, 0, 4, 0, 0, 1, 0)  # the fused loop's next iteration is i_1's
    assert (c.writes, c.external, c.steps[1][1:]) == (True, True, (0, 0, 16, 0, 0, 1))
    assert (b.external, b.shape[-1]) == (True, 16)  # B[k, j] packed as the innermost tile reads it: an argument by then
    assert b.stride(6) == 1
    assert [x.buffer for x in nest.accesses] == ["C", "A", "B_global"]


def test_the_untuned_program_is_read_as_it_stands() -> None:
    (nest,) = nests(gemm(2, 3, 4).mod)
    assert nest.loops == (
        Loop("i", 2, "serial", False, id=nest.loops[0].id),
        Loop("j", 3, "serial", False, id=nest.loops[1].id),
        Loop("k", 4, "serial", True, id=nest.loops[2].id),
    )
    assert [(a.buffer, a.shape, a.steps) for a in nest.accesses] == [
        ("C", (2, 3), ((1, 0, 0), (0, 1, 0))),
        ("A", (2, 4), ((1, 0, 0), (0, 0, 1))),
        ("B", (4, 3), ((0, 0, 1), (0, 1, 0))),
    ]
    assert nest.tiling == "" and nest.unroll_limit == 0


def test_a_convolution_reads_its_padding_where_window_and_position_meet() -> None:
    found = edited("conv2d", conv2d_nhwc_yy_tile=(4, 1, 2, 1), pad_temp_at=1)
    nest = block(found, "conv2d_nhwc_update")
    steps = {loop.name: [dim[i] for dim in access(nest, "pad_temp").steps] for i, loop in enumerate(nest.loops)}
    assert steps["yy_2"] == steps["ry_0"] == [0, 1, 0, 0]
    assert steps["rx_0"] == [0, 0, 1, 0]
    assert steps["rc_0"] == [0, 0, 0, 1]

    pad = block(found, "pad_temp")
    common = [a.id == b.id for a, b in zip(pad.loops, nest.loops, strict=False)].index(False)
    assert common == 1  # loops nn_0 and yy_0, fused into one
    assert access(pad, "pad_temp").shared == access(nest, "pad_temp").shared == common
    assert access(nest, "conv2d_nhwc").shared == 0  # an argument
    assert not access(pad, "pad_temp").external and access(pad, "X").external


def test_divisions_and_remainders_of_fused_loops_are_resolved() -> None:
    nest = block(space("softmax").nests(space("softmax").start), "T_softmax_exp")
    assert [(loop.extent, loop.kind) for loop in nest.loops] == [(8, "parallel"), (64, "vectorized")]
    # [(f0 * 64 + f1) // 32, (f0 * 64 + f1) % 32] of 16 x 32 elements
    assert access(nest, "X").steps == ((2, 1 / 32), (0, 1))
    assert access(nest, "T_softmax_maxelem").steps == ((2, 1 / 32),)


def test_a_loop_around_somebody_elses_reduction_does_not_reduce() -> None:
    nest = block(edited("attention", T_softmax_expsum_at=6), "T_softmax_expsum_update")
    assert {loop.name: loop.reduces for loop in nest.loops if loop.extent > 1} == {
        nest.loops[0].name: False,
        "t_0": False,
        "ax2": True,
    }


@pytest.mark.parametrize(
    ("expression", "flops", "calls"),
    [
        (lambda x: x + 1.0, 1, 0),
        (lambda x: x * x - x, 2, 0),
        (lambda x: te.exp(x), 20, 1),
        (lambda x: te.exp(x) / x, 28, 1),
        (lambda x: te.sqrt(x) + te.tanh(x), 22, 1),
        (lambda x: te.max(x, 0.0), 1, 0),
        (lambda x: x.astype("float64"), 0, 0),
        (lambda x: tvm.tirx.Select(x > 0.0, x, x * 2.0), 2, 0),
        (lambda x: te.if_then_else(x > 0.0, te.exp(x), te.exp(-x)), 42, 2),
    ],
)
def test_operations_are_counted(expression: Any, flops: float, calls: int) -> None:
    nest = lone(expression)
    assert (nest.flops, nest.scalar_calls) == (flops, calls)


@pytest.mark.parametrize(
    ("dtype", "item_bytes"),
    [("float32", 4), ("float64", 8), ("bfloat16", 2), ("int8", 1), ("uint8", 1), ("float8_e4m3fn", 1), ("bool", 1)],
)
def test_bytes_of_an_element(dtype: str, item_bytes: int) -> None:
    assert lone(lambda x: x, dtype=dtype).accesses[1].item_bytes == item_bytes


def test_a_tensor_intrinsic_counts_its_multiplications() -> None:
    made = space("vnni")
    before = block(nests(made.raw_schedule(made.start).mod), "C_o")
    after = block(made.nests(made.start), "C_o_update")
    for nest in (before, after):
        assert nest.flops == 2 * 16 * 4
        assert nest.flops * nest.iterations == 2 * 32 * 32 * 32
        assert {a.buffer: a.region for a in nest.accesses} == {"C": (1, 16), "A": (1, 4), "B": (1, 1, 16, 4)}


@pytest.mark.parametrize("name", ["gemm", "gemm+relu", "batched matmul", "reduction", "elementwise", "pooling"])
def test_a_kernel_keeps_its_work_whatever_the_tiles(name: str) -> None:
    kernel = KERNELS[name]()
    made = Space(kernel.mod, tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 2}))
    work = {_total(nests(kernel.mod))}
    for seed in range(3):
        structure = dict(made.start.structure)
        drawn = made.edit(made.sample(seed), Transformation(tuple(structure.items())))
        work.add(_total(made.nests(drawn)))
    assert len(work) == 1


def _total(found: tuple[Nest, ...]) -> float:
    return sum(nest.flops * nest.iterations for nest in found)


# -- index arithmetic, without TVM --------------------------------------------------------------------------------


def loop(extent: int, index: int = 0) -> Affine:
    return Affine(0.0, {Digit(index, 1, extent): 1.0})


def test_the_loops_inside_a_fused_one_come_apart_again() -> None:
    fused = loop(4 * 2 * 3)  # of a (4), b (2) and c (3)
    a, b, c = fused.divided(6), fused.remainder(6).divided(3), fused.remainder(3)
    assert [dict(x.terms) for x in (a, b, c)] == [{Digit(0, 6, 4): 1}, {Digit(0, 3, 2): 1}, {Digit(0, 1, 3): 1}]
    assert [x.steps(1)[0] for x in (a, b, c)] == [1 / 6, 1 / 3, 1]


def test_a_split_index_is_put_together_and_cut_elsewhere() -> None:
    # j = j_0 * 16 + j_3 of the fused i_0, j_0, as a packed weight reads it: [j // 16, j % 16]
    j = loop(8).remainder(2).times(16).plus(loop(16, 1))
    assert j.divided(16).steps(2) == (1, 0)
    assert j.remainder(16).steps(2) == (0, 1)
    assert j.divided(4).steps(2) == (4, 1 / 4)
    assert j.loops == {0, 1}


@pytest.mark.parametrize("by", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("outer", [1, 2, 6])
def test_quotients_and_remainders_of_digits_add_up(by: int, outer: int) -> None:
    extents = (outer, 4, 8)
    x = loop(outer).times(32).plus(loop(4, 1).times(8)).plus(loop(8, 2))
    quotient, remainder = x.divided(by), x.remainder(by)
    exact = by != 3  # 3 cuts no digit evenly: its quotient is a rate
    for values in itertools.product(*(range(extent) for extent in extents)):
        value = 32 * values[0] + 8 * values[1] + values[2]
        assert _at(x, values) == value
        if exact:
            assert _at(quotient, values) == value // by
            assert _at(remainder, values) == value % by
        else:
            assert abs(_at(quotient, values) - value / by) <= 2


def test_a_window_over_positions_carries() -> None:
    rows = loop(8).plus(loop(3, 1))  # of an image that is kept with half its rows
    assert rows.divided(2).steps(2) == (1 / 2, 0.5)


def _at(affine: Affine, values: tuple[int, ...]) -> float:
    digits = affine.terms.items()
    return affine.const + sum(f * (values[d.loop] // d.divisor % d.extent) for d, f in digits)

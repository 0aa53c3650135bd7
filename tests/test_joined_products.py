"""Products that are summed up in one pass, and experts with uneven counts: what is offered, computed and preferred."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fresh_process import schedule_hash
from gemm_nest import machine
from reasoning_compiler.codegen.packing import split_packing
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import UNTUNED, Program, Transformation
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.ir.joined_label import JOINED
from reasoning_compiler.ir.nest import joined
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.registry import rules_of, with_own_rules
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import Workload, parse
from space_kernels import Kernel, make, make_inputs, te, tvm
from test_packed_contraction import built, output, prefetches
from test_proposers import of_root

pytestmark = pytest.mark.tvm

SPECS = (
    "llama4-mlp[tokens=6,hidden=40,width=48]",
    "deepseek-moe[num_experts=2,tokens=5,hidden=24,width=32,dtype=bfloat16]",
    "routed-experts[blocks=5,tokens=4,num_experts=3,hidden=32,width=48]",
)
ROUTED = SPECS[-1]
SITE = ("activated products", JOINED)


def space_of(mod: Any, *, stream_bytes: int = 256) -> Space:
    target = tvm_target(detect())
    return Space(mod, target, rules=with_own_rules(rules_of(mod, target), stream_bytes=stream_bytes))


@cache
def space(spec: str) -> Space:
    return space_of(parse(spec).mod)


def in_one_pass(made: Space, *edits: tuple[str, Any]) -> Program:
    return made.edit(UNTUNED, Transformation((SITE, *edits)))


def tolerance_of(workload: Workload) -> float:
    return 1e-2 if "bfloat16" in workload.spec else 1e-4


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_the_meaning(spec: str) -> None:
    workload, made, rng = parse(spec), space(spec), np.random.default_rng(1)
    inputs = workload.make_inputs(3)
    (expected,) = workload.expected(inputs)
    program, tried = in_one_pass(made), 0
    for _ in range(200):
        change = mutate(made.table(program), rng)
        assert change is not None
        if SITE[0] in dict(change.edits) or made.why_not(program, change) is not None:
            continue
        program, tried = made.edit(program, change), tried + 1
        if tried % 3 == 1:
            got, bound = output(made, program, inputs).astype("float32"), tolerance_of(workload)
            np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)
        if tried == 8:
            break
    assert tried == 8


def geglu() -> Kernel:
    """Two products and three blocks after them, of other names than ours, with something else that is read there."""
    x, bias = te.placeholder((7, 20), name="P"), te.placeholder((36,), name="bias")
    a, b = te.placeholder((20, 36), name="A"), te.placeholder((20, 36), name="B")
    r, s = te.reduce_axis((0, 20), name="r"), te.reduce_axis((0, 20), name="s")
    left = te.compute((7, 36), lambda i, j: te.sum(x[i, r] * a[r, j], axis=r), name="left")
    right = te.compute((7, 36), lambda i, j: te.sum(x[i, s] * b[s, j], axis=s), name="right")
    shifted = te.compute((7, 36), lambda i, j: left[i, j] + bias[j], name="shifted")
    curved = te.compute((7, 36), lambda i, j: te.tanh(shifted[i, j]), name="curved")
    out = te.compute((7, 36), lambda i, j: curved[i, j] * right[i, j], name="product")

    def reference(x: np.ndarray, bias: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.tanh(x @ a + bias) * (x @ b)

    return make([x, bias, a, b, out], reference, weights=(2, 3))


def test_it_is_found_by_how_data_flows() -> None:
    kernel = geglu()
    made, inputs = space_of(kernel.mod), make_inputs(kernel, 1)
    tiles = (("product.i tile", (1, 7, 1)), ("product.j tile", (3, 1, 12)), ("left.r tile", (5, 4)))
    program = made.edit(UNTUNED, Transformation((("product products", JOINED), *tiles)))
    np.testing.assert_allclose(output(made, program, inputs), kernel.reference(*inputs), rtol=1e-4, atol=1e-4)


def other(what: str) -> Kernel:
    """Two products that an elementwise block reads, and one thing that keeps them apart."""
    x, y = te.placeholder((8, 16), name="X"), te.placeholder((8, 16), name="Y")
    a, b = te.placeholder((16, 8), name="A"), te.placeholder((16, 8), name="B")
    r, s = te.reduce_axis((0, 16), name="r"), te.reduce_axis((0, 16), name="s")
    z = y if what == "no common operand" else x
    left = te.compute((8, 8), lambda i, j: te.sum(x[i, r] * a[r, j], axis=r), name="left")
    right = te.compute((8, 8), lambda i, j: te.sum(z[i, s] * b[s, j], axis=s), name="right")
    turned = what == "read in another order"
    out = te.compute((8, 8), lambda i, j: left[i, j] * (right[j, i] if turned else right[i, j]), name="both")
    return make([x, y, a, b, out], lambda *_: np.zeros(0), weights=(2, 3))


@pytest.mark.parametrize("what", ["no common operand", "read in another order"])
def test_what_cannot_be_summed_up_together_is_left_alone(what: str) -> None:
    assert not [d for d in space_of(other(what).mod).table(UNTUNED) if d.name.endswith(" products")]


@pytest.mark.parametrize("spec", SPECS)
def test_a_program_is_the_same_from_its_record_in_another_process(spec: str) -> None:
    made = space(spec)
    program = in_one_pass(made, ("activated.t tile", (1, parse(spec).arguments[0].shape[-2], 1)))
    import tvm_ffi

    there = schedule_hash(program, __name__, f"space({spec!r})")
    assert there == tvm_ffi.structural_hash(made.schedule(program).mod)


def test_its_trace_replays_in_plain_tvm() -> None:
    import tvm_ffi

    for spec in SPECS:
        replayed = tvm.s_tir.Schedule(space(spec).mod)
        tvm.s_tir.Trace.apply_json_to_schedule(space(spec).trace_json(in_one_pass(space(spec))), replayed)
        assert tvm_ffi.structural_equal(replayed.mod, space(spec).raw_schedule(in_one_pass(space(spec))).mod)


def test_the_register_tile_counts_the_sums_of_all_products() -> None:
    made = space(SPECS[0])
    tiles = {"t": (1, 2, 3), "n": (3, 1, 16), "k": (10, 4)}
    names = ("activated.t tile", "activated.n tile", "gate.k tile")
    program = in_one_pass(made, *zip(names, tiles.values(), strict=True))
    wide = machine(vector_bytes=64)
    block = next(b for b in analyze(made.nests(program), wide).blocks if b.reduces and "gate" in b.block)
    assert block.block == "gate_update + up_update"
    assert block.accumulators == 2 * 3 and block.in_registers
    assert block.flops == 2 * 2 * 6 * 40 * 48
    (group,) = (group for group in made.tile_groups if group.products)
    tiled = group.tiled(tiles, unroll_limit=0)
    real = next(n for n in joined(made.nests(program)) if n.sums == 2)
    assert tiled.iterations == real.iterations and tiled.flops == real.flops and tiled.sums == real.sums
    assert sum(a.buffer == "X" for a in real.accesses) == 1, "X is read once for both"


def test_the_expert_opens_with_it_where_work_is_little_and_tries_it_where_the_weights_bound() -> None:
    cpu = machine(num_cores=2, l2_bytes=1 << 20, l3_bytes=32 << 20)

    def first(spec: str) -> list[dict[str, Any]]:
        made = space_of(parse(spec).mod, stream_bytes=1 << 20)
        proposal = Expert(made, cpu).propose(of_root(made), 5, np.random.default_rng(0))
        return [dict(t.edits) for t in proposal.transformations]

    assert first("llama4-mlp[hidden=256,width=256]")[0][SITE[0]] == JOINED
    others = first("llama4-mlp")
    assert SITE[0] not in others[0] and any(SITE[0] in each for each in others), "it is tried, as one of several"


# -- experts with uneven counts -----------------------------------------------------------------------------------


def uneven(counts: tuple[int, ...], tokens: int) -> np.ndarray:
    """Returns the expert of each block for so many tokens of each expert, as the documentation says."""
    return np.repeat(np.arange(len(counts), dtype="int32"), -(-np.array(counts) // tokens))


@pytest.mark.parametrize("joined_", [False, True])
def test_uneven_counts_with_an_expert_that_has_no_tokens(joined_: bool) -> None:
    workload, made = parse(ROUTED), space(ROUTED)
    experts = uneven((9, 0, 6), 4)
    assert experts.tolist() == [0, 0, 0, 2, 2]
    inputs = workload.make_inputs(1)
    inputs[1] = experts
    program = in_one_pass(made) if joined_ else made.start
    np.testing.assert_allclose(output(made, program, inputs), workload.expected(inputs)[0], rtol=1e-4, atol=1e-4)
    x, _, gate, up, down = inputs
    alone = parse("llama4-mlp[tokens=12,hidden=32,width=48]").expected([x[:3].reshape(12, 32), gate[0], up[0], down[0]])
    np.testing.assert_allclose(workload.expected(inputs)[0][:3].reshape(12, 32), alone[0], rtol=1e-5, atol=1e-5)


def test_drawn_experts_are_valid_sorted_and_uneven() -> None:
    workload = parse("routed-experts[blocks=40,tokens=2,num_experts=20,hidden=8,width=8]")
    drawn = [workload.make_inputs(seed)[1] for seed in range(5)]
    assert all(each.min() >= 0 and each.max() < 20 and (np.diff(each) >= 0).all() for each in drawn)
    assert max(each.max() for each in drawn) > 8, "all experts have a chance"
    counts = np.bincount(drawn[0], minlength=20)
    assert counts.min() == 0 and counts.max() > 2


def test_one_expert_is_refused_with_what_to_take() -> None:
    with pytest.raises(UsageError, match="at least 2: deepseek-moe has one"):
        parse("routed-experts[num_experts=1]")


def test_what_an_index_selects_is_laid_out_ahead_of_time() -> None:
    made = space(ROUTED)
    for program in (made.start, in_one_pass(made, ("activated.n tile", (3, 1, 16)))):
        packed = split_packing(made.schedule(program).mod)
        assert set(packed.packers) == {2, 3, 4}
    gate = packed.kernel["main"].params[2]
    assert [int(extent) for extent in gate.shape] == [3, 3, 32, 16], "expert, panel of columns, k, columns"


def test_prefetches_run_ahead_in_the_weights_of_the_right_expert() -> None:
    made = space(ROUTED)
    program = in_one_pass(made, ("activated.n tile", (3, 1, 16)), ("gate prefetch bytes", 4096))
    assert [distance for distance, _ in prefetches(made, program)] == [4096, 4096]
    assert "expert_of_block" in str(built(made, program).kernel).split("prefetch(")[1].split("W_gate")[1][:60]


def test_a_register_tile_over_blocks_of_tokens_loads_the_weights_of_each() -> None:
    made = space("routed-experts[blocks=8,tokens=8,num_experts=4,hidden=32,width=64]")

    def from_l2(blocks: int, tokens: int) -> float:
        tiles = (("gate.b tile", (1, 8 // blocks, blocks)), ("gate.t tile", (1, 8 // tokens, tokens)))
        sums = ("gate contraction", "sums in registers")
        program = made.edit(UNTUNED, Transformation((sums, *tiles, ("gate.n tile", (2, 1, 32)), ("unroll", 16))))
        found = analyze(made.nests(program), machine(l1_bytes=4096))
        return next(b.levels[0].bytes_in for b in found.blocks if b.block == "gate_update")

    assert from_l2(2, 4) > 1.5 * from_l2(1, 8)

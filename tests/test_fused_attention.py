"""Attention fused over rows: found by its data flow, right whatever the sizes, and masked keys really skipped."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from attention_kernels import KERNELS, masked, no_softmax
from gemm_nest import machine as gemm_machine
from reasoning_compiler import codegen
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, TileDomain, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.machine import detect, preset, tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.attention.chain import find_chain
from reasoning_compiler.rules.attention.mask import Band
from reasoning_compiler.rules.attention.sizes import RowBlocks
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse
from space_kernels import Kernel, attention, make_inputs, tvm

pytestmark = pytest.mark.tvm


def target() -> Any:
    return tvm_target(detect())


@cache
def kernel(name: str) -> Kernel:
    return KERNELS[name]()


def make_space(mod: Any) -> Space:
    return Space(mod, target(), rules=rules_for(mod, target()))


@cache
def space(name: str) -> Space:
    return make_space(kernel(name).mod)


def fused(made: Space) -> Program | None:
    """Returns the plainest fused program, or None where there is none."""
    for decision in made.table(UNTUNED):
        for value in getattr(decision.domain, "values", ()):
            if str(value).startswith("fused over rows"):
                return made.edit(UNTUNED, Transformation(((decision.name, value),)))
    return None


def sized(made: Space, rng: np.random.Generator) -> Program:
    """Returns a fused program with sizes drawn at random."""
    program = fused(made)
    assert program is not None
    for _ in range(8):
        move = mutate(tuple(d for d in made.table(program) if d.kind != "structure"), rng)
        program = made.edit(program, move) if move is not None else program
    return program


def replayed_by_tvm(of: Kernel, made: Space, program: Program) -> Any:
    """Returns the kernel's module as TVM schedules it by the JSON of a program's trace."""
    trace = made.raw_schedule(program).trace.as_json()
    schedule = tvm.s_tir.Schedule(of.mod)
    from_json = json.loads(json.dumps(trace, default=lambda x: getattr(x, "value", str(x))))
    tvm.s_tir.Trace.apply_json_to_schedule(from_json, schedule)
    return schedule.mod


def run(mod: Any, inputs: list[np.ndarray], pipeline: str | None = None) -> np.ndarray:
    output = list(mod["main"].params)[-1]
    result = tvm.runtime.tensor(np.full([int(d) for d in output.shape], np.nan, str(output.dtype)))
    kernel = tvm.compile(mod, target=target(), tir_pipeline=pipeline or codegen.tir_pipeline())["main"]
    kernel(*map(tvm.runtime.tensor, inputs), result)
    return result.numpy()


def assert_right(made: Kernel, mod: Any) -> None:
    inputs = make_inputs(made, 1)
    expected = made.reference(*inputs).astype(np.float32)
    precision = 4e-3 if str(list(mod["main"].params)[-1].dtype) == "float16" else 3e-6
    np.testing.assert_allclose(run(mod, inputs), expected, rtol=0, atol=precision * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", KERNELS)
def test_fused_programs_of_any_size_compute_the_right_result(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert_right(kernel(name), space(name).schedule(sized(space(name), rng)).mod)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("causal, shared heads", Band(None, 0)),
        ("causal, one KV head", Band(None, 0)),
        ("transposed", Band(None, 0)),
        ("window", Band(-8, 4)),
        ("full", None),
        ("odd, causal", Band(None, 0)),
        ("calls of exp", None),
    ],
)
def test_which_keys_count_is_read_from_the_mask(name: str, band: Band | None) -> None:
    chains = [find_chain(kernel(name).mod, block) for block in names(kernel(name))]
    assert [chain.live for chain in chains if chain is not None] == [band]


def names(made: Kernel) -> list[str]:
    return re.findall(r'T\.sblock\("(\w+)"\)', made.mod["main"].script())


@pytest.mark.parametrize(
    "made",
    [
        lambda: masked(lambda h, i, j: j <= i, constant=-1.0),  # such scores count
        lambda: masked(lambda h, i, j: j <= i - 1),  # nothing counts in the first row
        lambda: masked(lambda h, i, j: j + h <= i + 1),  # not the same for all heads
        lambda: masked(lambda h, i, j: j * 2 <= i),
    ],
)
def test_a_mask_that_is_not_understood_leaves_no_keys_out(made: Any) -> None:
    found = made()
    (chain,) = (c for c in (find_chain(found.mod, name) for name in names(found)) if c is not None)
    assert chain.live is None


def test_masked_keys_are_skipped_and_plain_tvm_computes_them() -> None:
    made, name = kernel("causal, shared heads"), "causal, shared heads"
    program = fused(space(name))
    assert program is not None
    program = space(name).edit(program, Transformation((("out.i tile", (3, 4, 4)),)))
    q, k, v = make_inputs(made, 1)
    v[:, -1] = np.nan  # 0 times NaN is NaN: only who never touches it stays finite

    ours = run(space(name).schedule(program).mod, [q, k, v])
    assert np.isfinite(ours[:, :32]).all()
    assert np.isnan(ours[:, 32:]).all()

    replayed = replayed_by_tvm(made, space(name), program)
    assert np.isnan(run(replayed, [q, k, v], "default")).all()
    assert_right(made, replayed)


def test_the_last_vector_of_keys_need_not_be_whole() -> None:
    for name in ("odd", "odd, causal"):
        program = fused(space(name))
        assert program is not None
        assert_right(kernel(name), replayed_by_tvm(kernel(name), space(name), program))
    made, name = kernel("odd, causal"), "odd, causal"
    program = space(name).edit(program, Transformation((("out.i tile", (3, 3, 5)),)))
    q, k, v = make_inputs(made, 1)
    v[:, -1] = np.nan  # in the last vector, which only the last of three blocks of rows may see
    ours = run(space(name).schedule(program).mod, [q, k, v])
    assert np.isfinite(ours[:, :30]).all()
    assert np.isnan(ours[:, 44]).all()


def test_the_analysis_knows_the_share_that_is_left() -> None:
    program = fused(space("causal, shared heads"))
    assert program is not None
    made = space("causal, shared heads")
    nests = made.nests(made.edit(program, Transformation((("out.i tile", (3, 4, 4)),))))
    shares = {nest.block: nest.share for nest in nests}
    assert shares["scores_update"] == shares["out_update"] == shares["exp"] == pytest.approx((1 + 2 + 3) / 9)
    assert shares["K_global"] == shares["out_local"] == 1.0


@pytest.mark.parametrize(
    "made",
    [
        lambda: attention(2, 37, 16),
        lambda: attention(2, 8, 16),
        lambda: masked(lambda h, i, j: tvm.tirx.all(j < i + 5, i - j < 9), length=45),  # two bounds and a cut vector
        no_softmax,
    ],
)
def test_it_is_not_offered_where_it_does_not_fit(made: Any) -> None:
    assert fused(make_space(made().mod)) is None


def test_other_blocks_of_the_function_are_tuned_as_ever() -> None:
    from tvm import te

    x, w = te.placeholder((2, 32, 16), name="x"), te.placeholder((16, 16), name="w")
    k, v = te.placeholder((2, 32, 16), name="k"), te.placeholder((2, 32, 16), name="v")
    r, s, t, u = (te.reduce_axis((0, n)) for n in (16, 16, 32, 32))
    q = te.compute((2, 32, 16), lambda h, i, d: te.sum(x[h, i, r] * w[r, d], axis=r), name="projected")
    e = te.compute((2, 32, 32), lambda h, i, j: te.sum(q[h, i, s] * k[h, j, s], axis=s), name="e")
    m = te.compute((2, 32), lambda h, i: te.max(e[h, i, t], axis=t), name="m")
    p = te.compute((2, 32, 32), lambda h, i, j: te.exp(e[h, i, j] - m[h, i]), name="p")
    y = te.compute((2, 32, 16), lambda h, i, d: te.sum(p[h, i, u] * v[h, u, d], axis=u), name="y")
    mod = tvm.IRModule({"main": te.create_prim_func([x, w, k, v, y]).with_attr("global_symbol", "main")})

    def reference(x: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = (x @ w) @ k.transpose(0, 2, 1)
        return np.exp(scores - scores.max(-1, keepdims=True)) @ v

    made = make_space(mod)
    program = fused(made)
    assert program is not None
    found = [d.name for d in made.table(program)]
    assert "projected tiling" in found
    assert "y tiling" not in found
    for unroll in (0, 64):
        edited = made.edit(program, Transformation((("unroll", unroll), ("y.i tile", (4, 2, 4)))))
        assert_right(Kernel(mod, reference), made.schedule(edited).mod)


@pytest.mark.parametrize("machine", ["here", "graviton2", "core-i9"])
def test_the_expert_begins_with_it_and_goes_on_from_it(machine: str) -> None:
    where: Machine = detect() if machine == "here" else preset(machine)
    mod = parse("flux-attention[text_len=64,image_tokens=192,num_heads=8,head_dim=64]").mod
    made = Space(mod, tvm_target(where), rules=rules_for(mod, tvm_target(where)))
    expert = Expert(made, where)
    root = Step(0, None, UNTUNED)
    first = expert.propose(Context((root,), made.table(UNTUNED)), 4, np.random.default_rng(0))
    assert dict(first.transformations[0].edits)["out fusion"] == "fused over rows"
    rows = dict(first.transformations[0].edits)["out.i tile"]
    assert isinstance(rows, tuple)
    assert rows[-1] > 1
    assert "stay in cache" in first.reasoning

    program = made.edit(UNTUNED, first.transformations[0])
    context = Context((Step(1, 0, program, first.transformations[0], "expert"), root), made.table(program))
    for move in expert.propose(context, 6, np.random.default_rng(0)).transformations:
        made.edit(program, move)  # all are legal


@pytest.mark.parametrize(("length", "heads"), [(1536, 24), (4608, 4)])
def test_few_rows_of_a_long_sequence_are_a_block(length: int, heads: int) -> None:
    where = gemm_machine()
    lanes = where.vector_bytes // 4

    def tile(name: str, extent: int, num: int, most: int) -> Decision:
        return Decision(f"out.{name} tile", "tile", TileDomain(extent, num, most), (extent, *[1] * (num - 1)))

    rows, depth, keys = tile("i", length, 3, 16), tile("d", 128 // lanes, 2, 8), tile("j", length // lanes, 2, 8)
    steps = Decision("out.j_1 factor", "choice", ChoiceDomain((1, 2)), 1)
    site = ("out fusion", "fused over rows")
    sizing = RowBlocks("out", (site,), (rows, depth, keys, steps), heads=heads, masked=False)
    best, *_ = sizing.on(where, ()).ranked(1)
    _, num_tiles, tile_rows = best.sizes.rows
    assert 16 <= num_tiles * tile_rows <= 64
    assert num_tiles * tile_rows * length * 4 < where.l2_bytes

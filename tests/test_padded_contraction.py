"""The rule that pads what no good tile divides: where it is offered, what it computes, how it is priced and told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm_ffi

from fresh_process import schedule_hash
from gemm_nest import machine
from reasoning_compiler.codegen.packing import split_packing
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.cost.analysis import Analysis, analyze
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.report.explain import Explained, explain_text
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.rules.metaschedule import space_generator
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse
from space_kernels import Kernel, batched_matmul, gemm, make, make_inputs, te, tvm
from test_packed_contraction import output, space_of
from test_proposers import of_root

pytestmark = pytest.mark.tvm

AVX512 = {"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 2}
ROWS, BOTH = "i from 37 to 40", "i from 37 to 40, j from 47 to 48"


@cache
def odd(*, dtype: str = "float32", relu: bool = False) -> Kernel:
    return gemm(37, 47, 13, dtype=dtype, relu=relu)


@cache
def space(kernel: Kernel) -> Space:
    return space_for(kernel.mod)


def space_for(mod: Any) -> Space:
    """Returns the space of a CPU with AVX-512, whatever this one is: what is offered depends on it."""
    target = tvm.target.Target(AVX512)
    return Space(mod, target, rules=rules_for(mod, target))


def offered(made: Space) -> tuple[Any, ...]:
    return next((d.domain.values for d in made.table(UNTUNED) if d.name == "C padding"), ())


def padded(made: Space, label: str, *edits: tuple[str, Any], registers: bool = True) -> Program:
    contraction = (("C contraction", IN_REGISTERS),) if registers else ()
    return made.edit(UNTUNED, Transformation((("C padding", label), *contraction, *edits)))


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (197, 768, ("i from 197 to 198", "i from 197 to 200")),
        (128, 1000, ("j from 1000 to 1008", "j from 1000 to 1024")),
        (77, 768, ()),  # 7 · 11
        (512, 4096, ()),
        (13, 64, ()),  # one tile
        (1, 64, ()),
        (128, 10, ()),  # half of a vector would be waste
    ],
)
def test_it_is_offered_where_no_good_tile_divides(rows: int, columns: int, expected: tuple[str, ...]) -> None:
    assert offered(space_for(gemm(rows, columns, 8).mod))[1:] == expected


def test_a_transposed_operand_is_copied_in_the_order_of_vectors() -> None:
    a, b, r = te.placeholder((64, 16), name="A"), te.placeholder((47, 16), name="B"), te.reduce_axis((0, 16), name="k")
    c = te.compute((64, 47), lambda i, j: te.sum(a[i, r] * b[j, r], axis=r), name="C")
    kernel = make([a, b, c], lambda x, y: x @ y.T)
    assert offered(space(kernel)) == ("as written", "j from 47 to 48")
    allocated = space(kernel).schedule(padded(space(kernel), "j from 47 to 48")).mod["main"].body.block.alloc_buffers
    assert [tuple(map(int, b.shape)) for b in allocated if b.name == "B_pad"] == [(16, 48)]
    made, inputs = space_of(kernel.mod), make_inputs(kernel, 1)
    program = padded(made, str(offered(made)[-1]))
    np.testing.assert_allclose(output(made, program, inputs), kernel.reference(*inputs), rtol=1e-4, atol=1e-4)
    replayed = tvm.s_tir.Schedule(made.mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), replayed)
    assert tvm_ffi.structural_equal(replayed.mod, made.raw_schedule(program).mod)


def random_kernel(rng: np.random.Generator, kind: str) -> Kernel:
    rows, columns, depth = int(rng.choice([17, 34, 38, 46, 53])), int(rng.integers(17, 60)), int(rng.integers(3, 23))
    if kind == "batched":
        return batched_matmul(int(rng.integers(1, 4)), rows, columns, depth)
    flags: dict[str, Any] = {"relu": {"relu": True}, "int8": {"dtype": "int8"}, "transposed": {"transposed": True}}
    return gemm(rows, columns, depth, **flags.get(kind, {}))


@pytest.mark.parametrize("kind", ["plain", "relu", "int8", "transposed", "batched"])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_programs_on_odd_shapes_keep_the_meaning(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = random_kernel(rng, kind)
    made, inputs = space_of(kernel.mod), make_inputs(kernel, seed)
    expected = kernel.reference(*inputs)
    labels = offered(made)[1:]
    assert labels, "these rows have no good tile"
    for label in dict.fromkeys([labels[0], labels[-1]]):
        program = padded(made, str(label), registers=bool(rng.integers(2)))
        for _ in range(4):
            change = mutate(made.table(program), rng)
            try:
                program = made.edit(program, change) if change is not None else program
            except IllegalProgramError:
                continue
        np.testing.assert_allclose(output(made, program, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("registers", [True, False])
def test_sums_of_integers_are_the_same_to_the_last_bit(registers: bool) -> None:
    made, inputs = space_of(odd(dtype="int8").mod), make_inputs(odd(dtype="int8"), 1)
    for label in offered(made)[1:]:
        assert (
            output(made, padded(made, str(label), registers=registers), inputs) == inputs[0].astype(int) @ inputs[1]
        ).all()


@pytest.mark.parametrize("label", [ROWS, BOTH])
def test_its_trace_replays_in_plain_tvm(label: str) -> None:
    made = space(odd(relu=True))
    program = padded(made, label)
    raw = tvm.s_tir.Schedule(made.mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), raw)
    assert tvm_ffi.structural_equal(raw.mod, made.raw_schedule(program).mod)


def test_tvms_search_gets_it_with_our_space() -> None:
    from tvm.s_tir import meta_schedule as ms

    kernel, inputs = odd(), make_inputs(odd(), 1)
    made = space_of(kernel.mod)
    generator = space_generator(made.mod, made.target, rules=rules_for(made.mod, made.target))
    context = ms.TuneContext(mod=made.mod, target=made.target, space_generator=generator, num_threads=1, rand_state=1)
    with_pads = [sch for sch in context.generate_design_space() if "B_pad" in sch.mod.script()]
    assert with_pads
    for sch in with_pads[-2:]:
        sch.enter_postproc()
        assert all(postproc.apply(sch) for postproc in context.space_generator.postprocs)
        found = output(AsItIs(made.target, sch), UNTUNED, inputs)
        np.testing.assert_allclose(found, kernel.reference(*inputs), rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class AsItIs:
    """A space of one schedule."""

    target: Any
    only: Any

    def schedule(self, program: Program) -> Any:
        return self.only


def test_a_record_replays_in_a_fresh_process() -> None:
    made = space(odd())
    program = padded(made, BOTH, ("C.i tile", (5, 1, 8)), ("C.j tile", (3, 1, 16)))
    there = schedule_hash(program, __name__, "space(odd())")
    assert there == tvm_ffi.structural_hash(made.schedule(program).mod)


def test_a_constant_is_padded_ahead_of_time_in_the_order_of_reading() -> None:
    made = space(odd())
    packed = split_packing(made.schedule(padded(made, BOTH, ("C.j tile", (3, 1, 16)))).mod)
    assert [tuple(map(int, packed.kernel["main"].params[1].shape))] == [(3, 13, 16)]
    assert list(packed.packers) == [1] and '"B_pad"' not in packed.kernel.script(), "no block in the kernel copies"


def test_no_padded_result_is_in_memory() -> None:
    for relu in (False, True):
        made = space(odd(relu=relu))
        allocated = made.schedule(padded(made, ROWS)).mod["main"].body.block.alloc_buffers
        assert [b.name for b in allocated if b.scope() != "local"] == ["B_global"]


def judged(made: Space, program: Program) -> Analysis:
    return analyze(made.nests(program), machine())


def test_the_analysis_prices_what_does_not_count() -> None:
    made = space(gemm(197, 64, 64))
    tiles = ("C.j tile", (2, 1, 32)), ("C.k tile", (4, 16)), ("unroll", 16)
    few, many = (
        judged(made, padded(made, f"i from 197 to {extent}", ("C.i tile", (1, extent // 2, 2)), *tiles))
        for extent in (198, 200)
    )
    (few_update,), (many_update,) = ([b for b in found.blocks if b.block == "C_update"] for found in (few, many))
    assert few_update.flops == 2 * 198 * 64 * 64 and many_update.flops == 2 * 200 * 64 * 64
    assert many_update.compute_secs / few_update.compute_secs == pytest.approx(200 / 198, rel=1e-3)


def test_what_each_call_copies_is_counted() -> None:
    a, b, r = (
        te.placeholder((6, 2048), name="A"),
        te.placeholder((2048, 1000), name="B"),
        te.reduce_axis((0, 2048), name="k"),
    )
    c = te.compute((6, 1000), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    made = space(make([a, b, c], np.matmul))
    copied = [group for group in made.tile_groups if group.copies]
    assert copied and all("j from" in str(group.needs) for group in copied)
    first = dict(Expert(made, machine()).propose(of_root(made), 1, np.random.default_rng(0)).transformations[0].edits)
    assert "C padding" not in first, "a copy of all of B for six rows"


def test_the_expert_pads_and_says_why() -> None:
    made = space(gemm(197, 768, 768))
    proposal = Expert(made, machine()).propose(of_root(made), 8, np.random.default_rng(0))
    first = proposal.transformations[0]
    edits = dict(first.edits)
    assert edits["C padding"].startswith("i from 197 to ") and edits["C.i tile"][-1] > 3
    assert "No good tile divides the 197 iterations of i: padded to" in first.reasoning
    found = [dict(t.edits) for t in proposal.transformations]
    widths = [edits["C.j tile"][-1] for edits in found if edits.get("C contraction") == IN_REGISTERS]
    assert widths and set(widths) <= {16, 32, 48, 64}, "whole vectors"


def test_it_is_explained() -> None:
    from journal_examples import MACHINE, header

    made = space(gemm(197, 64, 64))
    found = analyze(made.nests(padded(made, "i from 197 to 198")), MACHINE)
    text = explain_text([Explained("best", 1, UNTUNED, None, found)], header(), MACHINE)
    assert "i from 197 to 198: 0.5% more work" in text
    assert "Padded: i from 197 to 198." in found.describe()
    assert replace(found, blocks=()).describe() == ""


def test_conditions_of_the_kernel_itself_stay() -> None:
    a, b, k = te.placeholder((37, 29), name="A"), te.placeholder((29, 64), name="B"), te.reduce_axis((0, 29), "k")
    c = te.compute(
        (37, 64), lambda i, j: te.sum(tvm.tirx.if_then_else(k < 20, a[i, k], 0.0) * b[k, j], axis=k), name="C"
    )
    own = make([a, b, c], lambda x, y: x[:, :20] @ y[:20], weights=(1,))
    made, inputs = space_of(own.mod), make_inputs(own, 1)
    program = made.edit(UNTUNED, Transformation((("C padding", ROWS),)))
    np.testing.assert_allclose(output(made, program, inputs), own.reference(*inputs), rtol=1e-4, atol=1e-4)


def test_only_columns_that_are_read_at_plain_places_are_padded() -> None:
    made = space_for(parse("routed-experts[blocks=3,tokens=16,num_experts=2,hidden=64,width=100]").mod)
    sites = [decision for decision in made.table(UNTUNED) if decision.name.endswith("padding")]
    assert not any("n from" in str(value) for decision in sites for value in decision.domain.values)


def test_blocks_that_select_experts_are_no_rows_of_one_matrix() -> None:
    made = space_for(parse("routed-experts[blocks=37,tokens=3,num_experts=2,hidden=64,width=64]").mod)
    assert not any(decision.name.endswith("padding") for decision in made.table(UNTUNED))

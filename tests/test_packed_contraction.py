"""The rule that keeps sums in registers: what it offers, what it computes, how it is built and judged."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm_ffi

from gemm_nest import machine
from reasoning_compiler import codegen
from reasoning_compiler.codegen.packing import split_packing
from reasoning_compiler.codegen.prefetching import with_prefetches
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.space import Space
from space_kernels import Kernel, batched_matmul, conv2d, depthwise, gemm, make_inputs, tvm

pytestmark = pytest.mark.tvm

KERNELS = {
    "gemm": lambda: gemm(49, 36, 21),
    "few rows": lambda: gemm(1, 96, 35),
    "transposed": lambda: gemm(6, 20, 14, transposed=True),
    "int8": lambda: gemm(6, 32, 15, dtype="int8"),
    "relu": lambda: gemm(10, 32, 15, relu=True),
    "batched": lambda: batched_matmul(3, 5, 18, 7),
    "conv": lambda: conv2d(7, 5, 12),
    "depthwise": lambda: depthwise(7, 12),
}


@cache
def kernel(name: str) -> Kernel:
    return KERNELS[name]()


def space_of(mod: Any, *, l2_bytes: int = 256) -> Space:
    """Returns the space of a CPU whose caches hold next to nothing, so that all constants are worth prefetching."""
    target = tvm_target(detect())
    return Space(mod, target, rules=rules_for(mod, target, stream_bytes=l2_bytes))


@cache
def space(name: str) -> Space:
    return space_of(kernel(name).mod)


def sites(made: Space) -> list[str]:
    return [d.name for d in made.table(UNTUNED) if d.kind == "structure" and IN_REGISTERS in d.domain.values]


def with_sums_in_registers(made: Space, *edits: tuple[str, Any]) -> Program:
    return made.edit(UNTUNED, Transformation((*((site, IN_REGISTERS) for site in sites(made)), *edits)))


def few_rows(made: Space, *, distance: int = 8192) -> Program:
    """Returns a product of 1 × 96 × 35 with a vector of 32 columns."""
    return with_sums_in_registers(
        made, ("C.j tile", (3, 1, 32)), ("C.k tile", (5, 7)), ("C prefetch bytes", distance), ("unroll", 16)
    )


def built(made: Space, program: Program) -> codegen.Compiled:
    return codegen.compile(made.schedule(program).mod, made.target)


def output(made: Space, program: Program, inputs: list[np.ndarray]) -> np.ndarray:
    done = built(made, program)
    packed, library = done.packed, done.executable
    tensors = []
    for index, parameter in enumerate(packed.kernel["main"].params):
        tensor = tvm.runtime.empty(tuple(int(e) for e in parameter.shape), str(parameter.dtype))
        if index < len(inputs):
            given = tvm.runtime.tensor(inputs[index])
            tensor = given if index not in packed.packers else tensor
            if index in packed.packers:
                library[str(packed.packers[index].attrs["global_symbol"])](given, tensor)
        tensors.append(tensor)
    library["main"](*tensors)
    return tensors[-1].numpy()


@pytest.mark.parametrize("name", KERNELS)
def test_it_keeps_the_meaning(name: str) -> None:
    made, rng = space(name), np.random.default_rng(1)
    inputs = make_inputs(kernel(name), 3)
    expected = kernel(name).reference(*inputs)
    assert sites(made), "there is a contraction"
    program = with_sums_in_registers(made)
    tried = 0
    for _ in range(12):
        change = mutate(made.table(program), rng)
        assert change is not None
        moved = dict(change.edits)
        if any(site in moved for site in sites(made)) or made.why_not(program, change) is not None:
            continue
        program = made.edit(program, change)
        tried += 1
        if tried % 3 == 1:
            np.testing.assert_allclose(output(made, program, inputs), expected, rtol=1e-4, atol=1e-4)
    assert tried > 3


@pytest.mark.parametrize("name", KERNELS)
def test_its_trace_replays_from_json(name: str) -> None:
    made = space(name)
    program = with_sums_in_registers(made)
    replayed = tvm.s_tir.Schedule(made.mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), replayed)
    assert tvm_ffi.structural_equal(replayed.mod, made.raw_schedule(program).mod)


def test_metaschedules_own_choices_are_all_still_there() -> None:
    theirs = Space(kernel("gemm").mod, tvm_target(detect()))
    ours = {*sites(space("gemm")), "C padding"}
    mine = [d for d in space("gemm").table(UNTUNED) if d.name not in ours]
    assert [(d.name, str(d.domain)) for d in mine] == [(d.name, str(d.domain)) for d in theirs.table(UNTUNED)]


def test_only_large_constants_may_be_prefetched() -> None:
    def offered(made: Space) -> list[str]:
        return [d.name for d in made.table(with_sums_in_registers(made)) if d.name.endswith("prefetch bytes")]

    assert offered(space("few rows")) == ["C prefetch bytes"]
    assert offered(space_of(kernel("few rows").mod, l2_bytes=1 << 20)) == []
    assert offered(space("batched")) == [], "nothing there is constant"


def prefetches(made: Space, program: Program) -> list[tuple[int, int]]:
    """Returns for each prefetch in the built kernel how many bytes ahead it is, and LLVM's locality."""
    calls: list[Any] = []

    def keep(call: Any) -> Any:
        calls.extend([call] if str(getattr(call.op, "name", "")) == "tirx.prefetch" else [])
        return call

    kernel = split_packing(made.schedule(program).mod).kernel["main"]
    tvm_ffi.structural_map(with_prefetches(kernel).body, (tvm.ir.Call, keep))
    return [(4 * int(call.args[0].args[0].indices[-1].b), int(call.args[2])) for call in calls]


@pytest.mark.parametrize("distance", [4096, 8192])
def test_prefetches_run_ahead_of_the_loads_by_their_distance(distance: int) -> None:
    found = prefetches(space("few rows"), few_rows(space("few rows"), distance=distance))
    assert found == [(distance, 0), (distance + 64, 0)], "a row of 32 floats is two lines, each used once"
    assert not prefetches(space("few rows"), few_rows(space("few rows"), distance=0))


def test_what_another_loop_reads_again_is_prefetched_to_stay() -> None:
    made = space("gemm")
    program = with_sums_in_registers(
        made, ("C.i tile", (1, 7, 7)), ("C.j tile", (9, 1, 4)), ("C prefetch bytes", 4096), ("unroll", 16)
    )
    assert prefetches(made, program) == [(4096, 3)]


def test_sums_need_no_memory_of_the_runtime() -> None:
    made = space("gemm")
    program = with_sums_in_registers(made, ("C.i tile", (1, 7, 7)), ("C.j tile", (1, 1, 36)), ("unroll", 16))
    assert 7 * 36 * 4 < 1024 < 49 * 36 * 4
    assert "TVMBackendAllocWorkspace" not in built(made, program).executable.mod.inspect_source("ll")
    larger = with_sums_in_registers(made, ("C.i tile", (1, 1, 49)), ("C.j tile", (1, 1, 36)), ("unroll", 16))
    source = built(made, larger).executable.mod.inspect_source("ll")
    assert "TVMBackendAllocWorkspace" not in source, "TVM alone would ask for these 7 KB"


def test_the_expert_opens_with_it_where_memory_bounds() -> None:
    wide = gemm(1, 4096, 2048)
    made = space_of(wide.mod, l2_bytes=1 << 20)
    small = machine(l2_bytes=1 << 20, l3_bytes=4 << 20)
    from test_proposers import of_root

    proposal = Expert(made, small).propose(of_root(made), 3, np.random.default_rng(0))
    # Prefetching and reading the weight in several runs side by side are worth the same to the cost model.
    taken, others = {}, {}
    for transformation in proposal.transformations[:2]:
        (taken if "C contraction" in dict(transformation.edits) else others).update({transformation: None})
    (with_prefetches,) = taken
    edits = dict(with_prefetches.edits)
    assert edits["C contraction"] == IN_REGISTERS and edits["C prefetch bytes"] > 0
    assert "announced" in with_prefetches.reasoning or "prefetch" in with_prefetches.reasoning
    assert others, "MetaSchedule's own tiling is tried, too"


def test_the_analysis_knows_registers_and_prefetches() -> None:
    made = space_of(gemm(1, 4096, 2048).mod, l2_bytes=1 << 20)
    small = machine(l2_bytes=1 << 20, l3_bytes=4 << 20)

    def judged(distance: int) -> Any:
        tiles = (("C.j tile", (64, 1, 64)), ("C.k tile", (128, 16)), ("unroll", 16), ("C prefetch bytes", distance))
        found = analyze(made.nests(with_sums_in_registers(made, *tiles)), small)
        return next(block for block in found.blocks if block.block == "C_update")

    assert judged(0).in_registers and judged(0).bound == "memory"
    assert judged(8192).secs < 0.95 * judged(0).secs
    moved = sum(level.bytes_in for level in judged(0).levels if level.level == "L3")
    assert moved == pytest.approx(4 * 2048 * 4096, rel=0.01), "the weights, and hardly anything else"

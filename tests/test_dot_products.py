"""Products by the machine's dot-product instructions: where they are offered, what they compute, how fast."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm_ffi

from gemm_nest import machine
from reasoning_compiler import codegen
from reasoning_compiler.codegen.dot_products import with_dot_products
from reasoning_compiler.core.machines import Peak
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.cost.analysis import analyze, peak_of
from reasoning_compiler.ir.extract import nests as nests_of
from reasoning_compiler.journal import read_run
from reasoning_compiler.machine import detect
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.report.explain import explain_text
from reasoning_compiler.report.units import flops_text
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.session import explained, tune
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse
from reasoning_compiler.workload.kernels import gemm as named_gemm
from space_kernels import Kernel, gemm, make, te, tvm

pytestmark = pytest.mark.tvm

WITH_BOTH = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver5", "num-cores": 2}
MNEMONIC = {"uint8": "vpdpbusd", "int8": "vpdpbusd", "bfloat16": "vdpbf16ps"}


def conv(ci: int, co: int, *, height: int = 5, width: int = 4) -> Kernel:
    """A 3x3 convolution of bytes, NHWC, without padding."""
    x = te.placeholder((1, height + 2, width + 2, ci), "uint8", name="X")
    w = te.placeholder((3, 3, ci, co), "int8", name="W")
    rh, rw, rc = (te.reduce_axis((0, n), name) for n, name in ((3, "rh"), (3, "rw"), (ci, "rc")))
    y = te.compute(
        (1, height, width, co),
        lambda n, h, v, c: te.sum(
            x[n, h + rh, v + rw, rc].astype("int32") * w[rh, rw, rc, c].astype("int32"), axis=[rh, rw, rc]
        ),
        name="Y",
    )

    def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        x, w = x.astype("int32"), w.astype("int32")
        return sum(x[:, i : i + height, j : j + width] @ w[i, j] for i in range(3) for j in range(3))

    return make([x, w, y], reference, weights=(1,))


def with_bias(*, both: bool = False) -> Kernel:
    """A product of bytes with a bias for each column behind it; with `both`, the product is a result, too."""
    a, b = te.placeholder((6, 32), "uint8", name="A"), te.placeholder((32, 48), "int8", name="B")
    bias, r = te.placeholder((48,), "int32", name="bias"), te.reduce_axis((0, 32), name="k")
    c = te.compute((6, 48), lambda i, j: te.sum(a[i, r].astype("int32") * b[r, j].astype("int32"), axis=r), name="C")
    d = te.compute((6, 48), lambda i, j: c[i, j] + bias[j], name="D")
    return make(
        [a, b, bias, c, d] if both else [a, b, bias, d],
        lambda x, y, z: x.astype("int32") @ y.astype("int32") + z,
        weights=(1,),
    )


def not_constant(kernel: Kernel) -> Kernel:
    return Kernel(tvm.IRModule({"main": kernel.mod["main"].without_attr("layout_free_buffers")}), kernel.reference)


def batched(batch: int, m: int, n: int, k: int) -> Kernel:
    """A batch of products of bytes whose second operand is [n, k], and no constant."""
    a, b = te.placeholder((batch, m, k), "uint8", name="A"), te.placeholder((batch, n, k), "int8", name="B")
    r = te.reduce_axis((0, k), name="k")
    c = te.compute(
        (batch, m, n),
        lambda s, i, j: te.sum(a[s, i, r].astype("int32") * b[s, j, r].astype("int32"), axis=r),
        name="C",
    )
    return make([a, b, c], lambda x, y: x.astype("int32") @ y.astype("int32").transpose(0, 2, 1))


KERNELS = {
    "uint8": lambda: gemm(12, 96, 40, dtype="uint8"),
    "int8": lambda: gemm(10, 64, 24, dtype="int8"),
    "int8, one row": lambda: gemm(1, 48, 72, dtype="int8"),
    "int8, transposed": lambda: gemm(6, 32, 8, dtype="int8", transposed=True),
    "bfloat16": lambda: gemm(9, 80, 30, dtype="bfloat16"),
    "uint8, convolution": lambda: conv(8, 32),
    "uint8, bias": with_bias,
    "int8, not constant": lambda: not_constant(gemm(10, 64, 24, dtype="int8")),
    "uint8, not constant, batched": lambda: batched(3, 6, 32, 24),
}


@cache
def kernel(name: str) -> Kernel:
    return KERNELS[name]()


def space_of(mod: Any, target: Any, *, l2_bytes: int = 1 << 20) -> Space:
    target = tvm.target.Target(target)
    return Space(mod, target, rules=rules_for(mod, target, stream_bytes=l2_bytes))


@cache
def space(name: str) -> Space:
    return space_of(kernel(name).mod, WITH_BOTH)


def offered(made: Space) -> dict[str, str]:
    """Returns the instruction that each block may be computed by, by site."""
    table = made.table(UNTUNED)
    return {d.name: d.domain.values[-1] for d in table if d.kind == "structure" and d.name.endswith(" instruction")}


def by_dots(made: Space, *edits: tuple[str, Any]) -> Program:
    return made.edit(UNTUNED, Transformation((*offered(made).items(), *edits)))


def compiled(made: Space, program: Program) -> tuple[Any, Any]:
    done = codegen.compile(made.schedule(program).mod, made.target)
    return done.packed, done.executable


def output(made: Space, program: Program, inputs: list[np.ndarray]) -> np.ndarray:
    packed, library = compiled(made, program)
    tensors = []
    for index, parameter in enumerate(packed.kernel["main"].params):
        tensor = tvm.runtime.empty(tuple(int(e) for e in parameter.shape), str(parameter.dtype))
        if index < len(inputs):
            given = tvm.runtime.tensor(inputs[index])
            if index in packed.packers:
                library[str(packed.packers[index].attrs["global_symbol"])](given, tensor)
            else:
                tensor = given
        tensors.append(tensor)
    library["main"](*tensors)
    return tensors[-1].numpy()


def inputs_of(made: Space, seed: int) -> list[np.ndarray]:
    """Returns random values of whole ranges, the most negative byte among them."""
    rng = np.random.default_rng(seed)
    arrays = []
    for parameter in list(made.mod["main"].params)[:-1]:
        shape, dtype = tuple(int(e) for e in parameter.shape), str(parameter.dtype)
        if dtype == "bfloat16":
            arrays.append(rng.normal(size=shape).astype(ml_dtypes.bfloat16))
        else:
            info = np.iinfo(dtype)
            arrays.append(rng.choice([info.min, info.max, *rng.integers(info.min, info.max, 6)], shape).astype(dtype))
    return arrays


def needs(dtype: str) -> None:
    feature = "avx512bf16" if dtype == "bfloat16" else "avx512vnni"
    if feature not in detect().features:
        pytest.skip(f"this machine has no {feature}")


@pytest.mark.parametrize("name", KERNELS)
def test_integers_are_exact_and_bfloat16_is_summed_up_in_float32(name: str) -> None:
    needs(name.partition(",")[0])
    made, rng = space(name), np.random.default_rng(1)
    inputs = inputs_of(made, 2)
    wide = [x.astype(np.float64) if x.dtype == ml_dtypes.bfloat16 else x for x in inputs]
    expected = wide[0] @ wide[1] if name == "bfloat16" else kernel(name).reference(*inputs)
    program, tried = by_dots(made), 0
    for _ in range(10):
        change = mutate(made.table(program), rng)
        assert change is not None
        if set(offered(made)) & {site for site, _ in change.edits} or made.why_not(program, change) is not None:
            continue
        program, tried = made.edit(program, change), tried + 1
        if tried % 3 == 1:
            got = output(made, program, inputs)
            if name == "bfloat16":
                np.testing.assert_allclose(got, expected, rtol=0, atol=3e-7 * 30 * np.abs(expected).max())
            else:
                np.testing.assert_array_equal(got, expected)
    assert tried > 3


@pytest.mark.parametrize("name", KERNELS)
def test_the_instruction_is_in_the_code(name: str) -> None:
    made = space(name)
    packed, library = compiled(made, by_dots(made))
    mnemonic = MNEMONIC[name.partition(",")[0]]
    assert mnemonic.removeprefix("v") in packed.kernel.script(), "put there, where LLVM may also find it by itself"
    assert re.search(rf"\b{mnemonic}\b.*%zmm", library.mod.inspect_source("asm"))


def test_the_result_of_bfloat16_is_rounded_while_it_is_there() -> None:
    made = space_of(named_gemm(16, 64, 32, dtype="bfloat16").mod, WITH_BOTH)
    packed, _ = compiled(made, by_dots(made, ("C_f32.i tile", (2, 1, 8)), ("C_f32.j_0 tile", (4, 1, 1))))
    main = packed.kernel["main"]
    (sums,) = main.body.block.alloc_buffers
    assert (str(sums.scope()), sums.name) == ("local", "C_f32_local")


def test_what_follows_the_sums_is_done_in_their_tile_unless_they_are_a_result() -> None:
    def in_registers(made: Space) -> list[str]:
        main = made.schedule(by_dots(made)).mod["main"]
        return [buffer.name for buffer in main.body.block.alloc_buffers if str(buffer.scope()) == "local"]

    assert in_registers(space("uint8, bias")) == ["C_local"]
    assert in_registers(space_of(with_bias(both=True).mod, WITH_BOTH)) == ["C_local"]
    names = [str(nest.block) for nest in space("uint8, bias").nests(by_dots(space("uint8, bias")))]
    assert names == ["C_init", "C_update", "D"], "no copy of the sums"


@pytest.mark.parametrize(
    ("made", "target"),
    [
        (lambda: gemm(8, 64, 32, dtype="int8"), WITH_BOTH | {"mcpu": "znver3"}),
        (lambda: gemm(8, 64, 32, dtype="int8"), WITH_BOTH | {"mattr": ["-avx512vnni", "-avxvnni"]}),
        (lambda: gemm(8, 64, 32, dtype="bfloat16"), WITH_BOTH | {"mcpu": "cascadelake"}),
        (
            lambda: gemm(8, 64, 32, dtype="int8"),
            {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
        ),
        (lambda: gemm(8, 64, 32), WITH_BOTH),
        (lambda: gemm(8, 64, 32, dtype="float16"), WITH_BOTH),
        (lambda: gemm(8, 44, 32, dtype="int8"), WITH_BOTH),
        (lambda: gemm(8, 64, 30, dtype="int8"), WITH_BOTH),
        (lambda: named_gemm(8, 64, 32, weight=False, dtype="bfloat16"), WITH_BOTH),
    ],
    ids=["older", "hidden", "no bfloat16", "older Arm", "float32", "float16", "44 columns", "30 terms", "not constant"],
)
def test_it_is_offered_only_where_it_fits(made: Any, target: dict[str, Any]) -> None:
    assert offered(space_of(made().mod, target | {"num-cores": 2})) == {}


def test_its_trace_replays_in_plain_tvm() -> None:
    made = space("int8")
    program = by_dots(made)
    replayed = tvm.s_tir.Schedule(made.mod)
    tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), replayed)
    assert tvm_ffi.structural_equal(replayed.mod, made.raw_schedule(program).mod)
    main = replayed.mod["main"]
    assert with_dot_products(main).same_as(main), "weights that are not packed are left alone"


_REPLAY = """
import hashlib, json, sys
from test_dot_products import compiled, inputs_of, output, space
from reasoning_compiler.core.programs import Program
made, program = space("int8"), Program.from_json(json.loads(sys.argv[1]))
print(hashlib.sha256(output(made, program, inputs_of(made, 5)).tobytes()).hexdigest())
"""


def test_a_record_replays_in_a_fresh_process() -> None:
    needs("int8")
    import hashlib

    made = space("int8")
    program = by_dots(made, ("C.i tile", (1, 2, 5)), ("C.j_0 tile", (2, 1, 2)), ("C.k_0 tile", (3, 2)))
    here = hashlib.sha256(output(made, program, inputs_of(made, 5)).tobytes()).hexdigest()
    command = [sys.executable, "-c", _REPLAY, json.dumps(program.to_json())]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout
    assert there.split() == [here]


@pytest.mark.parametrize(("name", "sums", "gain"), [("uint8", 12, 4), ("int8", 12 + 2, 4), ("bfloat16", 12, 2)])
def test_the_analysis_counts_instructions(name: str, sums: int, gain: int) -> None:
    on = replace(machine(), features=("avx512bf16", "avx512f", "avx512vnni"))
    made = space_of(gemm(48, 128, 256, dtype=name).mod, WITH_BOTH)
    edits = (("C.i tile", (2, 4, 6)), ("C.j_0 tile", (2, 2, 2)), ("C.k_0 tile", (256 // gain, 1)))
    whole = analyze(made.nests(by_dots(made, *edits)), on)
    found = next(block for block in whole.blocks if block.block == "C_update")
    assert (found.accumulators, found.in_registers, found.vector_lanes) == (sums, True, 16)
    assert found.flops == 2 * 48 * 128 * 256
    assert found.tile == (("i_2", 6), ("j_0_2", 2))
    assert whole.peak.flops == found.peak_flops == gain * on.peak_flops
    at_least = found.flops / found.peak_flops * sums / 12
    assert at_least < found.compute_secs < 1.35 * at_least
    untuned = analyze(made.nests(UNTUNED), on)
    assert untuned.roofline_secs == whole.roofline_secs, "what is possible does not depend on the program"
    assert analyze(made.nests(UNTUNED), machine()).peak.flops == machine().peak_flops


def test_the_expert_opens_with_it_and_says_why() -> None:
    from test_proposers import of_root

    made = space_of(gemm(64, 256, 128, dtype="int8").mod, WITH_BOTH)
    proposal = Expert(made, machine()).propose(of_root(made), 3, np.random.default_rng(0))
    first = proposal.transformations[0]
    assert dict(first.edits)["C instruction"] == "dot products of 4 (vpdpbusd, shifted)"
    assert "16 × 4 products at once" in first.reasoning
    assert any("C instruction" not in dict(t.edits) for t in proposal.transformations), "the usual ways are tried, too"


FEW_ROWS = (("C.i tile", (1, 1, 2)), ("C.j_0 tile", (3, 1, 2)))


@pytest.mark.parametrize("dtype", MNEMONIC)
def test_what_few_rows_stream_from_memory_may_be_prefetched(dtype: str) -> None:
    needs(dtype)
    made = space_of(gemm(2, 96, 64, dtype=dtype).mod, WITH_BOTH, l2_bytes=256)
    terms = 2 if dtype == "bfloat16" else 4
    near, far = (by_dots(made, *FEW_ROWS, ("C.k_0 tile", (64 // terms, 1)), ("C prefetch bytes", d)) for d in (0, 8192))
    packed, library = compiled(made, far)
    calls: list[Any] = []

    def keep(call: Any) -> Any:
        calls.extend([call] if str(getattr(call.op, "name", "")) == "tirx.prefetch" else [])
        return call

    tvm_ffi.structural_map(packed.kernel["main"].body, (tvm.ir.Call, keep))
    size = 2 if dtype == "bfloat16" else 1
    ahead = [size * int(call.args[0].args[0].indices[-1].b) for call in calls]
    assert ahead == [8192, 8192 + 64], "two vectors of 64 bytes in each step"
    assert re.search(rf"prefetchnta[^#]*?\b{MNEMONIC[dtype]}\b", library.mod.inspect_source("asm"), re.DOTALL)
    assert "prefetch" not in compiled(made, near)[1].mod.inspect_source("asm")
    inputs = inputs_of(made, 4)
    np.testing.assert_array_equal(output(made, far, inputs), output(made, near, inputs))


def test_the_analysis_and_the_expert_know_that_prefetches_pay_for_few_rows() -> None:
    from test_proposers import of_root

    wide, small = gemm(2, 4096, 2048, dtype="uint8"), machine(l2_bytes=1 << 20, l3_bytes=4 << 20)
    made = space_of(wide.mod, WITH_BOTH)

    def judged(distance: int) -> Any:
        tiles = (("C.i tile", (1, 1, 2)), ("C.j_0 tile", (64, 1, 4)), ("C.k_0 tile", (512, 1)))
        found = analyze(made.nests(by_dots(made, *tiles, ("C prefetch bytes", distance))), small)
        return next(block for block in found.blocks if block.block == "C_update")

    assert judged(0).bound == "memory" and judged(8192).secs < 0.95 * judged(0).secs
    assert judged(8192).compute_secs > judged(0).compute_secs, "they take load slots"
    proposed = Expert(made, small).propose(of_root(made), 2, np.random.default_rng(0)).transformations
    by_instruction = [edits for edits in map(dict, (t.edits for t in proposed)) if "C instruction" in edits]
    assert by_instruction and "dot products" in by_instruction[0]["C instruction"]
    assert by_instruction[0]["C prefetch bytes"] > 0


def test_a_run_is_compared_with_the_instructions_peak(tmp_path: Path) -> None:
    needs("uint8")
    result = tune(parse("gemm[16,64,64,dtype=uint8]"), out=tmp_path / "run", samples=2)
    header = read_run(result.folder).header
    assert header.peak == Peak(4 * header.machine.peak_flops, "vpdpbusd")
    text = explain_text(explained(read_run(result.folder)), header, header.machine)
    assert f"{flops_text(header.peak.flops)} by vpdpbusd and" in text


def test_what_is_packed_in_each_call_is_counted_and_pays_only_for_many_rows() -> None:
    from test_proposers import of_root

    def opening(rows: int) -> dict[str, Any]:
        made = space_of(not_constant(gemm(rows, 512, 512, dtype="int8")).mod, WITH_BOTH)
        nests = made.nests(by_dots(made))
        copy = next(nest for nest in nests if nest.block == "B_global")
        assert copy.iterations == 512 * 512 and not copy.reduces
        on = replace(machine(), features=("avx512f", "avx512vnni"))
        return dict(Expert(made, on).propose(of_root(made), 3, np.random.default_rng(0)).transformations[0].edits)

    assert opening(512)["C instruction"] == "dot products of 4 (vpdpbusd, shifted), operand packed in each call"
    assert "C instruction" not in opening(1)


@pytest.mark.parametrize(
    ("shape", "at"),
    [
        ((64, 128), lambda i, j, k: (j, k)),  # A moves with the columns
        ((64, 128), lambda i, j, k: (i, k)),  # of B a part is read, and it is given in each call
    ],
)
def test_it_is_not_offered_where_the_instruction_cannot_read_the_operands(shape: Any, at: Any) -> None:
    columns = 64 if at(0, 1, 2)[0] == 1 else 48
    a, b = te.placeholder(shape, "uint8", name="A"), te.placeholder((128, 113), "int8", name="B")
    k = te.reduce_axis((0, 128), "k")
    c = te.compute(
        (64, columns),
        lambda i, j: te.sum(a[at(i, j, k)].astype("int32") * b[k, j].astype("int32"), axis=k),
        name="C",
    )
    target = tvm.target.Target(WITH_BOTH)
    mod = make([a, b, c], lambda x, y: x, weights=()).mod
    made = Space(mod, target, rules=rules_for(mod, target))
    assert not any(decision.name.endswith("instruction") for decision in made.table(UNTUNED))


def test_the_peak_is_the_same_whichever_operand_stands_first() -> None:
    (nest,) = (n for n in nests_of(gemm(8, 32, 64, dtype="uint8").mod) if n.dtypes)
    turned = replace(nest, dtypes=(nest.dtypes[1], nest.dtypes[0], nest.dtypes[2]))
    able = replace(machine(), features=("avx512f", "avx512bw", "avx512vl", "avx512vnni"))
    assert peak_of([nest], able).flops > able.peak_flops
    assert peak_of([turned], able) == peak_of([nest], able)

"""Products by instructions that multiply tiles (AMX), run with a model of them where the machine lacks them."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from reasoning_compiler import machine
from reasoning_compiler.core.programs import UNTUNED, Program
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.machine import detect
from reasoning_compiler.machine.toolchain import c_compiler
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules import dot_products
from reasoning_compiler.space.space import Space
from space_kernels import Kernel, gemm, make, te
from test_dot_products import by_dots, compiled, conv, inputs_of, not_constant, offered, output, space_of

pytestmark = pytest.mark.tvm

AMX = {
    "kind": "llvm",
    "mtriple": "x86_64-linux-gnu",
    "mcpu": "x86-64-v3",
    "mattr": ["+amx-tile", "+amx-int8", "+amx-bf16", "+avx512f", "+avx512vnni"],
    "num-cores": 2,
}
WITHOUT_512 = AMX | {"mattr": AMX["mattr"][:3]}


def twice() -> Kernel:
    """A product of bytes with a bias behind it, and one of bfloat16."""
    a, b = te.placeholder((32, 128), "uint8", name="A"), te.placeholder((128, 48), "int8", name="B")
    p, q = te.placeholder((16, 64), "bfloat16", name="P"), te.placeholder((64, 32), "bfloat16", name="Q")
    bias, r = te.placeholder((48,), "int32", name="bias"), te.reduce_axis((0, 128), name="k")
    s = te.reduce_axis((0, 64), name="s")
    c = te.compute((32, 48), lambda i, j: te.sum(a[i, r].astype("int32") * b[r, j].astype("int32"), axis=r), name="C")
    d = te.compute((32, 48), lambda i, j: c[i, j] + bias[j], name="D")
    e = te.compute(
        (16, 32), lambda i, j: te.sum(p[i, s].astype("float32") * q[s, j].astype("float32"), axis=s), name="E"
    )
    f = te.compute((32, 48), lambda i, j: d[i, j].astype("float32") + e[i % 16, j % 32], name="F")

    def reference(*given: np.ndarray) -> np.ndarray:
        a, b, bias, p, q = given
        product = p.astype("float32") @ q.astype("float32")
        return a.astype("int32") @ b.astype("int32") + bias + np.tile(product, (2, 2))[:, :48]

    return make([a, b, bias, p, q, f], reference, weights=(1, 4))


KERNELS = {
    "int8": lambda: gemm(64, 96, 256, dtype="int8"),
    "int8, transposed": lambda: gemm(16, 32, 192, dtype="int8", transposed=True),
    "uint8": lambda: gemm(32, 48, 320, dtype="uint8"),
    "bfloat16": lambda: gemm(48, 80, 160, dtype="bfloat16"),
    "uint8, convolution": lambda: conv(128, 32, height=3, width=16),
    "uint8 and bfloat16": twice,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The machine's own tiles, or else a model of them: what counts the instructions that it was asked for."""
    compiler = c_compiler()
    if platform.machine() != "x86_64" or sys.platform != "linux" or compiler is None:
        pytest.skip("the model of AMX is for Linux on x86-64, and takes a C compiler")
    if not {"avx2", "fma"} <= set(detect().features):
        pytest.skip("the code around it needs AVX2")
    library = tmp_path_factory.mktemp("model") / "tiles.so"
    source = Path(__file__).with_name("tile_model.c")
    subprocess.run([*compiler, "-O1", "-mfma", "-shared", "-fPIC", "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.taken.restype = ctypes.c_long
    loaded.install()
    yield loaded
    loaded.uninstall()


def taken(model: Any) -> list[int]:
    """Returns how often it configured, released, loaded, stored, multiplied and refused since the last call."""
    return [model.taken(kind) for kind in range(6)]


def check(kernel: Kernel, made: Space, program: Program, seed: int) -> None:
    inputs = inputs_of(made, seed)
    got, wide = (
        output(made, program, inputs),
        [x.astype("float64") if x.dtype == ml_dtypes.bfloat16 else x for x in inputs],
    )
    expected = kernel.reference(*wide)
    if got.dtype == np.float32:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", KERNELS)
def test_integers_are_exact_and_bfloat16_is_summed_up_in_float32(name: str, model: Any) -> None:
    kernel, rng = KERNELS[name](), np.random.default_rng(1)
    made = space_of(kernel.mod, WITHOUT_512)
    program, tried = by_dots(made), 0
    assert len(offered(made)) == (2 if name == "uint8 and bfloat16" else 1)
    while tried < 4:
        change = mutate(made.table(program), rng)
        assert change is not None
        if set(offered(made)) & {site for site, _ in change.edits} or made.why_not(program, change) is not None:
            continue
        program, tried = made.edit(program, change), tried + 1
        if tried % 2:
            taken(model)
            check(kernel, made, program, seed=tried)
            if "amx-tile" not in detect().features:
                configured, released, *moved, refused = taken(model)
                assert configured == released > 0 and all(moved) and not refused, "by these instructions"


def test_all_eight_registers_are_used_and_each_task_configures_its_own(model: Any) -> None:
    kernel = KERNELS["int8"]()
    made = space_of(kernel.mod, WITHOUT_512)
    program = by_dots(made, ("C.i_0 tile", (2, 1, 2)), ("C.j_0 tile", (3, 1, 2)), ("C.k_0 tile", (2, 2)))
    asm = compiled(made, program)[1].mod.inspect_source("asm")
    assert all(f"%tmm{register}" in asm for register in range(8))
    assert asm.count("syscall\n") == 1, "the process asks once in each call"
    taken(model)
    check(kernel, made, program, seed=5)
    if "amx-tile" not in detect().features:
        assert taken(model) == [6, 6, 6 * (4 + 4 * 4), 6 * 4, 6 * 4 * 4, 0], "tasks; sums and operands of four steps"


@pytest.mark.parametrize(
    ("made", "target", "instead"),
    [
        (lambda: gemm(24, 48, 128, dtype="uint8"), AMX, "dot products of 4 (vpdpbusd)"),
        (lambda: gemm(32, 48, 96, dtype="uint8"), AMX, "dot products of 4 (vpdpbusd)"),
        (
            lambda: not_constant(gemm(32, 48, 128, dtype="uint8")),
            AMX,
            "dot products of 4 (vpdpbusd), operand packed in each call",
        ),
        (lambda: gemm(32, 40, 128, dtype="uint8"), AMX, None),
        (lambda: gemm(32, 48, 128, dtype="uint8"), AMX | {"mattr": ["+amx-tile"]}, None),
        (lambda: gemm(32, 48, 128, dtype="uint8"), WITHOUT_512 | {"mtriple": "x86_64-apple-macos"}, None),
        (lambda: gemm(32, 48, 128), AMX, None),
    ],
    ids=["24 rows", "96 terms", "not constant", "40 columns", "without amx-int8", "not Linux", "float32"],
)
def test_they_are_offered_only_where_they_fit(made: Any, target: dict[str, Any], instead: str | None) -> None:
    assert list(offered(space_of(made().mod, target)).values()) == ([] if instead is None else [instead])


def test_what_does_not_fit_into_the_registers_keeps_its_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot_products, "_MAX_TILES", 4)
    kernel = KERNELS["int8"]()
    made = space_of(kernel.mod, WITHOUT_512)
    program = by_dots(made, ("C.i_0 tile", (1, 1, 4)), ("C.j_0 tile", (3, 1, 2)))
    assert "tdpbssd" not in compiled(made, program)[1].mod.inspect_source("asm")
    check(kernel, made, program, seed=3)


@pytest.mark.parametrize(("dtype", "gain"), [("int8", 32), ("bfloat16", 16)])
def test_the_analysis_counts_tiles_and_the_expert_fills_their_registers(dtype: str, gain: int) -> None:
    from journal_examples import header
    from reasoning_compiler.report.explain import Explained, explain_text
    from test_proposers import of_root

    on = machine.preset("xeon-8480")
    made = space_of(gemm(1024, 2048, 1024, dtype=dtype).mod, dict(machine.tvm_target(on).export()))
    first = Expert(made, on).propose(of_root(made), 3, np.random.default_rng(0)).transformations[0]
    (label,) = offered(made).values()
    chosen = dict(first.edits)
    assert chosen["C instruction"] == label
    assert (chosen["C.i_0 tile"][-1], chosen["C.j_0 tile"][-1]) == (2, 2)
    assert "4 accumulators for 8 tile registers" in first.reasoning and f"{gain}× the float32 rate" in first.reasoning
    program = made.edit(UNTUNED, first)
    whole = analyze(made.nests(program), on)
    found = next(block for block in whole.blocks if block.block == "C_update")
    assert (found.accumulators, found.in_registers) == (4, True)
    assert found.flops == 2 * 1024 * 2048 * 1024
    assert whole.peak.flops == gain * on.peak_flops
    at_least = found.flops / found.peak_flops / found.parallel_efficiency
    assert at_least <= found.compute_secs < 1.35 * at_least
    text = explain_text([Explained("expert's", 1, program, None, whole)], header(machine=on), on)
    assert "4 tile accumulators for 8 tile registers" in text

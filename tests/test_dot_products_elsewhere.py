"""Dot-product instructions of other machines than this one: by the object code, and run where they can be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from journal_examples import header
from reasoning_compiler import machine
from reasoning_compiler.codegen.dot_products import with_dot_products
from reasoning_compiler.core.programs import UNTUNED
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.ir.dots import DOTS, dot_named, dots_for
from reasoning_compiler.machine import detect
from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.report.explain import Explained, explain_text
from space_kernels import Kernel, gemm, make, te
from test_dot_products import WITH_BOTH, by_dots, compiled, inputs_of, offered, output, space_of

pytestmark = pytest.mark.tvm

WITHOUT_512 = WITH_BOTH | {"mattr": ["-avx512f"]}


def x86(cpu: str) -> dict[str, Any]:
    return WITH_BOTH | {"mcpu": cpu}


def of_preset(name: str) -> dict[str, Any]:
    return dict(machine.tvm_target(machine.preset(name)).export())


def unsigned(m: int, n: int, k: int) -> Kernel:
    """Both operands uint8."""
    a, b = te.placeholder((m, k), "uint8", name="A"), te.placeholder((k, n), "uint8", name="B")
    r = te.reduce_axis((0, k), name="k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r].astype("int32") * b[r, j].astype("int32"), axis=r), name="C")
    return make([a, b, c], lambda x, y: x.astype("int32") @ y.astype("int32"), weights=(1,))


CODE = [
    ("graviton2", lambda: gemm(8, 40, 24, dtype="int8"), "sdot", r"\bsdot(\.4s)?\b"),
    ("graviton2", lambda: gemm(8, 40, 24, dtype="uint8"), "sdot, shifted", r"\bsdot(\.4s)?\b"),
    ("graviton2", lambda: unsigned(8, 40, 24), "udot", r"\budot(\.4s)?\b"),
    ("m2-pro", lambda: gemm(8, 40, 24, dtype="int8"), "sdot", r"\bsdot(\.4s)?\b"),
    ("m2-pro", lambda: gemm(8, 40, 24, dtype="uint8"), "usdot", r"\busdot(\.4s)?\b"),
    ("m2-pro", lambda: gemm(8, 40, 24, dtype="bfloat16"), "bfdot", r"\bbfdot(\.4s)?\b"),
    (x86("alderlake"), lambda: gemm(8, 40, 24, dtype="uint8"), "vpdpbusd, 256 bits", r"\bvpdpbusd\b.*%ymm"),
    (x86("alderlake"), lambda: gemm(8, 40, 24, dtype="int8"), "vpdpbusd, 256 bits, shifted", r"\bvpdpbusd\b.*%ymm"),
    (x86("arrowlake"), lambda: gemm(8, 40, 24, dtype="int8"), "vpdpbssd, 256 bits", r"\bvpdpbssd\b.*%ymm"),
    (x86("cascadelake"), lambda: gemm(8, 48, 24, dtype="int8"), "vpdpbusd, shifted", r"\bvpdpbusd\b.*%zmm"),
    (x86("cascadelake"), lambda: gemm(8, 40, 24, dtype="uint8"), "vpdpbusd, 256 bits", r"\bvpdpbusd\b.*%ymm"),
    (x86("sapphirerapids"), lambda: gemm(8, 48, 24, dtype="bfloat16"), "vdpbf16ps", r"\bvdpbf16ps\b.*%zmm"),
    ("xeon-8480", lambda: gemm(32, 48, 128, dtype="int8"), "tdpbssd", r"\btdpbssd\s+%tmm"),
    ("xeon-8480", lambda: gemm(32, 48, 128, dtype="uint8"), "tdpbusd", r"\btdpbusd\s+%tmm"),
    ("xeon-8480", lambda: unsigned(32, 48, 128), "tdpbuud", r"\btdpbuud\s+%tmm"),
    ("xeon-8480", lambda: gemm(32, 48, 128, dtype="bfloat16"), "tdpbf16ps", r"\btdpbf16ps\s+%tmm"),
]


@pytest.mark.parametrize(("target", "kernel", "name", "code"), CODE, ids=[f"{c[0]}-{c[2]}" for c in CODE])
def test_the_targets_own_instruction_is_in_its_code(target: Any, kernel: Any, name: str, code: str) -> None:
    made = space_of(kernel().mod, of_preset(target) if isinstance(target, str) else target)
    assert list(offered(made).values()) == [dot_named(name).label]
    packed, library = compiled(made, by_dots(made))
    put = "bfloat16_dot" if name in ("vdpbf16ps", "bfdot") else dot_named(name).intrinsic.removeprefix("llvm.x86.")
    assert put in with_dot_products(packed.kernel["main"]).script(), "put there, where LLVM may also find it by itself"
    assert re.search(code, library.mod.inspect_source("asm"))


@pytest.mark.parametrize("name", ["core-i9", "xeon-e3", "epyc-7r13", "graviton2"])
def test_machines_without_one_have_no_such_decision(name: str) -> None:
    kernel = gemm(8, 48, 24, dtype="bfloat16" if name == "graviton2" else "int8")
    assert offered(space_of(kernel.mod, of_preset(name))) == {}


@pytest.mark.parametrize(
    ("kernel", "target"),
    [
        (gemm(10, 24, 64, dtype="uint8"), WITHOUT_512),
        (gemm(10, 24, 64, dtype="int8"), WITHOUT_512),
        (gemm(10, 40, 64, dtype="int8"), WITH_BOTH),
    ],
    ids=["AVX-VNNI, uint8", "AVX-VNNI, int8", "AVX-512"],
)
def test_half_vectors_compute_the_same(kernel: Kernel, target: dict[str, Any]) -> None:
    needed = "avxvnni" if target is WITHOUT_512 else "avx512vnni"
    if needed not in detect().features:
        pytest.skip(f"this machine has no {needed}")
    made = space_of(kernel.mod, target)
    edits = (("C.i tile", (1, 2, 5)), ("C.j_0 tile", (1, 1, 3) if target is WITHOUT_512 else (1, 1, 5)))
    program = by_dots(made, *edits, ("C.k_0 tile", (4, 4)))
    assert re.search(r"\bvpdpbusd\b.*%ymm", compiled(made, program)[1].mod.inspect_source("asm"))
    inputs = inputs_of(made, 3)
    np.testing.assert_array_equal(output(made, program, inputs), kernel.reference(*inputs))


def test_wider_vectors_come_first_and_names_are_told_apart() -> None:
    both = {"avx512vl", "avx512vnni", "avxvnni"}
    assert [dot.lanes for dot in dots_for(("uint8", "int8", "int32"), both)] == [16, 8, 8]
    assert dots_for(("uint8", "int8", "int32"), {"avx512vl"}) == ()
    for dot in DOTS:
        same = {(d.left, d.right, d.lanes, d.shifted, d.intrinsic) for d in DOTS if d.name == dot.name}
        assert len(same) == 1, "a record names its instruction"


@pytest.mark.parametrize(("name", "dtype", "gain"), [("graviton2", "int8", 4), ("m2-pro", "bfloat16", 2)])
def test_on_arm_the_analysis_counts_its_vectors_and_the_expert_uses_them(name: str, dtype: str, gain: int) -> None:
    from test_proposers import of_root

    on = machine.preset(name)
    kernel = gemm(48, 80, 256, dtype=dtype)
    made = space_of(kernel.mod, of_preset(name))
    edits = (("C.i tile", (2, 4, 6)), ("C.j_0 tile", (5, 1, 4)), ("C.k_0 tile", (256 // gain, 1)))
    whole = analyze(made.nests(by_dots(made, *edits)), on)
    found = next(block for block in whole.blocks if block.block == "C_update")
    assert (found.accumulators, found.in_registers, found.vector_lanes) == (24, True, 4)
    assert whole.peak.flops == gain * on.peak_flops
    at_least = found.flops / found.peak_flops / found.parallel_efficiency
    assert at_least < found.compute_secs < 1.35 * at_least

    first = Expert(made, on).propose(of_root(made), 3, np.random.default_rng(0)).transformations[0]
    (label,) = offered(made).values()
    assert dict(first.edits)["C instruction"] == label
    assert f"{gain:g}× the float32 rate" in first.reasoning
    program = made.edit(UNTUNED, first)
    chosen = analyze(made.nests(program), on)
    update = next(block for block in chosen.blocks if block.block == "C_update")
    assert update.in_registers and update.accumulators <= on.num_vector_registers - 2
    text = explain_text([Explained("expert's", 1, program, None, chosen)], header(machine=on), on)
    assert f"4 lanes by {'bfdot' if dtype == 'bfloat16' else 'sdot'}" in text

"""Any vectorized extent as vectors of one register: by the object code of several machines, and by results."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from reasoning_compiler import codegen
from reasoning_compiler.machine import detect, tvm_target
from space_kernels import te, tvm

pytestmark = pytest.mark.tvm

ROWS = 4
AVX2 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "core-avx2"}
AVX512 = AVX2 | {"mcpu": "sapphirerapids"}
ZEN4 = AVX2 | {"mcpu": "znver4"}
NEON = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}

INSTRUCTION = re.compile(r"^\s+([a-z][a-z0-9.]*)\s+(.*)$", re.MULTILINE)
FUSED = {"avx": r"vfn?m[a-z]*231ps|vfn?m[a-z]*213ps|vfn?m[a-z]*132ps", "neon": "fmla"}
SCALAR = {"avx": r"vfmadd\d+ss|vmulss", "neon": "fmadd|fmul"}
MOVED = {"avx": "vinsertps|vpinsr[bwdq]|vextractps|vpextr[bwdq]", "neon": "ins|zip1"}


def product(columns: int, dtype: str = "float32", sums: str | None = None, *, in_registers: bool = True) -> Any:
    """Returns the schedule of a product, one vectorized loop over all columns in a register tile of four rows."""
    sums = sums or dtype
    a, b = te.placeholder((8, 64), dtype, name="A"), te.placeholder((64, columns), dtype, name="B")
    k = te.reduce_axis((0, 64), name="k")
    c = te.compute((8, columns), lambda i, j: te.sum(a[i, k].astype(sums) * b[k, j].astype(sums), axis=k), name="C")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b, c]))
    block = schedule.get_sblock("C")
    written = schedule.cache_write(block, 0, "local") if in_registers else None
    i, j, reduced = schedule.get_loops(block)
    outer, rows = schedule.split(i, [None, ROWS])
    schedule.reorder(outer, reduced, rows, j)
    if written is not None:
        schedule.reverse_compute_at(written, outer)
        *_, row, column = schedule.get_loops(written)
        schedule.unroll(row)
        schedule.vectorize(column)
    schedule.unroll(rows)
    schedule.vectorize(j)
    schedule.decompose_reduction(block, reduced)
    return schedule


def instructions(mod: Any, target: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the instructions of a module's code, each with its operands."""
    text = codegen.compile(mod, tvm.target.Target(target)).executable.mod.inspect_source("asm")
    return INSTRUCTION.findall(text)


def by_width(found: list[tuple[str, str]], names: str) -> Counter[str]:
    """Returns how often instructions occur, by the registers that they use: `z`, `y`, `x`, `4s` or none."""
    widths: Counter[str] = Counter()
    for name, operands in found:
        if re.fullmatch(names, name):
            register = re.search(r"%([zyx])mm|v\d+\.(\d+s)", operands)
            widths[(register[1] or register[2]) if register else ""] += 1
    return widths


@pytest.mark.parametrize(
    ("target", "kind", "lanes", "width"),
    [(AVX2, "avx", 8, "y"), (AVX512, "avx", 16, "z"), (ZEN4, "avx", 16, "z"), (NEON, "neon", 4, "4s")],
    ids=["avx2", "sapphirerapids", "znver4", "neon"],
)
@pytest.mark.parametrize("columns", [17, 28, 48, 56])
def test_the_object_code_has_whole_vectors(
    columns: int, target: dict[str, Any], kind: str, lanes: int, width: str
) -> None:
    found = instructions(product(columns).mod, target)
    fused, scalar = by_width(found, FUSED[kind]), by_width(found, SCALAR[kind])
    whole, rest = divmod(columns, lanes)
    assert fused[width] >= ROWS * whole, "a multiply-add for each whole vector of the register tile"
    assert fused[width] % (ROWS * whole) == 0, "and LLVM unrolls the reduction, if at all"
    unrolled = fused[width] // (ROWS * whole)
    assert scalar.total() <= ROWS * unrolled * (rest % 2), "one scalar a row where a column remains"
    assert by_width(found, MOVED[kind]).total() <= 8, "vectors are not put together from scalars"


def test_plain_tvm_breaks_the_same_loop_into_scalars() -> None:
    text = tvm.compile(product(28).mod, target=tvm.target.Target(AVX2)).mod.inspect_source("asm")
    assert by_width(INSTRUCTION.findall(text), MOVED["avx"]).total() > 100


@pytest.mark.parametrize("columns", [16, 32, 64])
def test_sums_stay_in_registers_where_they_did(columns: int) -> None:
    """Each vector of the result is stored once, when the reduction is over."""
    found = instructions(product(columns).mod, AVX512)
    stores = [name for name, operands in found if name in ("vmovaps", "vmovups") and re.match(r"%zmm\d+, ", operands)]
    assert len(stores) == 8 * columns // 16


@pytest.mark.parametrize(
    ("dtype", "sums", "tolerance"),
    [
        ("float32", "float32", 1e-5),
        ("float64", "float64", 1e-12),
        ("float16", "float16", 2e-2),
        ("float16", "float32", 1e-5),
        ("bfloat16", "float32", 1e-5),
        ("int8", "int32", 0),
        ("uint8", "int32", 0),
    ],
)
@pytest.mark.parametrize("in_registers", [True, False], ids=["local", "global"])
def test_every_tail_computes_the_right_result(dtype: str, sums: str, tolerance: float, in_registers: bool) -> None:
    import ml_dtypes

    rng, of = np.random.default_rng(0), ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    for columns in (1, 2, 3, 5, 7, 12, 17, 28, 31, 48, 56, 67):
        a, b = (rng.integers(0, 100, (8, 64)), rng.integers(0, 100, (64, columns)))
        if not dtype.startswith(("int", "uint")):
            a, b = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
        a, b = a.astype(of), b.astype(of)
        out = tvm.runtime.tensor(np.zeros((8, columns), sums))
        schedule = product(columns, dtype, sums, in_registers=in_registers)
        kernel = codegen.compile(schedule.mod, tvm_target(detect())).executable["main"]
        kernel(tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        error = np.abs(out.numpy() - expected).max()
        assert error <= tolerance * np.abs(expected).max(), f"{columns} columns"


def elementwise(shape: tuple[int, ...], *, math: Any = lambda x: x * 2.0) -> tuple[Any, Any]:
    """Returns the schedule of `math(X[i, j] + B[j])` and its output block."""
    x, b = te.placeholder(shape, name="X"), te.placeholder(shape[-1:], name="B")
    y = te.compute(shape, lambda *at: math(x[at] + b[at[-1]]), name="Y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, b, y]))
    return schedule, schedule.get_sblock("Y")


def assert_doubled(schedule: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, b = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[-1:]).astype(np.float32)
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    kernel = codegen.compile(schedule.mod, tvm_target(detect())).executable["main"]
    kernel(tvm.runtime.tensor(x), tvm.runtime.tensor(b), out)
    np.testing.assert_allclose(out.numpy(), (x + b) * 2, rtol=1e-6)


def whole_vectors(schedule: Any) -> int:
    return by_width(instructions(schedule.mod, AVX2), "vaddps|vmulps")["y"]


def test_no_vector_crosses_the_end_of_a_row() -> None:
    """Rows of 12 floats, four of them in one loop: eight and four lanes each, and `B` is read in vectors."""
    schedule, block = elementwise((16, 12))
    _, inner = schedule.split(schedule.get_loops(block)[0], [None, 4])
    schedule.vectorize(schedule.fuse(inner, schedule.get_loops(block)[-1]))
    assert whole_vectors(schedule) >= 4
    assert by_width(instructions(schedule.mod, AVX2), MOVED["avx"]).total() <= 8
    assert_doubled(schedule, (16, 12))


@pytest.mark.parametrize("width", [16, 24, 40])
def test_a_condition_on_the_lanes_leaves_whole_vectors_whole(width: int) -> None:
    """100 columns in vectors that do not divide them: TVM alone computes all of them one by one."""
    schedule, block = elementwise((8, 100))
    _, inner = schedule.split(schedule.get_loops(block)[1], [None, width])
    schedule.vectorize(inner)
    assert whole_vectors(schedule) >= 2
    assert_doubled(schedule, (8, 100))


def test_what_tvm_makes_no_vectors_of_is_left_to_llvm() -> None:
    schedule, block = elementwise((8, 96), math=lambda x: tvm.tirx.nearbyint(x))
    schedule.vectorize(schedule.get_loops(block)[1])
    found = instructions(schedule.mod, AVX2)
    assert by_width(found, "vroundps")["y"] >= 1 and not by_width(found, "vroundss")


def test_a_long_loop_is_not_unrolled_whole() -> None:
    schedule, block = elementwise((2, 4096))
    schedule.vectorize(schedule.get_loops(block)[1])
    assert 1 <= whole_vectors(schedule) <= 64
    assert_doubled(schedule, (2, 4096))

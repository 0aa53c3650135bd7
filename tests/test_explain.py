"""What is explained of programs, against what was counted by hand on a gemm, a convolution, a sum and a softmax."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from journal_examples import MACHINE, header, ok
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.cost.analysis import Analysis, BlockAnalysis, analyze
from reasoning_compiler.report.explain import Explained, explain_json, explain_text
from reasoning_compiler.space.space import Space
from space_kernels import conv2d, gemm, make, softmax, te, tvm

pytestmark = pytest.mark.tvm

M = replace(MACHINE, num_cores=2)  # AVX-512, L1 32 KB, L2 1 MB, 300 GFLOP/s, 26 GB/s
KB = 1024


def analysis(kernel: Any, *edits: Any, flops: float = 0, num_bytes: float = 0) -> Analysis:
    space = Space(kernel.mod, tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 2}))
    program = space.edit(UNTUNED, Transformation(edits)) if edits else UNTUNED
    return analyze(space.nests(program), M, kernel_flops=flops, kernel_bytes=num_bytes)


def block(found: Analysis, name: str) -> BlockAnalysis:
    (chosen,) = (b for b in found.blocks if b.block == name)
    return chosen


def row_sum(rows: int, columns: int) -> Any:
    x, k = te.placeholder((rows, columns), name="X"), te.reduce_axis((0, columns), name="k")
    y = te.compute((rows,), lambda i: te.sum(x[i, k], axis=k), name="Y")
    return make([x, y], lambda x: x.sum(1))


def test_a_gemm_by_hand() -> None:
    edits = (("C.i tile", (2, 1, 16, 8)), ("C.j tile", (1, 1, 16, 32)), ("C.k tile", (4, 64)), ("unroll", 16))
    found = analysis(gemm(256, 512, 256), *edits)
    update, init = block(found, "C_update"), block(found, "C_init")
    assert update.flops == 2 * 256 * 512 * 256
    assert update.tile == (("i_3", 8), ("j_3_fused", 32))
    assert (update.vector_lanes, update.accumulators, update.in_registers) == (16, 8 * 32 // 16, True)
    assert (update.parallel_extent, update.parallel_efficiency) == (2, 1.0)
    l1, l2, l3 = update.levels
    # From k_1 inward: 8×64 of A, 64×32 of B, 8×32 of C.
    assert (l1.from_loop, l1.working_set_bytes) == ("k_1", (8 * 64 + 64 * 32 + 8 * 32) * 4)
    # B's panels come for each i_2 of 16, k_0 and half; A's for each i_2, k_0 and half; C's with B's, there and back.
    a, b, c = 8 * 64 * 4, 64 * 32 * 4, 8 * 32 * 4
    assert l1.bytes_in == 2 * 4 * 16 * (a + 16 * (b + 2 * c))
    # L2, with 896 KB of it in use, just holds 128 rows of A (128 KB), all 512 KB of B and 256 KB of C.
    assert (l2.from_loop, l2.working_set_bytes) == ("k_0", (128 + 512 + 256) * KB)
    # L3 holds all: each argument comes once, and C goes back.
    assert l3.bytes_in == update.bytes_moved == (256 + 512 + 2 * 512) * KB
    assert update.intensity == pytest.approx(67108864 / (1792 * KB))
    assert init.bytes_moved == 0, "what the sums start with stays in the cache until they are added"


def test_a_convolution_by_hand() -> None:
    # 3×3 over 16×16 positions, 16 to 16 channels, as written.
    found = analysis(conv2d(16, 16, 16))
    pad, conv = block(found, "pad_temp"), block(found, "conv2d_nhwc")
    assert conv.flops == 2 * 9 * 16**4
    padded, out, weights = 18 * 18 * 16 * 4, 16**3 * 4, 9 * 16 * 16 * 4
    assert conv.bytes_moved == padded + weights + 2 * out, "windows overlap, and come once"
    assert pad.bytes_moved == 2 * padded + 16**3 * 4
    # 9 KB of weights and three rows of 18 positions and 16 channels stay in L1 from row to row.
    l1 = conv.levels[0]
    assert (l1.from_loop, l1.bytes_in) == ("xx", pytest.approx(padded + weights + 2 * out))
    assert (conv.vector_lanes, conv.parallel_extent) == (1, 1), "sums run scalar, on one core"


def test_a_sum_by_hand() -> None:
    found = analysis(row_sum(1024, 2048))
    (total,) = found.blocks
    assert total.flops == 1024 * 2048
    assert total.bytes_moved == 1024 * 2048 * 4 + 2 * 1024 * 4
    assert total.intensity == pytest.approx(0.25, rel=0.01), "one addition for each float of four bytes"
    assert (total.vector_lanes, total.accumulators, total.in_registers) == (1, 1, True)
    # One addition waits for the one before: 4 cycles each.
    clock = 300e9 / (2 * 2 * 2 * 16)
    assert total.compute_secs == pytest.approx(4 * 1024 * 2048 / clock, rel=0.02)
    assert total.bound == "compute", "far slower than memory"


def test_a_softmax_by_hand() -> None:
    rows, columns = 256, 512
    found = analysis(softmax(rows, columns))
    whole, vector = rows * columns * 4, rows * 4
    exponentials = block(found, "T_softmax_exp")
    assert exponentials.bytes_moved == whole + 2 * whole + vector, "reads X and the maxima, writes the exponentials"
    assert exponentials.vector_lanes == 1, "calls of libm are scalar"
    assert block(found, "T_softmax_norm").bytes_moved == whole + 2 * whole + vector
    assert block(found, "T_softmax_maxelem").bytes_moved == whole + 2 * vector
    assert block(found, "T_softmax_expsum").bytes_moved == whole + 2 * vector


def explained(**changes: Any) -> Explained:
    made = analysis(gemm(256, 512, 256), flops=2 * 256 * 512 * 256, num_bytes=1280 * KB)
    fields = {"name": "best", "node": 3, "program": UNTUNED, "measurement": ok(1e-3), "analysis": made}
    return Explained(**(fields | changes))


GEMM = header(flops=67108864, bytes=1280 * KB, spec="gemm[256,512,256]")


def test_the_share_of_the_roofline_that_was_reached() -> None:
    secs = 67108864 / 300e9
    assert explained().roofline_share == pytest.approx(secs / 1e-3)
    text = explain_text([explained()], GEMM, M)
    assert "best (node 3): 1 ms measured, 67.1 GFLOP/s, 22% of the roofline" in text
    assert "roofline: 224 µs, compute-bound (peaks 300 GFLOP/s and 26 GB/s; ridge point 11.5 FLOP/byte)" in text
    for words in ("register tile", "vectors", "cores", "L1 32 KB", "L2 1 MB", "L3 36 MB", "memory", "limited by"):
        assert words in text
    assert "not measured, estimated" in explain_text([explained(measurement=None)], GEMM, M)


def test_the_json_says_everything() -> None:
    told = json.loads(json.dumps(explain_json([explained()], GEMM, M)))
    assert (told["workload"], told["intensity"]) == ("gemm[256,512,256]", pytest.approx(51.2))
    (program,) = told["programs"]
    assert program["roofline_share"] == pytest.approx(0.2237, rel=0.001)
    (only,) = program["blocks"]
    assert only["estimated_share"] == 1.0 and only["bytes_moved"] == 1792 * KB and only["vector_registers"] == 32
    assert [level["capacity_bytes"] for level in only["levels"]] == [32 * KB, 1024 * KB, 36 * 1024 * KB]
    wanted = "tile vector_lanes accumulators in_registers parallel_extent parallel_efficiency bound roofline_secs flops"
    assert set(wanted.split()) <= set(only)


def test_nothing_steers_the_terminal() -> None:
    text = explain_text([explained()], header(spec="a\x1b[2Jb\nc"), M)
    assert "\x1b" not in text and text.count("a [2Jb c") == 1

"""The workload room without TVM: references, tolerances, inputs, parameters."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest

from reasoning_compiler import workload as workloads
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.workload import CATALOGUE, Workload, numpy_dtype, parse, references
from reasoning_compiler.workload.user import names_a_file


class NoIndices(Workload):
    index_ranges: ClassVar = {}


def workload(*arguments: Argument) -> Workload:
    return NoIndices("w", None, arguments, 0, None, "")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_the_room_does_not_import_tvm():
    code = "import sys, reasoning_compiler.workload; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- references against formulas written another way --------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_attention_reference(causal):
    q, k, v = normal(4, 5, 3), normal(2, 5, 3, seed=1), normal(2, 5, 3, seed=2)
    k_all, v_all = np.repeat(k, 2, axis=0), np.repeat(v, 2, axis=0)
    weights = np.exp(np.einsum("hid,hjd->hij", q, k_all, dtype=np.float64) / np.sqrt(3.0))
    if causal:
        weights *= np.tril(np.ones((5, 5)))
    right = np.einsum("hij,hjd->hid", weights, v_all) / weights.sum(axis=2)[..., None]
    np.testing.assert_allclose(
        references.attention([q, k, v], causal=causal, dtype=np.float64)[0], right, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("lead", [(), (3,)])
def test_swiglu_reference(lead):
    x, gate, up = normal(*lead, 4, 6), normal(*lead, 6, 5, seed=1), normal(*lead, 6, 5, seed=2)
    down = normal(*lead, 5, 6, seed=3)
    g = np.einsum("...tk,...kn->...tn", x, gate, dtype=np.float64)
    u = np.einsum("...tk,...kn->...tn", x, up, dtype=np.float64)
    # silu(g) = g sigmoid(g), and sigmoid(g) = (1 + tanh(g / 2)) / 2
    right = np.einsum("...tk,...kn->...tn", g * 0.5 * (1.0 + np.tanh(g / 2.0)) * u, down)
    np.testing.assert_allclose(
        references.swiglu([x, gate, up, down], dtype=np.float64)[0], right, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_conv_reference(kernel, layout):
    x, weight, pad = normal(2, 4, 6, 3), normal(kernel, kernel, 3, 7, seed=1), kernel // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    right = np.einsum("nhwcab,abco->nhwo", windows, weight)
    if layout == "NCHW":
        x, weight, right = x.transpose(0, 3, 1, 2), weight.transpose(3, 2, 0, 1), right.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        references.conv([x, weight], layout=layout, dtype=np.float64)[0], right, rtol=1e-12, atol=1e-12
    )


def test_gemm_reference():
    a, b = normal(3, 7), normal(7, 5, seed=1)
    np.testing.assert_allclose(
        references.gemm([a, b], dtype=np.float64)[0], np.einsum("ik,kj->ij", a, b, dtype=np.float64), rtol=1e-12
    )
    a8 = np.full((2, 70_000), -128, dtype=np.int8)
    (product,) = references.gemm([a8, a8.T], dtype=np.float64)
    assert product.dtype == np.int32
    assert (product == 128 * 128 * 70_000).all()


# -- inputs -------------------------------------------------------------------------------------------------------


def test_inputs_repeat_with_the_seed_and_leave_out_outputs():
    w = workload(
        Argument("A", (64, 100), "float32"),
        Argument("W", (100, 50), "float32", "weight"),
        Argument("C", (64, 50), "float32", "output"),
    )
    a, b = w.make_inputs(7)
    again, other = w.make_inputs(7), w.make_inputs(8)
    assert (a.shape, b.shape) == ((64, 100), (100, 50))
    assert (again[0] == a).all() and (again[1] == b).all()
    assert (other[0] != a).any()
    assert a.std() == pytest.approx(1.0, rel=0.05) and abs(a.mean()) < 0.05
    assert b.std() == pytest.approx(0.1, rel=0.05)
    assert w.bytes == 4 * (64 * 100 + 100 * 50 + 64 * 50)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int8", -127, 127), ("uint8", 0, 255), ("int32", -100, 100), ("int64", -100, 100), ("bool", 0, 1)],
)
def test_integer_inputs_stay_in_range(dtype, low, high):
    (values,) = workload(Argument("I", (5, 1000), dtype), Argument("O", (1,), dtype, "output")).make_inputs(0)
    assert values.dtype == numpy_dtype(dtype)
    assert (int(values.min()), int(values.max())) == (low, high)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_float_inputs_have_their_dtype(dtype):
    (values,) = workload(Argument("A", (40, 50), dtype)).make_inputs(0)
    assert values.dtype == numpy_dtype(dtype)
    assert values.astype(np.float64).std() == pytest.approx(1.0, rel=0.1)
    assert numpy_dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)


# -- names and parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lama3-attention", "no workload `lama3-attention`; the nearest are llama3-attention"),
        ("moe", "the nearest are deepseek-moe"),
        ("xyz", "there are llama3-attention, deepseek-moe, flux-attention, flux-conv, llama4-mlp, routed-experts"),
        ("", "names no workload"),
        ("gemm[512,4096", "not closed"),
        ("gemm[seq_len=4]", "no parameter `seq_len`; it has m=512, n=4096, k=1024, weight=true, dtype=float32"),
        ("gemm[1,2,3,true,float32,9]", "takes at most 5 parameters, not 6"),
        ("gemm[m=abc]", "`m` of `gemm` is 'abc'; it must be a whole number from 1"),
        ("gemm[m=-4]", "`m` of `gemm` is '-4'"),
        ("gemm[m=0]", "`m` of `gemm` is 0"),
        ("gemm[m=4.5]", "`m` of `gemm` is '4.5'"),
        ("gemm[m=99999999999]", "it must be a whole number from 1 to 2147483647"),
        ("gemm[m=4,m=5]", "`m` twice"),
        ("gemm[4,m=5]", "`m` twice"),
        ("gemm[m=4,5]", "stands after a named parameter"),
        ("gemm[dtype=float64]", "one of float32, float16, bfloat16, int8"),
        ("llama3-attention[dtype=int8]", "one of float32, float16, bfloat16"),
        ("gemm[weight=maybe]", "one of true, false"),
        ("llama3-attention[num_heads=3]", "must be a multiple of `num_kv_heads`=8"),
        ("flux-conv[layout=HWCN]", "one of NHWC, NCHW"),
    ],
)
def test_wrong_specs(text, says):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["8", 8.0, True, 0, None])
def test_wrong_parameters_in_python(value):
    with pytest.raises(UsageError, match="`m` of `gemm` is"):
        workloads.gemm(m=value)


def test_every_entry_documents_itself():
    assert list(CATALOGUE) == [
        "llama3-attention", "deepseek-moe", "flux-attention", "flux-conv", "llama4-mlp", "routed-experts", "gemm",
    ]  # fmt: skip
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.doc
        assert "Full size:" in entry.make.__doc__
        assert all(parameter.allows(parameter.default) for parameter in entry.parameters)


@pytest.mark.parametrize(
    ("text", "is_file"),
    [("kernels.py:f", True), ("a/b.py", True), ("C:\\k.py:f", True), ("gemm", False), ("model.onnx", False)],
)
def test_what_names_a_file(text, is_file):
    assert names_a_file(text) == is_file

"""Small kernels for the tests of the space, each with what NumPy makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from reasoning_compiler.machine import import_tvm

tvm = import_tvm()

from tvm import te, topi  # noqa: E402

Reference = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Kernel:
    """A module with one PrimFunc `main`, and the reference that computes its last argument from the others."""

    mod: Any  # tvm.IRModule
    reference: Reference


def make(args: list[Any], reference: Reference, *, weights: tuple[int, ...] = ()) -> Kernel:
    func = te.create_prim_func(args).with_attr("global_symbol", "main")
    if weights:
        func = func.with_attr("layout_free_buffers", list(weights))
    return Kernel(tvm.IRModule({"main": func}), reference)


def gemm(
    m: int = 32, n: int = 32, k: int = 32, *, dtype: str = "float32", relu: bool = False, transposed: bool = False
) -> Kernel:
    """C = A · B with B a constant weight, in float32 or, for integers, int32; with relu a block D after it.

    Args:
        dtype: of both; with uint8, B is int8.
        transposed: B is [n, k].
    """
    sum_dtype = "float32" if "float" in dtype else "int32"
    a = te.placeholder((m, k), dtype, name="A")
    b = te.placeholder((n, k) if transposed else (k, n), "int8" if dtype == "uint8" else dtype, name="B")
    r = te.reduce_axis((0, k), name="k")
    c = te.compute(
        (m, n),
        lambda i, j: te.sum(a[i, r].astype(sum_dtype) * b[(j, r) if transposed else (r, j)].astype(sum_dtype), axis=r),
        name="C",
    )

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x.astype(sum_dtype) @ (y.T if transposed else y).astype(sum_dtype)

    if not relu:
        return make([a, b, c], product, weights=(1,))
    d = te.compute((m, n), lambda i, j: te.max(c[i, j], 0.0), name="D")
    return make([a, b, d], lambda x, y: np.maximum(product(x, y), 0), weights=(1,))


def gemm_vnni(m: int = 32, n: int = 32, k: int = 32) -> Kernel:
    """uint8 · int8 in int32, with the weight laid out as x86's dot-product instruction reads it."""
    a = te.placeholder((m, k), "uint8", name="A")
    b = te.placeholder((n // 16, k // 4, 16, 4), "int8", name="B")
    r = te.reduce_axis((0, k), name="k")
    c = te.compute(
        (m, n),
        lambda i, j: te.sum(a[i, r].astype("int32") * b[j // 16, r // 4, j % 16, r % 4].astype("int32"), axis=r),
        name="C",
    )

    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x.astype("int32") @ y.transpose(1, 3, 0, 2).reshape(k, n).astype("int32")

    return make([a, b, c], reference)


def batched_matmul(batch: int = 4, m: int = 16, n: int = 16, k: int = 16) -> Kernel:
    a, b = te.placeholder((batch, m, k), name="A"), te.placeholder((batch, k, n), name="B")
    r = te.reduce_axis((0, k), name="k")
    c = te.compute((batch, m, n), lambda b_, i, j: te.sum(a[b_, i, r] * b[b_, r, j], axis=r), name="C")
    return make([a, b, c], np.matmul)


def conv2d(size: int = 8, ci: int = 16, co: int = 16) -> Kernel:
    """A 3x3 convolution NHWC with a block for the padding; the weights are constant."""
    x = te.placeholder((1, size, size, ci), name="X")
    w = te.placeholder((3, 3, ci, co), name="W")
    y = topi.nn.conv2d_nhwc(x, w, 1, 1, 1)
    return make([x, w, y], _conv2d, weights=(1,))


def depthwise(size: int = 8, channels: int = 16) -> Kernel:
    x = te.placeholder((1, size, size, channels), name="X")
    w = te.placeholder((3, 3, channels, 1), name="W")
    y = topi.nn.depthwise_conv2d_nhwc(x, w, 1, 1, 1)

    def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(p[:, i : i + size, j : j + size] * w[i, j, :, 0] for i in range(3) for j in range(3))

    return make([x, w, y], reference)


def softmax(rows: int = 16, columns: int = 32) -> Kernel:
    x = te.placeholder((rows, columns), name="X")
    return make([x, topi.nn.softmax(x)], _softmax)


def layer_norm(rows: int = 16, columns: int = 32) -> Kernel:
    x = te.placeholder((rows, columns), name="X")
    g, b = te.placeholder((columns,), name="G"), te.placeholder((columns,), name="B")

    def reference(x: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * g + b

    return make([x, g, b, topi.nn.layer_norm(x, g, b, [1], 1e-5)], reference)


def attention(heads: int = 2, length: int = 16, dim: int = 16) -> Kernel:
    """softmax(Q · Kᵀ) · V: two contractions around a softmax; MetaSchedule has 81 sketches for it on a CPU."""
    q, k, v = (te.placeholder((heads, length, dim), name=name) for name in "QKV")
    r = te.reduce_axis((0, dim), name="r")
    s = te.compute((heads, length, length), lambda h, i, j: te.sum(q[h, i, r] * k[h, j, r], axis=r), name="S")
    p = topi.nn.softmax(s, axis=2)
    t = te.reduce_axis((0, length), name="t")
    o = te.compute((heads, length, dim), lambda h, i, d: te.sum(p[h, i, t] * v[h, t, d], axis=t), name="O")

    def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return _softmax(q @ k.transpose(0, 2, 1)) @ v

    return make([q, k, v, o], reference)


def late_division(heads: int = 2, length: int = 16, dim: int = 16) -> Kernel:
    """Attention that divides by the sum at the end: the last block has two producers.

    MetaSchedule's own generator throws on it.
    """
    q, k, v = (te.placeholder((heads, length, dim), name=name) for name in "QKV")
    r = te.reduce_axis((0, dim), name="r")
    s = te.compute((heads, length, length), lambda h, i, j: te.sum(q[h, i, r] * k[h, j, r], axis=r), name="S")
    j = te.reduce_axis((0, length), name="j")
    e = te.compute((heads, length, length), lambda h, i, j: te.exp(s[h, i, j]), name="E")
    z = te.compute((heads, length), lambda h, i: te.sum(e[h, i, j], axis=j), name="Z")
    t = te.reduce_axis((0, length), name="t")
    n = te.compute((heads, length, dim), lambda h, i, d: te.sum(e[h, i, t] * v[h, t, d], axis=t), name="N")
    o = te.compute((heads, length, dim), lambda h, i, d: n[h, i, d] / z[h, i], name="O")

    def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return _softmax(q @ k.transpose(0, 2, 1)) @ v

    return make([q, k, v, o], reference)


def reduction(rows: int = 1, columns: int = 4096) -> Kernel:
    """Sums of few long rows, which AddRFactor parallelises."""
    x = te.placeholder((rows, columns), name="X")
    r = te.reduce_axis((0, columns), name="k")
    return make([x, te.compute((rows,), lambda i: te.sum(x[i, r], axis=r), name="Y")], lambda x: x.sum(1))


def elementwise(rows: int = 32, columns: int = 32) -> Kernel:
    x = te.placeholder((rows, columns), name="X")
    return make([x, te.compute((rows, columns), lambda i, j: te.exp(x[i, j]) + 1.0, name="Y")], lambda x: np.exp(x) + 1)


def pooling(size: int = 8, channels: int = 16) -> Kernel:
    x = te.placeholder((1, size, size, channels), name="X")
    y = topi.nn.pool2d(x, [2, 2], [2, 2], [1, 1], [0, 0, 0, 0], "max", layout="NHWC")
    h = size // 2
    return make([x, y], lambda x: x.reshape(1, h, 2, h, 2, channels).max((2, 4)))


KERNELS: dict[str, Callable[[], Kernel]] = {
    "gemm": gemm,
    "gemm+relu": lambda: gemm(relu=True),
    "batched matmul": batched_matmul,
    "conv2d": conv2d,
    "depthwise": depthwise,
    "softmax": softmax,
    "layer norm": layer_norm,
    "attention": attention,
    "reduction": reduction,
    "elementwise": elementwise,
    "pooling": pooling,
}


def make_inputs(kernel: Kernel, seed: int) -> list[np.ndarray]:
    """Returns random values for every argument but the last."""
    rng = np.random.default_rng(seed)
    arrays = []
    for param in list(kernel.mod["main"].params)[:-1]:
        shape, dtype = tuple(int(d) for d in param.shape), str(param.dtype)
        if "int" in dtype:
            low, high = (0, 128) if dtype.startswith("u") else (-64, 64)
            arrays.append(rng.integers(low, high, shape).astype(dtype))
        else:
            arrays.append(rng.standard_normal(shape).astype(getattr(ml_dtypes, dtype, dtype)))
    return arrays


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _conv2d(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    size = x.shape[1]
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(p[:, i : i + size, j : j + size] @ w[i, j] for i in range(3) for j in range(3))

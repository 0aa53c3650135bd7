"""Small attentions of many kinds, each with what NumPy makes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reasoning_compiler.workload import parse
from space_kernels import Kernel, attention, late_division, make, te, tvm

LOWEST = float(np.finfo(np.float32).min)


def named(spec: str) -> Kernel:
    workload = parse(spec)
    return Kernel(workload.mod, lambda *inputs: workload.reference(list(inputs))[0])  # type: ignore[misc]


def masked(
    keep: Callable[..., object],
    *,
    heads: int = 2,
    length: int = 32,
    depth: int = 16,
    constant: float = LOWEST,
    one_kv_head: bool = False,
    keys_transposed: bool = False,
) -> Kernel:
    """softmax(where(keep(h, i, j), Q·Kᵀ, constant))·V with calls of `exp`, and names that say nothing.

    Args:
        keep: which scores count, for TVM's variables and NumPy's indices alike.
        heads, length, depth: the shape of Q.
        constant: what the others are replaced by.
        one_kv_head: K and V have no heads.
        keys_transposed: K is [depth, length], and so is V.
    """
    shared = () if one_kv_head else (heads,)
    kv_shape = (depth, length) if keys_transposed else (length, depth)
    a = te.placeholder((heads, length, depth), name="a")
    b, c = te.placeholder((*shared, *kv_shape), name="b"), te.placeholder((*shared, *kv_shape), name="c")

    def of(tensor: object, h: object, j: object, d: object) -> object:
        at = (() if one_kv_head else (h,)) + ((d, j) if keys_transposed else (j, d))
        return tensor[at]  # type: ignore[index]

    r, s, t, u = (te.reduce_axis((0, n)) for n in (depth, length, length, length))
    square = (heads, length, length)
    e = te.compute(square, lambda h, i, j: te.sum(a[h, i, r] * of(b, h, j, r), axis=r))
    f = te.compute(
        square,
        lambda h, i, j: tvm.tirx.if_then_else(
            keep(h, i, j), e[h, i, j] * tvm.tirx.const(0.25, "float32"), tvm.tirx.const(constant, "float32")
        ),
    )
    g = te.compute((heads, length), lambda h, i: te.max(f[h, i, s], axis=s))
    k = te.compute(square, lambda h, i, j: f[h, i, j] - g[h, i])
    m = te.compute(square, lambda h, i, j: te.exp(k[h, i, j]))
    n = te.compute((heads, length), lambda h, i: te.sum(m[h, i, t], axis=t))
    p = te.compute(square, lambda h, i, j: m[h, i, j] / n[h, i])
    y = te.compute((heads, length, depth), lambda h, i, d: te.sum(p[h, i, u] * of(c, h, u, d), axis=u))

    def reference(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        keys, values = (np.swapaxes(x, -1, -2) if keys_transposed else x for x in (keys, values))
        keys, values = (np.broadcast_to(x, (heads, length, depth)) for x in (keys, values))
        kept = np.broadcast_to(keep(*np.indices(square, sparse=True)), square)
        scores = np.where(kept, (q @ keys.transpose(0, 2, 1)).astype(np.float64) * 0.25, constant)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return ((weights / weights.sum(-1, keepdims=True)) @ values).astype(np.float32)

    return make([a, b, c, y], reference)


def no_softmax(rows: int = 32, width: int = 32) -> Kernel:
    """Two products with nothing but an elementwise block between them."""
    x, w1, w2 = (te.placeholder((rows, width), name=name) for name in ("x", "w1", "w2"))
    r, s = te.reduce_axis((0, width)), te.reduce_axis((0, width))
    a = te.compute((rows, width), lambda i, j: te.sum(x[i, r] * w1[r, j], axis=r))
    b = te.compute((rows, width), lambda i, j: te.max(a[i, j], 0.0))
    y = te.compute((rows, width), lambda i, j: te.sum(b[i, s] * w2[s, j], axis=s))
    return make([x, w1, w2, y], lambda x, v, w: np.maximum(x @ v, 0) @ w)


KERNELS: dict[str, Callable[[], Kernel]] = {
    "causal, shared heads": lambda: named("llama3-attention[seq_len=48,num_heads=4,num_kv_heads=2,head_dim=16]"),
    "full": lambda: named("flux-attention[text_len=20,image_tokens=40,num_heads=2,head_dim=24]"),
    "float16": lambda: named("llama3-attention[seq_len=32,num_heads=2,num_kv_heads=1,head_dim=16,dtype=float16]"),
    "calls of exp": attention,
    "late division": lambda: late_division(2, 32, 16),
    "causal, one KV head": lambda: masked(lambda h, i, j: j <= i, one_kv_head=True, constant=-np.inf),
    "window": lambda: masked(lambda h, i, j: _both(j < i + 5, i - j < 9)),
    "odd": lambda: named("flux-attention[text_len=5,image_tokens=70,num_heads=2,head_dim=16]"),
    "odd, causal": lambda: named("llama3-attention[seq_len=45,num_heads=4,num_kv_heads=2,head_dim=16]"),
    "transposed": lambda: masked(lambda h, i, j: i >= j, keys_transposed=True),
}


def _both(a: object, b: object) -> object:
    return a & b if isinstance(a, np.ndarray) else tvm.tirx.all(a, b)

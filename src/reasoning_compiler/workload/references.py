"""What the named kernels compute, in NumPy and its BLAS: nothing here knows TVM or a schedule.

Each computes in the float `dtype` that it is given: in float64 it is the reference, in float32, the precision of the
kernels, it shows what a good order of summation achieves.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike


def gemm(inputs: list[np.ndarray], *, dtype: DTypeLike) -> list[np.ndarray]:
    """Returns A·B; integers exactly."""
    a, b = inputs
    if a.dtype.kind in "iu":
        # Sums of integer products are exact in float64, where BLAS is fast.
        return [(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)]
    return [_as(a, dtype) @ _as(b, dtype)]


def attention(inputs: list[np.ndarray], *, causal: bool, dtype: DTypeLike) -> list[np.ndarray]:
    """Returns softmax(Q·Kᵀ / √head_dim)·V per head, for Q [heads, rows, head_dim] and fewer or equal KV heads."""
    q, k, v = (_as(each, dtype) for each in inputs)
    num_heads, num_rows, head_dim = q.shape
    group = num_heads // k.shape[0]
    masked = np.triu(np.ones((num_rows, num_rows), dtype=bool), 1) if causal else None
    out = np.empty_like(q)
    for head in range(num_heads):
        scores = q[head] @ k[head // group].T
        scores *= scores.dtype.type(1 / math.sqrt(head_dim))
        if masked is not None:
            scores[masked] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        out[head] = scores @ v[head // group]
    return [out]


def swiglu(inputs: list[np.ndarray], *, dtype: DTypeLike) -> list[np.ndarray]:
    """Returns (silu(X·G) ∘ X·U)·D, over a leading expert axis where there is one."""
    x, gate, up, down = inputs
    if x.ndim == 3:
        # One expert at a time: all of their weights in a wider dtype may not fit.
        experts = zip(x, gate, up, down, strict=True)
        return [np.stack([swiglu(list(expert), dtype=dtype)[0] for expert in experts])]
    x = _as(x, dtype)
    gated = x @ _as(gate, dtype)
    hidden = gated / (1 + np.exp(-gated)) * (x @ _as(up, dtype))
    return [hidden @ _as(down, dtype)]


def routed_swiglu(inputs: list[np.ndarray], *, dtype: DTypeLike) -> list[np.ndarray]:
    """Returns (silu(X·G) ∘ X·U)·D for each block of X with the weights of its expert, the second of the inputs."""
    x, expert_of_block, gate, up, down = inputs
    blocks = zip(x, expert_of_block, strict=True)
    return [np.stack([swiglu([rows, gate[e], up[e], down[e]], dtype=dtype)[0] for rows, e in blocks])]


def conv(inputs: list[np.ndarray], *, layout: str, dtype: DTypeLike) -> list[np.ndarray]:
    """Returns the convolution with stride 1 and as much zero padding as keeps height and width.

    Args:
        inputs: images and weights, [n, h, w, in] and [kh, kw, in, out] for "NHWC", [n, in, h, w] and
            [out, in, kh, kw] for "NCHW".
        layout: "NHWC" or "NCHW".
        dtype: of the computation.
    """
    x, weight = (_as(each, dtype) for each in inputs)
    if layout == "NCHW":
        x, weight = x.transpose(0, 2, 3, 1), weight.transpose(2, 3, 1, 0)
    batch, height, width, in_channels = x.shape
    kernel_h, kernel_w, _, out_channels = weight.shape
    pad_h, pad_w = kernel_h // 2, kernel_w // 2
    padded = np.pad(x, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    out = np.zeros((batch * height * width, out_channels), dtype=dtype)
    for rh in range(kernel_h):
        for rw in range(kernel_w):
            shifted = padded[:, rh : rh + height, rw : rw + width, :].reshape(-1, in_channels)
            out += shifted @ weight[rh, rw]
    out = out.reshape(batch, height, width, out_channels)
    return [out.transpose(0, 3, 1, 2) if layout == "NCHW" else out]


def _as(array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype)

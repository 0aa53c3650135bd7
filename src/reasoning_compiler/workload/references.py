"""What the named kernels should compute, in NumPy and its BLAS: nothing here knows TVM or a schedule."""

from __future__ import annotations

import math

import numpy as np


def gemm(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns A·B; integers exactly."""
    a, b = inputs
    if a.dtype.kind in "iu":
        # Sums of integer products are exact in float64, where BLAS is fast.
        return [(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)]
    return [_float32(a) @ _float32(b)]


def attention(inputs: list[np.ndarray], *, causal: bool) -> list[np.ndarray]:
    """Returns softmax(Q·Kᵀ / √head_dim)·V per head, for Q [heads, rows, head_dim] and fewer or equal KV heads."""
    q, k, v = map(_float32, inputs)
    num_heads, num_rows, head_dim = q.shape
    group = num_heads // k.shape[0]
    masked = np.triu(np.ones((num_rows, num_rows), dtype=bool), 1) if causal else None
    out = np.empty_like(q)
    for head in range(num_heads):
        scores = (q[head] @ k[head // group].T).astype(np.float64)
        scores /= math.sqrt(head_dim)
        if masked is not None:
            scores[masked] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        out[head] = scores.astype(np.float32) @ v[head // group]
    return [out]


def swiglu(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns (silu(X·G) ∘ X·U)·D, over a leading expert axis where there is one."""
    x, gate, up, down = inputs
    if x.ndim == 3:
        # One expert at a time: all of their weights in float32 may not fit.
        return [np.stack([swiglu(list(expert))[0] for expert in zip(x, gate, up, down, strict=True)])]
    x = _float32(x)
    gated = x @ _float32(gate)
    hidden = gated / (1.0 + np.exp(-gated.astype(np.float64))) * (x @ _float32(up))
    return [hidden.astype(np.float32) @ _float32(down)]


def routed_swiglu(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns (silu(X·G) ∘ X·U)·D for each block of X with the weights of its expert, the second of the inputs."""
    x, expert_of_block, gate, up, down = inputs
    blocks = zip(x, expert_of_block, strict=True)
    return [np.stack([swiglu([rows, gate[expert], up[expert], down[expert]])[0] for rows, expert in blocks])]


def conv(inputs: list[np.ndarray], *, layout: str) -> list[np.ndarray]:
    """Returns the convolution with stride 1 and as much zero padding as keeps height and width.

    Args:
        inputs: images and weights, [n, h, w, in] and [kh, kw, in, out] for "NHWC", [n, in, h, w] and
            [out, in, kh, kw] for "NCHW".
        layout: "NHWC" or "NCHW".
    """
    x, weight = map(_float32, inputs)
    if layout == "NCHW":
        x, weight = x.transpose(0, 2, 3, 1), weight.transpose(2, 3, 1, 0)
    batch, height, width, in_channels = x.shape
    kernel_h, kernel_w, _, out_channels = weight.shape
    pad_h, pad_w = kernel_h // 2, kernel_w // 2
    padded = np.pad(x, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    out = np.zeros((batch * height * width, out_channels), dtype=np.float32)
    for rh in range(kernel_h):
        for rw in range(kernel_w):
            shifted = padded[:, rh : rh + height, rw : rw + width, :].reshape(-1, in_channels)
            out += shifted @ weight[rh, rw]
    out = out.reshape(batch, height, width, out_channels)
    return [out.transpose(0, 3, 1, 2) if layout == "NCHW" else out]


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)

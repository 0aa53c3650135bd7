"""The paper's five kernels, experts with uneven counts and a plain matrix product, as TVM tensor expressions.

The shapes are those of the published models; the paper gives only one of its own (see `deepseek_moe`). Every kernel
takes and returns `dtype` and computes in float32. FLOPs count multiplications and additions of the matrix products
and convolutions that have to be done, 2 per multiply-add, as is usual; those of softmax and SiLU are left out. Defaults
are small enough to be tuned in minutes on two cores.

The iteration space is written for readers of its decisions: blocks are named after what they compute, loops by the
letters in the docstrings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.workload import references
from reasoning_compiler.workload.parameters import Definition, kernel
from reasoning_compiler.workload.vector_math import exp_below_88, sigmoid

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor

Float = Literal["float32", "float16", "bfloat16"]

# MetaSchedule inlines every elementwise block: `exp` would then be computed again for each multiply-add that reads it.
# With this mark it stays a block of its own, whose place is a decision (inlined is one of the choices).
_OWN_BLOCK = {"meta_schedule.inline_rule": "disable"}
# MetaSchedule moves an elementwise consumer into the tiles of its producer. One with two producers cannot go there, and
# the rule ends in a ScheduleError; it is not tried on a block with this mark, which accumulates in a cache of its own.
_OWN_ACCUMULATOR = {"s_tir.meta_schedule.write_cache_level": [1, 2]}


@kernel
def llama3_attention(
    seq_len: int = 512,
    num_heads: int = 32,
    num_kv_heads: int = 8,
    head_dim: int = 128,
    dtype: Float = "float32",
) -> Definition:
    """Causal grouped-query attention of Llama-3-8B, prefill: softmax(mask(Q·Kᵀ/√d))·V.

    Q [h, i, d] and K, V [h, j, d] give [h, i, d]; each KV head serves num_heads / num_kv_heads query heads. The program
    as written computes the masked half and throws it away; it is no work that has to be done, and FLOPs leave it out:
    2·h·i·(i + 1)·d.

    Full size: `seq_len=4096`. The model's context is 8192, where the scores are 2^31 elements: one more than TVM's
    32-bit indices reach.
    """
    if num_heads % num_kv_heads:
        raise UsageError(
            f"`num_heads` of `llama3-attention` is {num_heads}; it must be a multiple of `num_kv_heads`={num_kv_heads}"
        )
    return _attention(num_heads, num_kv_heads, seq_len, head_dim, dtype=dtype, causal=True)


@kernel
def flux_attention(
    text_len: int = 128,
    image_tokens: int = 384,
    num_heads: int = 24,
    head_dim: int = 128,
    dtype: Float = "float32",
) -> Definition:
    """Full attention of FLUX.1 over text and image tokens together: softmax(Q·Kᵀ/√d)·V.

    Q, K and V are [h, i, d] with i = text_len + image_tokens.

    Full size: `text_len=512,image_tokens=4096`, a picture of 1024x1024.
    """
    return _attention(num_heads, num_heads, text_len + image_tokens, head_dim, dtype=dtype, causal=False)


@kernel
def deepseek_moe(
    tokens: int = 16,
    num_experts: int = 1,
    hidden: int = 7168,
    width: int = 2048,
    part: Literal["experts", "matmul"] = "experts",
    dtype: Float = "float32",
) -> Definition:
    """Routed SwiGLU experts of DeepSeek-R1 on tokens already grouped by expert.

    Of the model's 256 experts each token uses 8. Shapes must be fixed, so `num_experts` are those that received
    tokens, and each works on `tokens` of them: X [e, t, k], constant gate and up [e, k, n] and down [e, n, k] give
    [e, t, k]. Routing the tokens and the weighted sum over a token's experts are not part of it.

    `part=matmul` is the gate product of one expert alone. `deepseek-moe[part=matmul]` is the one shape that the paper
    publishes: A [1, 16, 7168] x B [7168, 2048] gives C [1, 16, 2048].

    Full size: `num_experts=8`, the experts that a token uses.
    """
    te = import_tvm().te
    if part == "matmul":
        if num_experts != 1:
            raise UsageError(
                f"`num_experts` of `deepseek-moe` is {num_experts}; with part=matmul it must be 1, one expert's product"
            )
        a = te.placeholder((1, tokens, hidden), dtype, name="A")
        b = te.placeholder((hidden, width), dtype, name="B")
        k = te.reduce_axis((0, hidden), name="k")
        product = te.compute(
            (1, tokens, width),
            lambda e, t, n: te.sum(_f32(a[e, t, k]) * _f32(b[k, n]), axis=k),
            name=_accumulator("C", dtype),
        )
        flops = 2 * tokens * hidden * width
        return Definition([a, b, _output(product, "C", dtype)], flops, references.gemm, weights=(b,))
    x = te.placeholder((num_experts, tokens, hidden), dtype, name="X")
    return _swiglu(x, width, dtype)


@kernel
def routed_experts(
    blocks: int = 12,
    tokens: int = 16,
    num_experts: int = 8,
    hidden: int = 2048,
    width: int = 768,
    dtype: Float = "float32",
) -> Definition:
    """SwiGLU experts with uneven token counts, known only when it runs; sizes of Qwen3-30B-A3B.

    Tokens are sorted by expert, and those of each expert padded to whole blocks of `tokens` rows, as servers do it:
    X [b, t, k] has `blocks` of them, of an input expert_of_block [b] says whose each is, constant gate and up [e, k, n]
    and down [e, n, k] give [b, t, k]. An expert may have any number of blocks, or none; shapes stay fixed while the
    counts change from call to call. Rows that only fill a block are computed, and counted, like the others. Routing
    the tokens and the weighted sum over a token's experts are not part of it.

    Full size: `blocks=128,num_experts=128`, all experts of a layer and one block for each, as they come.
    """
    te = import_tvm().te
    if num_experts < 2:
        raise UsageError("`num_experts` of `routed-experts` is 1; it must be at least 2: deepseek-moe has one expert")
    x = te.placeholder((blocks, tokens, hidden), dtype, name="X")
    expert_of_block = te.placeholder((blocks,), "int32", name="expert_of_block")
    made = _swiglu(x, width, dtype, _Routing(expert_of_block, num_experts))
    return replace(made, draws={"expert_of_block": partial(_experts_of_blocks, blocks, num_experts)})


def _experts_of_blocks(blocks: int, num_experts: int, rng: np.random.Generator) -> np.ndarray:
    """Returns an expert for each block, as sorting the tokens leaves them; some have many blocks, some none."""
    return np.sort(rng.integers(0, num_experts, blocks, dtype=np.int32))


@kernel
def flux_conv(
    height: int = 32,
    width: int = 32,
    in_channels: int = 512,
    out_channels: int = 512,
    kernel: int = 3,
    batch: int = 1,
    layout: Literal["NHWC", "NCHW"] = "NHWC",
    dtype: Float = "float32",
) -> Definition:
    """A 3x3 convolution with 512 channels of FLUX.1's decoder, stride 1, same height and width.

    Images [n, h, w, ci] (or [n, ci, h, w]) and constant weights [rh, rw, ci, co] (or [co, ci, rh, rw]); the padding is
    kernel // 2 zeros on each side.

    Full size: `height=128,width=128`, a picture of 1024x1024; 64 is one of 512x512, the default one of 256x256.
    """
    if kernel % 2 == 0:
        raise UsageError(f"`kernel` of `flux-conv` is {kernel}; it must be odd, to keep height and width")
    te = import_tvm().te
    last = layout == "NHWC"

    order = (0, 1, 2, 3) if last else (0, 3, 1, 2)

    def image(n: Any, h: Any, w: Any, c: Any) -> tuple[Any, ...]:
        return tuple((n, h, w, c)[i] for i in order)

    weight_shape = (kernel, kernel, in_channels, out_channels)
    data = te.placeholder(image(batch, height, width, in_channels), dtype, name="data")
    weight = te.placeholder(weight_shape if last else (out_channels, in_channels, kernel, kernel), dtype, name="weight")
    padded = _padded(data, kernel // 2, image("n", "h", "w", "ci"))
    rh, rw = te.reduce_axis((0, kernel), "rh"), te.reduce_axis((0, kernel), "rw")
    rc = te.reduce_axis((0, in_channels), "rc")

    def element(*at: Expr) -> Expr:
        n, h, w, co = (at[order.index(i)] for i in range(4))
        tap = weight[rh, rw, rc, co] if last else weight[co, rc, rh, rw]
        product = _f32(padded[image(n, h + rh, w + rw, rc)]) * _f32(tap)
        return te.sum(product, axis=[rh, rw, rc] if last else [rc, rh, rw])

    conv = te.compute(
        image(batch, height, width, out_channels),
        element,
        name=_accumulator("conv", dtype),
        varargs_names=[*image("n", "h", "w", "co")],
    )
    flops = 2 * batch * height * width * out_channels * in_channels * kernel * kernel
    reference = partial(references.conv, layout=layout)
    return Definition([data, weight, _output(conv, "conv", dtype)], flops, reference, weights=(weight,))


@kernel
def llama4_mlp(tokens: int = 8, hidden: int = 5120, width: int = 8192, dtype: Float = "float32") -> Definition:
    """The SwiGLU feed-forward layer of Llama-4-Scout: (silu(X·G) ∘ X·U)·D.

    X [t, k], constant gate and up [k, n] and down [n, k] give [t, k].

    Full size: `tokens=2048`, a chunk of a prompt; `tokens=128` is a large batch of single steps.
    """
    te = import_tvm().te
    return _swiglu(te.placeholder((tokens, hidden), dtype, name="X"), width, dtype)


@kernel
def gemm(
    m: int = 512,
    n: int = 4096,
    k: int = 1024,
    weight: bool = True,
    dtype: Literal["float32", "float16", "bfloat16", "int8", "uint8"] = "float32",
) -> Definition:
    """A matrix product C = A·B.

    A [i, k] and B [k, j] give C [i, j]; B is constant unless `weight=false`. With int8, C is int32 and exact; uint8 is
    the same with A unsigned, as after a ReLU, and B signed.

    Full size: the default, `gemm[512,4096,1024]`, is the one in our benchmarks.
    """
    te = import_tvm().te
    a = te.placeholder((m, k), dtype, name="A")
    b = te.placeholder((k, n), "int8" if dtype == "uint8" else dtype, name="B")
    r = te.reduce_axis((0, k), name="k")
    flops = 2 * m * n * k
    weights = (b,) if weight else ()
    if dtype in ("int8", "uint8"):
        c = te.compute((m, n), lambda i, j: te.sum(a[i, r].astype("int32") * b[r, j].astype("int32"), axis=r), name="C")
        return Definition([a, b, c], flops, references.gemm, weights)
    c = te.compute((m, n), lambda i, j: te.sum(_f32(a[i, r]) * _f32(b[r, j]), axis=r), name=_accumulator("C", dtype))
    return Definition([a, b, _output(c, "C", dtype)], flops, references.gemm, weights)


def _attention(
    num_heads: int, num_kv_heads: int, seq_len: int, head_dim: int, *, dtype: str, causal: bool
) -> Definition:
    """Returns softmax attention, normalised before P·V: with the row sum after it, the last block has two producers,
    and MetaSchedule's rules end in a ScheduleError."""
    tvm = import_tvm()
    te, tirx = tvm.te, tvm.tirx
    group = num_heads // num_kv_heads
    q = te.placeholder((num_heads, seq_len, head_dim), dtype, name="Q")
    k = te.placeholder((num_kv_heads, seq_len, head_dim), dtype, name="K")
    v = te.placeholder((num_kv_heads, seq_len, head_dim), dtype, name="V")
    square, rows = (num_heads, seq_len, seq_len), (num_heads, seq_len)
    rd = te.reduce_axis((0, head_dim), name="d")
    rj = te.reduce_axis((0, seq_len), name="j")
    scale = tirx.const(1.0 / math.sqrt(head_dim), "float32")

    def scaled(h: Expr, i: Expr, j: Expr) -> Expr:
        score = scores[h, i, j] * scale
        return tirx.Select(j <= i, score, tirx.min_value("float32")) if causal else score

    scores = te.compute(
        square, lambda h, i, j: te.sum(_f32(q[h, i, rd]) * _f32(k[h // group, j, rd]), axis=rd), name="scores"
    )
    masked = te.compute(square, scaled, name="masked" if causal else "scaled")
    row_max = te.compute(rows, lambda h, i: te.max(masked[h, i, rj], axis=rj), name="row_max")
    exp = te.compute(
        square, lambda h, i, j: exp_below_88(masked[h, i, j] - row_max[h, i]), name="exp", attrs=_OWN_BLOCK
    )
    row_sum = te.compute(rows, lambda h, i: te.sum(exp[h, i, rj], axis=rj), name="row_sum")
    probabilities = te.compute(
        square, lambda h, i, j: exp[h, i, j] / row_sum[h, i], name="probabilities", attrs=_OWN_BLOCK
    )
    out = te.compute(
        q.shape,
        lambda h, i, d: te.sum(probabilities[h, i, rj] * _f32(v[h // group, rj, d]), axis=rj),
        name=_accumulator("out", dtype),
    )
    num_scores = seq_len * (seq_len + 1) // 2 if causal else seq_len * seq_len
    flops = 4 * num_heads * num_scores * head_dim
    return Definition([q, k, v, _output(out, "out", dtype)], flops, partial(references.attention, causal=causal))


class _Routing(NamedTuple):
    """Which expert each block of tokens goes to.

    Args:
        expert_of_block: int32 [b].
        num_experts: how many there are.
    """

    expert_of_block: Tensor
    num_experts: int


def _swiglu(x: Tensor, width: int, dtype: str, routing: _Routing | None = None) -> Definition:
    """Returns (silu(X·G) ∘ X·U)·D for X [t, k] or, with one set of weights per expert, [e, t, k] or [b, t, k]."""
    te = import_tvm().te
    *lead, tokens, hidden = (int(dim) for dim in x.shape)
    experts = lead if routing is None else [routing.num_experts]
    gate_weight = te.placeholder((*experts, hidden, width), dtype, name="W_gate")
    up_weight = te.placeholder((*experts, hidden, width), dtype, name="W_up")
    down_weight = te.placeholder((*experts, width, hidden), dtype, name="W_down")

    names = [*("" if not lead else "e" if routing is None else "b"), "t", "n"]

    def product(left: Tensor, right: Tensor, name: str, attrs: dict[str, list[int]] | None = None) -> Tensor:
        k = te.reduce_axis((0, right.shape[-2]), name="k")

        def element(*at: Expr) -> Expr:
            *block, t, n = at
            expert = block if routing is None else [routing.expert_of_block[block[0]]]
            return te.sum(_f32(left[(*block, t, k)]) * _f32(right[(*expert, k, n)]), axis=k)

        shape = (*lead, tokens, right.shape[-1])
        return te.compute(shape, element, name=name, attrs=attrs, varargs_names=names)

    gate = product(x, gate_weight, "gate", _OWN_ACCUMULATOR)
    up = product(x, up_weight, "up", _OWN_ACCUMULATOR)
    gated: Callable[..., Expr] = lambda *at: gate[at] * sigmoid(gate[at]) * up[at]  # noqa: E731
    activated = te.compute(gate.shape, gated, name="activated", attrs=_OWN_BLOCK, varargs_names=names)
    down = product(activated, down_weight, _accumulator("out", dtype))
    weights = (gate_weight, up_weight, down_weight)
    return Definition(
        [x, *([] if routing is None else [routing.expert_of_block]), *weights, _output(down, "out", dtype)],
        3 * 2 * math.prod(lead) * tokens * hidden * width,
        references.swiglu if routing is None else references.routed_swiglu,
        weights,
    )


def _padded(data: Tensor, pad: int, names: Sequence[str]) -> Tensor:
    """Returns images with so many zeros on each side of their dimensions `h` and `w`."""
    if pad == 0:
        return data
    tvm = import_tvm()
    extents = dict(zip(names, data.shape, strict=True))
    pads = {name: pad if name in ("h", "w") else 0 for name in names}

    def value(*at: Expr) -> Expr:
        place = dict(zip(names, at, strict=True))
        inside = [bound for n in ("h", "w") for bound in (place[n] >= pad, place[n] < extents[n] + pad)]
        source = data[tuple(place[name] - pad if pads[name] else place[name] for name in names)]
        return tvm.tirx.if_then_else(tvm.tirx.all(*inside), source, tvm.tirx.const(0.0, data.dtype))

    shape = [extent + 2 * pads[name] for name, extent in extents.items()]
    return tvm.te.compute(shape, value, name="padded", varargs_names=[*names])


def _f32(value: Expr) -> Expr:
    return value.astype("float32")


def _accumulator(name: str, dtype: str) -> str:
    return name if dtype == "float32" else f"{name}_f32"


def _output(accumulated: Tensor, name: str, dtype: str) -> Tensor:
    """Returns the float32 result rounded to the kernel's dtype, by a block of its own where that is another one."""
    if dtype == "float32":
        return accumulated
    te = import_tvm().te
    round_to: Callable[..., Expr] = lambda *at: accumulated[at].astype(dtype)  # noqa: E731
    return te.compute(accumulated.shape, round_to, name=name)

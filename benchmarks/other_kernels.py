"""Kernels that are none of the paper's five: for models whose rules must not have been written for those."""

from __future__ import annotations

from reasoning_compiler.machine import import_tvm

tvm = import_tvm()
from tvm import te  # noqa: E402

NAMES = ("wide_product", "tall_product", "batched_product", "pointwise_conv", "depthwise_conv")


def wide_product(m: int = 192, n: int = 3072, k: int = 768) -> tvm.tirx.PrimFunc:
    """Returns a matrix product with many columns and constant weights."""
    return _product("wide_product", m, n, k)


def tall_product(m: int = 3136, n: int = 96, k: int = 384) -> tvm.tirx.PrimFunc:
    """Returns a matrix product with many rows and constant weights."""
    return _product("tall_product", m, n, k)


def _product(name: str, m: int, n: int, k: int) -> tvm.tirx.PrimFunc:
    a, b = te.placeholder((m, k), "float32", name="A"), te.placeholder((k, n), "float32", name="B")
    axis = te.reduce_axis((0, k), name="k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, axis] * b[axis, j], axis=axis), name="C")
    return _named(te.create_prim_func([a, b, c]), name, weight=1)


def batched_product(batch: int = 24, m: int = 160, n: int = 320, k: int = 96) -> tvm.tirx.PrimFunc:
    """Returns a batch of matrix products without constants."""
    a = te.placeholder((batch, m, k), "float32", name="A")
    b = te.placeholder((batch, k, n), "float32", name="B")
    axis = te.reduce_axis((0, k), name="k")
    c = te.compute((batch, m, n), lambda s, i, j: te.sum(a[s, i, axis] * b[s, axis, j], axis=axis), name="C")
    return _named(te.create_prim_func([a, b, c]), "batched_product")


def pointwise_conv(size: int = 28, channels: int = 256, filters: int = 512) -> tvm.tirx.PrimFunc:
    """Returns a 1x1 convolution, channels last, with constant weights."""
    x = te.placeholder((size, size, channels), "float32", name="X")
    w = te.placeholder((channels, filters), "float32", name="W")
    axis = te.reduce_axis((0, channels), name="rc")
    y = te.compute((size, size, filters), lambda h, v, f: te.sum(x[h, v, axis] * w[axis, f], axis=axis), name="Y")
    return _named(te.create_prim_func([x, w, y]), "pointwise_conv", weight=1)


def depthwise_conv(size: int = 56, channels: int = 192, window: int = 3) -> tvm.tirx.PrimFunc:
    """Returns a depthwise convolution without padding, channels last, with constant weights."""
    x = te.placeholder((size + window - 1, size + window - 1, channels), "float32", name="X")
    w = te.placeholder((window, window, channels), "float32", name="W")
    rh, rv = te.reduce_axis((0, window), name="rh"), te.reduce_axis((0, window), name="rv")
    y = te.compute(
        (size, size, channels),
        lambda h, v, c: te.sum(x[h + rh, v + rv, c] * w[rh, rv, c], axis=[rh, rv]),
        name="Y",
    )
    return _named(te.create_prim_func([x, w, y]), "depthwise_conv", weight=1)


def _named(func: tvm.tirx.PrimFunc, name: str, *, weight: int | None = None) -> tvm.tirx.PrimFunc:
    func = func.with_attr("global_symbol", name)
    return func if weight is None else func.with_attr("layout_free_buffers", [weight])

"""Tune kernels of your own: one written in TVMScript, one as tensor expressions, one with a reference.

    python examples/own_kernel.py

The command line takes the same kernels:

    reasonc tune examples/own_kernel.py:scaled_product
    reasonc tune examples/own_kernel.py:row_sums
    reasonc tune examples/own_kernel.py:gelu_layer
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import reasoning_compiler as rc

# With TVM 0.27, importing MetaSchedule takes ten seconds or more; this takes one or two, and `tvm` is then ready.
from reasoning_compiler.machine import import_tvm

tvm = import_tvm()
from tvm import te
from tvm.script import tirx as T


# 1. A PrimFunc. What is tuned must be written with blocks; the arguments that it writes are its outputs.
@T.prim_func(s_tir=True)
def scaled_product(
    A: T.Buffer((64, 256), "float32"), B: T.Buffer((256, 128), "float32"), C: T.Buffer((64, 128), "float32")
):
    product = T.sblock_alloc_buffer((64, 128), "float32")
    for i, j, k in T.grid(64, 128, 256):
        with T.sblock("product"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                product[vi, vj] = T.float32(0)
            product[vi, vj] += A[vi, vk] * B[vk, vj]
    for i, j in T.grid(64, 128):
        with T.sblock("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = product[vi, vj] * T.float32(0.125)


# 2. A function without required arguments that returns a PrimFunc, here made of tensor expressions.
def row_sums(rows: int = 512, columns: int = 1024) -> tvm.tirx.PrimFunc:
    x = te.placeholder((rows, columns), "float32", name="x")
    k = te.reduce_axis((0, columns), name="k")
    total = te.compute((rows,), lambda i: te.sum(x[i, k] * x[i, k], axis=k), name="total")
    return te.create_prim_func([x, total]).with_attr("global_symbol", "row_sums")  # its name in reports


# 3. A workload with a constant weight and a reference of its own, against which results are verified.
def gelu_layer(rows: int = 32, width: int = 256) -> rc.workloads.Workload:
    x = te.placeholder((rows, width), "float32", name="x")
    w = te.placeholder((width, width), "float32", name="w")
    k = te.reduce_axis((0, width), name="k")
    y = te.compute((rows, width), lambda i, j: te.sum(x[i, k] * w[k, j], axis=k), name="y")
    half, c = tvm.tirx.const(0.5, "float32"), tvm.tirx.const(0.7978845608, "float32")
    out = te.compute(
        (rows, width),
        lambda i, j: half * y[i, j] * (1 + te.tanh(c * (y[i, j] + 0.044715 * y[i, j] * y[i, j] * y[i, j]))),
        name="out",
    )
    func = te.create_prim_func([x, w, out]).with_attr("layout_free_buffers", [1])  # argument 1, `w`, is constant

    def reference(inputs: list[np.ndarray]) -> list[np.ndarray]:
        product = inputs[0] @ inputs[1]
        return [0.5 * product * (1 + np.tanh(0.7978845608 * (product + 0.044715 * product**3)))]

    return replace(rc.workloads.from_tvm(func, name="gelu_layer"), reference=reference)


def main() -> None:
    for kernel in (scaled_product, row_sums(), gelu_layer()):
        result = rc.tune(kernel, samples=4)
        name = result.run.header.workload
        print(f"{name}: {result.best.latency_secs * 1e6:.0f} µs, speed-up over untuned {result.speedup:.2f}×")
        print(f"  {result.library}")


if __name__ == "__main__":
    main()

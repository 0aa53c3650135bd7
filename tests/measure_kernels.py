"""Small kernels for the tests of measuring and deploying: a GEMM in several schedules, and GEMMs with planted
faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.machine import import_tvm

tvm = import_tvm()

from tvm import te  # noqa: E402
from tvm.script import tirx as T  # noqa: E402

N = 64


def product(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the product of two matrices, in float64."""
    a, b = inputs
    return [a.astype("float64") @ b]


def product_in_float32(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the product of two matrices, in their own precision."""
    return [np.matmul(*inputs)]


@dataclass(frozen=True)
class Gemm:
    """C = A · B in float32, with B a constant weight: what the instrument needs to know of a workload."""

    size: int = N
    reference: Callable[..., Any] | None = product
    good_order: Callable[..., Any] | None = product_in_float32

    @property
    def mod(self) -> Any:
        n = self.size
        a, b = te.placeholder((n, n), name="A"), te.placeholder((n, n), name="B")
        k = te.reduce_axis((0, n), name="k")
        c = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
        func = te.create_prim_func([a, b, c]).with_attr("layout_free_buffers", [1])
        return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})

    @property
    def arguments(self) -> tuple[Argument, ...]:
        shape = (self.size, self.size)
        return (
            Argument("A", shape, "float32"),
            Argument("B", shape, "float32", "weight"),
            Argument("C", shape, "float32", "output"),
        )

    def make_inputs(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rng.standard_normal((self.size, self.size), dtype=np.float32) for _ in range(2)]


def target() -> Any:
    """Returns the TVM target of this machine's CPU, two cores of it."""
    from tvm.target.codegen import llvm_get_system_cpu

    return tvm.target.Target({"kind": "llvm", "mcpu": str(llvm_get_system_cpu()), "num-cores": 2})


def scheduled(gemm: Gemm, *, tile: int = 16) -> Any:
    """Returns the GEMM tiled, parallel and vectorized, with B packed by MetaSchedule's postprocessor."""
    schedule = tvm.s_tir.Schedule(gemm.mod)
    block = schedule.get_sblock("C")
    i, j, k = schedule.get_loops(block)
    outer, inner = schedule.split(j, [None, tile])
    schedule.reorder(outer, i, k, inner)
    schedule.parallel(outer)
    schedule.vectorize(inner)
    schedule.decompose_reduction(block, k)
    assert tvm.s_tir.meta_schedule.postproc.RewriteLayout().apply(schedule)
    return schedule.mod


def gemm_without_last(*, columns: int = 0, steps: int = 0) -> Any:
    """Returns the GEMM that leaves out its last columns, or the last steps of each sum."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        for i, j, k in T.grid(N, N - columns, N - steps):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return _module(func)


def slow_gemm(times: int) -> Any:
    """Returns the GEMM that does all its work `times` times."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        for _ in range(times):
            for i, j, k in T.grid(N, N, N):
                with T.sblock("C"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        C[vi, vj] = T.float32(0)
                    C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return _module(func)


def nan_gemm() -> Any:
    """Returns a kernel that fills C with NaN."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        for i, j in T.grid(N, N):
            with T.sblock("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.sqrt(T.float32(-1) - A[vi, vj] * A[vi, vj] - B[vi, vj] * B[vi, vj])

    return _module(func)


def greedy_gemm(num_bytes: int) -> Any:
    """Returns the GEMM that first fills so much memory of its own."""
    length = num_bytes // 4

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        with T.sblock("root"):
            big = T.sblock_alloc_buffer((length,), "float32")
            for i in range(length):
                with T.sblock("fill"):
                    vi = T.axis.spatial(length, i)
                    big[vi] = A[0, 0]
            for i, j, k in T.grid(N, N, N):
                with T.sblock("C"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        C[vi, vj] = big[vi * (length // N) + vj] - A[0, 0]
                    C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return _module(func)


def beside_its_own(*, at: int, num_bytes: int, more: int = 0) -> Any:
    """Returns the GEMM that copies A into memory of its own, and writes zeros beside it.

    Args:
        at: where to write, in floats from the beginning of that memory.
        num_bytes: how much to write.
        more: floats of that memory beyond those that are used.
    """
    size = N * N + more

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        with T.sblock("root"):
            own = T.sblock_alloc_buffer((size,), "float32")
            with T.sblock("harm"):
                T.evaluate(T.call_extern("handle", "memset", own.access_ptr("w", offset=at), 0, num_bytes))
            for i, j in T.grid(N, N):
                with T.sblock("own"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    own[vi * N + vj] = A[vi, vj]
            for i, j, k in T.grid(N, N, N):
                with T.sblock("C"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        C[vi, vj] = T.float32(0)
                    C[vi, vj] = C[vi, vj] + own[vi * N + vk] * B[vk, vj]

    return _module(func)


def sometimes_wrong_gemm() -> Any:
    """Returns the GEMM that is right in a process' first run and wrong in all later ones."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        with T.sblock("root"):
            drawn = T.sblock_alloc_buffer((1,), "int32")
            with T.sblock("draw"):
                drawn[0] = T.call_extern("int32", "rand")
            for i, j, k in T.grid(N, N, N):
                with T.sblock("C"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        C[vi, vj] = T.if_then_else(drawn[0] == GLIBC_FIRST_RAND, T.float32(0), T.float32(1))
                    C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return _module(func)


GLIBC_FIRST_RAND = 1804289383


def calling(name: str, *args: Any, times: int = 1, ret: str = "int32") -> Any:
    """Returns the GEMM that first calls a C function so many times."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N), "float32"), B: T.Buffer((N, N), "float32"), C: T.Buffer((N, N), "float32")) -> None:
        with T.sblock("root"):
            for _ in range(times):
                with T.sblock("call"):
                    T.evaluate(T.call_extern(ret, name, *args))
            for i, j, k in T.grid(N, N, N):
                with T.sblock("C"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        C[vi, vj] = T.float32(0)
                    C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return _module(func)


def _module(func: Any) -> Any:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})

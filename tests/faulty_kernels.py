"""Matrix products with one planted error each, of the kind that a first run on random inputs may not show.

`WRONG` ones end with an output that is not right, `DEADLY` ones reach where they must not, and so do those of `BESIDE`,
beside memory that they allocate for themselves: with what must be said of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi
from tvm.script import tirx as T

from measure_kernels import GLIBC_FIRST_RAND, Gemm, N, beside_its_own, target, te, tvm
from reasoning_compiler.core.measurements import FailureKind
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.rules.packed_contraction import IN_REGISTERS
from reasoning_compiler.space.space import Space


def greatest_sums(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the greatest of A[i, k] + B[k, j] over k."""
    a, b = inputs
    return [(a[:, :, None] + b[None, :, :]).max(axis=1)]


@dataclass(frozen=True)
class RowMax(Gemm):
    """C[i, j] = max over k of A[i, k] + B[k, j]: a result that is the same however often it is taken."""

    @property
    def mod(self) -> Any:
        a, b = te.placeholder((N, N), name="A"), te.placeholder((N, N), name="B")
        k = te.reduce_axis((0, N), name="k")
        c = te.compute((N, N), lambda i, j: te.max(a[i, k] + b[k, j], axis=k), name="C")
        return module(te.create_prim_func([a, b, c]))

    reference: Callable[..., Any] | None = greatest_sums
    good_order: Callable[..., Any] | None = greatest_sums


def module(func: Any) -> Any:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


@T.prim_func(s_tir=True)
def wrong_last_element(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    for i, j, k in T.grid(N, N, N):
        with T.sblock("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + T.if_then_else(vi + vj + vk == 3 * N - 3, T.float32(0), A[vi, vk] * B[vk, vj])


@T.prim_func(s_tir=True)
def parallel_reduction(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    for i, j in T.grid(N, N):
        with T.sblock("init"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = T.float32(0)
    for k in T.parallel(N):
        for i, j in T.grid(N, N):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func(s_tir=True)
def shared_row(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        row = T.sblock_alloc_buffer((N * 8,))
        for j in range(N):
            with T.sblock("zero"):  # without it, TVM would give every iteration a row of its own
                row[T.axis.spatial(N, j)] = T.float32(0)
        for i in T.parallel(N):
            for j, k in T.grid(N, N):
                with T.sblock("row"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        row[vj] = T.float32(0)
                    row[vj] = row[vj] + A[vi, vk] * B[vk, vj]
            for j in range(N):
                with T.sblock("C"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = row[vj]


@T.prim_func(s_tir=True)
def sum_from_what_was_there(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        total = T.sblock_alloc_buffer((N, N))
        for i, j, k in T.grid(N, N, N):
            with T.sblock("total"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                total[vi, vj] = total[vi, vj] + A[vi, vk] * B[vk, vj]
        for i, j in T.grid(N, N):
            with T.sblock("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = total[vi, vj]


@T.prim_func(s_tir=True)
def maximum_from_what_was_there(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        most = T.sblock_alloc_buffer((N, N))
        for i, j, k in T.grid(N, N, N):
            with T.sblock("most"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                most[vi, vj] = T.max(most[vi, vj], A[vi, vk] + B[vk, vj])
        for i, j in T.grid(N, N):
            with T.sblock("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = most[vi, vj]


@T.prim_func(s_tir=True)
def nothing_written_now_and_then(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        drawn = T.sblock_alloc_buffer((1,), "int32")
        with T.sblock("draw"):
            drawn[0] = T.call_extern("int32", "rand")
        for i, j, k in T.grid(N, N, N):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                T.where(drawn[0] % 4 > 0)
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func(s_tir=True)
def stale_times_zero(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        stale = T.sblock_alloc_buffer((N, N))
        for i, j, k in T.grid(N, N, N):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = stale[vi, vj] * T.float32(1e-30)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
        for i, j in T.grid(N, N):
            with T.sblock("stale"):
                vi, vj = T.axis.remap("SS", [i, j])
                stale[vi, vj] = A[vi, vj]


@T.prim_func(s_tir=True)
def input_written_from_the_second_run_on(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        drawn = T.sblock_alloc_buffer((1,), "int32")
        with T.sblock("draw"):
            drawn[0] = T.call_extern("int32", "rand")
        for i, j, k in T.grid(N, N, N):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
        with T.sblock("harm"):
            T.where(drawn[0] != GLIBC_FIRST_RAND)
            A[0, 0] = A[0, 0] + T.float32(1)


@T.prim_func(s_tir=True)
def written_beyond_the_end(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    with T.sblock("root"):
        with T.sblock("harm"):
            T.evaluate(T.call_extern("handle", "memset", C.access_ptr("w", offset=N * N), 0, 64))
        for i, j, k in T.grid(N, N, N):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func(s_tir=True)
def large_ones_clipped(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
    for i, j, k in T.grid(N, N, N):
        with T.sblock("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + T.min(A[vi, vk], T.float32(10)) * B[vk, vj]


def rows_of_threads(*, beside: bool) -> Any:
    """Returns a product that takes a buffer in each iteration of a parallel loop; the last writes a float behind it."""
    size = N * 8 + 1  # smaller ones lie on the stack
    num_bytes = 4 if beside else 0

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((N, N)), B: T.Buffer((N, N)), C: T.Buffer((N, N))) -> None:
        for i in T.parallel(N):
            with T.sblock("outer"):
                vi = T.axis.spatial(N, i)
                row = T.sblock_alloc_buffer((size,))
                with T.sblock("harm"):
                    T.where(vi == N - 1)
                    T.evaluate(T.call_extern("handle", "memset", row.access_ptr("w", offset=size), 0, num_bytes))
                for j, k in T.grid(N, N):
                    with T.sblock("row"):
                        vj, vk = T.axis.remap("SR", [j, k])
                        with T.init():
                            row[vj] = T.float32(0)
                        row[vj] = row[vj] + A[vi, vk] * B[vk, vj]
                for j in range(N):
                    with T.sblock("C"):
                        vj = T.axis.spatial(N, j)
                        C[vi, vj] = row[vj]

    return module(func)


def fused_gemm() -> Any:
    """Returns the GEMM that sums up into a row of its own in each iteration of a parallel loop: a right program."""
    schedule = tvm.s_tir.Schedule(Gemm().mod)
    block = schedule.get_sblock("C")
    local = schedule.cache_write(block, 0, "global")
    i, *_ = schedule.get_loops(block)
    schedule.reverse_compute_at(local, i)
    schedule.parallel(i)
    return schedule.mod


GEMM, ODD, ROW_MAX = Gemm(), Gemm(37), RowMax()


def tail_cut_too_early() -> Any:
    """Returns a product of 37 rows, padded to 40, of which 36 are written back."""
    made = Space(ODD.mod, target(), rules=rules_for(ODD.mod, target()))
    edits = (("C padding", "i from 37 to 40"), ("C contraction", IN_REGISTERS), ("C.i tile", (5, 2, 4)))
    schedule = made.schedule(made.edit(UNTUNED, Transformation(edits))).copy()

    def cut(realize: Any) -> Any:
        if str(realize.block.name_hint) != "C_pad_local":
            return realize
        condition = tvm.tirx.LT(realize.predicate.a, realize.predicate.b - 1)
        return tvm.s_tir.SBlockRealize(realize.iter_values, condition, realize.block)

    root = schedule.mod["main"].body.block
    changed = tvm_ffi.structural_map(root, (tvm.s_tir.SBlockRealize, cut))
    schedule.state.replace(schedule.state.get_sref(root), changed, {root: changed})
    return schedule.mod


WRONG = {
    "one wrong element at the end": (GEMM, wrong_last_element),
    "a reduction in parallel": (GEMM, parallel_reduction),
    "parallel blocks that share a row": (GEMM, shared_row),
    "a sum that is not initialised": (GEMM, sum_from_what_was_there),
    "a maximum that is not initialised": (ROW_MAX, maximum_from_what_was_there),
    "nothing written now and then": (GEMM, nothing_written_now_and_then),
    "memory read before it is written, times almost nothing": (GEMM, stale_times_zero),
    "what is large is clipped": (GEMM, large_ones_clipped),
    "a padded product's last row not written": (ODD, tail_cut_too_early()),
}
BESIDE: dict[str, tuple[Any, FailureKind]] = {
    "one vector behind": (beside_its_own(at=N * N, num_bytes=64), "crash"),
    "one float behind": (beside_its_own(at=N * N, num_bytes=4), "crash"),
    "one float behind an end that is not aligned": (beside_its_own(more=1, at=N * N + 1, num_bytes=4), "wrong_result"),
    "one float before": (beside_its_own(at=-1, num_bytes=4), "crash"),
    "one vector before what fills no page": (beside_its_own(more=16, at=-16, num_bytes=64), "wrong_result"),
    "one float behind the buffer of a thread": (rows_of_threads(beside=True), "wrong_result"),
}
DEADLY = {
    "an input written from the second run on": (GEMM, input_written_from_the_second_run_on),
    "written beyond the end": (GEMM, written_beyond_the_end),
}

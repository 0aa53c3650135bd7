"""The short kernels that `calibration` times, compiled by TVM for this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasoning_compiler.machine.slices import compile_kernel

GATHERS = 4
"""Vectors that one round of `gather` loads."""

Kernel = Callable[..., Any]


def walk(
    target: dict[str, Any], *, shape: tuple[int, int], lanes: int, vectors: int, room: int, updates: bool = False
) -> Kernel:
    """Returns a kernel that reads some vectors: (data, out, threads, rounds, rows, round_step, row_step, at).

    Every thread walks through its own row of `data`, which has this shape, and starts at element `at`. Each round and
    each row goes on by so many elements. What is read is summed up into `out`, which has room for this number of
    vectors in each of its rows; or, if it `updates`, is changed and written back.
    """
    from tvm.script import tirx as T

    width = vectors * lanes

    @T.prim_func
    def kernel(
        data: T.Buffer(shape, "float32"),
        out: T.Buffer((shape[0], room * lanes), "float32"),
        threads: T.int32,
        rounds: T.int32,
        rows: T.int32,
        round_step: T.int32,
        row_step: T.int32,
        at: T.int32,
    ):
        for thread in T.parallel(threads):
            sums = T.alloc_buffer((width,), "float32")
            for c in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    sums[c * lanes + lane] = T.float32(0)
            for r, row in T.grid(rounds, rows):
                for c in T.unroll(vectors):
                    for lane in T.vectorized(lanes):
                        if updates:
                            data[thread, at + r * round_step + row * row_step + c * lanes + lane] = data[
                                thread, at + r * round_step + row * row_step + c * lanes + lane
                            ] * T.float32(0.5) + T.float32(1)
                        else:
                            sums[c * lanes + lane] = (
                                sums[c * lanes + lane]
                                + data[thread, at + r * round_step + row * row_step + c * lanes + lane]
                            )
            for c in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    out[thread, c * lanes + lane] = sums[c * lanes + lane]

    return compile_kernel(kernel, target)


def chase(target: dict[str, Any], *, size: int) -> Kernel:
    """Returns a kernel that follows indices in an array of this size, from `end` on: (successors, end, steps).

    Indices have 64 bits: to extend the sign of shorter ones takes a cycle of its own on some CPUs.
    """
    from tvm.script import tirx as T

    @T.prim_func
    def follow(successors: T.Buffer((size,), "int64"), end: T.Buffer((1,), "int64"), steps: T.int32):
        place = T.alloc_buffer((1,), "int64")
        place[0] = end[0]
        for _ in T.serial(steps):
            place[0] = successors[place[0]]
        end[0] = place[0]

    return compile_kernel(follow, target)


def gather(target: dict[str, Any], *, lanes: int, stride: int) -> Kernel:
    """Returns a kernel that loads `GATHERS` vectors a round, elements `stride` apart: (data, out, rounds)."""
    from tvm.script import tirx as T

    @T.prim_func
    def load(
        data: T.Buffer((GATHERS * lanes * stride,), "float32"),
        out: T.Buffer((GATHERS * lanes,), "float32"),
        rounds: T.int32,
    ):
        sums = T.alloc_buffer((GATHERS * lanes,), "float32")
        for c in T.unroll(GATHERS):
            for lane in T.vectorized(lanes):
                sums[c * lanes + lane] = T.float32(0)
        for r in T.serial(rounds):
            for c in T.unroll(GATHERS):
                for lane in T.vectorized(lanes):
                    sums[c * lanes + lane] = (
                        sums[c * lanes + lane] + data[(c * lanes + lane) * stride + r % T.int32(stride)]
                    )
        for c in T.unroll(GATHERS):
            for lane in T.vectorized(lanes):
                out[c * lanes + lane] = sums[c * lanes + lane]

    return compile_kernel(load, target)


def calls(target: dict[str, Any], *, size: int) -> Kernel:
    """Returns a kernel that computes `size` exponentials by the C library: (data, out)."""
    from tvm.script import tirx as T

    @T.prim_func
    def exponentials(data: T.Buffer((size,), "float32"), out: T.Buffer((size,), "float32")):
        for i in T.serial(size):
            out[i] = T.exp(data[i])

    return compile_kernel(exponentials, target)


def region(target: dict[str, Any], *, num_threads: int, parallel: bool) -> Kernel:
    """Returns a kernel that does next to nothing in each thread, or, if not `parallel`, in one: (out)."""
    from tvm.script import tirx as T

    size = 64 * num_threads
    loop = T.parallel if parallel else T.serial

    @T.prim_func
    def touch(out: T.Buffer((size,), "float32")):
        for thread in loop(num_threads):
            out[thread * 64] = T.float32(1)

    return compile_kernel(touch, target)

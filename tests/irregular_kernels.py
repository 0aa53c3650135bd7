"""Kernels that TVM's own rules do not schedule, small, with their right values by NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tvm import te, topi
from tvm.script import tirx as T

ROWS, COLUMNS, STEPS, TERMS = 24, 32, 3, 100


def running_sum(axis: Any) -> Any:
    """Returns the sums along rows, the axis that carries them marked as one of `T.axis`."""

    @T.prim_func(s_tir=True)
    def kernel(X: T.Buffer((ROWS, COLUMNS), "float32"), Y: T.Buffer((ROWS, COLUMNS), "float32")):
        for i in range(ROWS):
            with T.sblock("first"):
                vi = T.axis.spatial(ROWS, i)
                Y[vi, 0] = X[vi, 0]
        for i, j in T.grid(ROWS, COLUMNS - 1):
            with T.sblock("next"):
                vi = T.axis.spatial(ROWS, i)
                vj = axis(COLUMNS - 1, j)
                Y[vi, vj + 1] = Y[vi, vj] + X[vi, vj + 1]

    return kernel


@T.prim_func(s_tir=True)
def running_sum_down(X: T.Buffer((ROWS, COLUMNS), "float32"), Y: T.Buffer((ROWS, COLUMNS), "float32")):
    for j in range(COLUMNS):
        with T.sblock("first"):
            vj = T.axis.spatial(COLUMNS, j)
            Y[0, vj] = X[0, vj]
    for i, j in T.grid(ROWS - 1, COLUMNS):
        with T.sblock("next"):
            vi = T.axis.opaque(ROWS - 1, i)
            vj = T.axis.spatial(COLUMNS, j)
            Y[vi + 1, vj] = Y[vi, vj] + X[vi + 1, vj]


@T.prim_func(s_tir=True)
def heat(U: T.Buffer((ROWS, COLUMNS), "float32"), V: T.Buffer((ROWS, COLUMNS), "float32")):
    odd = T.sblock_alloc_buffer((ROWS, COLUMNS), "float32")
    even = T.sblock_alloc_buffer((ROWS, COLUMNS), "float32")
    for i, j in T.grid(ROWS, COLUMNS):
        with T.sblock("load"):
            vi, vj = T.axis.remap("SS", [i, j])
            even[vi, vj] = U[vi, vj]
    for _t in range(STEPS):
        for i, j in T.grid(ROWS, COLUMNS):
            with T.sblock("to_odd"):
                vi, vj = T.axis.remap("SS", [i, j])
                odd[vi, vj] = T.if_then_else(vi > 0, T.float32(0.5) * (even[vi - 1, vj] + even[vi, vj]), even[vi, vj])
        for i, j in T.grid(ROWS, COLUMNS):
            with T.sblock("to_even"):
                vi, vj = T.axis.remap("SS", [i, j])
                even[vi, vj] = T.if_then_else(vi > 0, T.float32(0.5) * (odd[vi - 1, vj] + odd[vi, vj]), odd[vi, vj])
    for i, j in T.grid(ROWS, COLUMNS):
        with T.sblock("store"):
            vi, vj = T.axis.remap("SS", [i, j])
            V[vi, vj] = even[vi, vj]


@T.prim_func(s_tir=True)
def sparse_rows(
    start: T.Buffer((ROWS + 1,), "int32"),
    index: T.Buffer((TERMS,), "int32"),
    value: T.Buffer((TERMS,), "float32"),
    X: T.Buffer((ROWS, COLUMNS), "float32"),
    Y: T.Buffer((ROWS, COLUMNS), "float32"),
):
    for i in range(ROWS):
        with T.sblock("row"):
            vi = T.axis.spatial(ROWS, i)
            T.reads(start[0 : ROWS + 1], index[0:TERMS], value[0:TERMS], X[0:ROWS, 0:COLUMNS])
            T.writes(Y[vi, 0:COLUMNS])
            for c in range(COLUMNS):
                with T.sblock("zero"):
                    vc = T.axis.spatial(COLUMNS, c)
                    Y[vi, vc] = T.float32(0)
            for k, c in T.grid(start[vi + 1] - start[vi], COLUMNS):
                with T.sblock("term"):
                    vk = T.axis.reduce(start[vi + 1] - start[vi], k)
                    vc = T.axis.spatial(COLUMNS, c)
                    Y[vi, vc] = Y[vi, vc] + value[start[vi] + vk] * X[index[start[vi] + vk], vc]


@T.prim_func(s_tir=True)
def sums_by_class(
    class_of: T.Buffer((ROWS,), "int32"), X: T.Buffer((ROWS, COLUMNS), "float32"), S: T.Buffer((8, COLUMNS), "float32")
):
    for c, f in T.grid(8, COLUMNS):
        with T.sblock("zero"):
            vc, vf = T.axis.remap("SS", [c, f])
            S[vc, vf] = T.float32(0)
    for i, f in T.grid(ROWS, COLUMNS):
        with T.sblock("add"):
            vi = T.axis.reduce(ROWS, i)
            vf = T.axis.spatial(COLUMNS, f)
            S[class_of[vi], vf] = S[class_of[vi], vf] + X[vi, vf]


def adaptive_average() -> Any:
    x = te.placeholder((1, 16, 7, 11), "float32", name="x")
    return te.create_prim_func([x, topi.nn.adaptive_pool(x, (3, 4), "avg")])


def cumsum() -> Any:
    x = te.placeholder((ROWS, COLUMNS), "float32", name="x")
    return te.create_prim_func([x, topi.cumsum(x, 1)])


def _heat(u: np.ndarray) -> np.ndarray:
    for _ in range(2 * STEPS):
        u = np.concatenate([u[:1], (u[:-1] + u[1:]) / 2])
    return u


def _sparse(start: np.ndarray, index: np.ndarray, value: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.stack([(value[a:b, None] * x[index[a:b]]).sum(0) for a, b in pairwise(start)])


def _by_class(class_of: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.stack([x[class_of == each].sum(0) for each in range(8)])


def _adaptive(x: np.ndarray) -> np.ndarray:
    cuts = [[(n * i // m, -(-n * (i + 1) // m)) for i in range(m)] for n, m in ((7, 3), (11, 4))]
    return np.array([[[[c[a:b, d:e].mean() for d, e in cuts[1]] for a, b in cuts[0]] for c in x[0]]])


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "matrix": rng.standard_normal((ROWS, COLUMNS)).astype("float32"),
        "image": rng.standard_normal((1, 16, 7, 11)).astype("float32"),
        "start": np.linspace(0, TERMS, ROWS + 1).astype("int32"),
        "index": rng.integers(0, ROWS, TERMS).astype("int32"),
        "value": rng.standard_normal(TERMS).astype("float32"),
        "class": rng.integers(0, 8, ROWS).astype("int32"),
    }


CASES: dict[str, tuple[Any, tuple[str, ...], Any, list[str]]] = {
    "running-sum": (running_sum(T.axis.opaque), ("matrix",), lambda x: x.cumsum(1), ["i"]),
    "running-sum-marked-spatial": (running_sum(T.axis.spatial), ("matrix",), lambda x: x.cumsum(1), ["i"]),
    "running-sum-down": (running_sum_down, ("matrix",), lambda x: x.cumsum(0), ["j_0"]),
    "time-loop": (heat, ("matrix",), _heat, ["i", "i"]),
    "sparse-rows": (sparse_rows, ("start", "index", "value", "matrix"), _sparse, ["i"]),
    "sums-by-class": (sums_by_class, ("class", "matrix"), _by_class, ["f_0"]),
    "adaptive-pool": (adaptive_average, ("image",), _adaptive, ["ax1"]),
    "cumsum": (cumsum, ("matrix",), lambda x: x.cumsum(1), []),
}
"""By name: the kernel, its inputs, its right values, and the loops that `independent loops` makes parallel."""

INPUTS = _inputs()

"""Integers that a kernel uses as indices or bounds: drawn within the range of what they index, and all over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import topi
from tvm.script import tirx as T

from measure_kernels import te, tvm
from reasoning_compiler.workload import from_tvm
from reasoning_compiler.workload.index_ranges import Offsets, Positions, index_ranges

pytestmark = pytest.mark.tvm


def highest(func: Any) -> dict[int, list[int]]:
    """Returns the largest allowed values of each argument that is an index."""
    ranges = index_ranges(func)
    assert all(isinstance(each, Positions) for each in ranges.values())
    return {number: sorted(set(each.highest.ravel().tolist())) for number, each in ranges.items()}


def placeholders() -> tuple[Any, Any]:
    return te.placeholder((10, 20, 30), name="X"), te.placeholder((5,), "int64", name="I")


def test_an_index_stays_below_the_extent_of_its_own_axis() -> None:
    x, i = placeholders()
    for axis, extent in enumerate((10, 20, 30)):
        taken = te.create_prim_func([x, i, topi.take(x, i, axis=axis, mode="fast")])
        assert highest(taken) == {1: [extent - 1]}


def test_rows_of_one_argument_may_index_different_axes() -> None:
    x, i = placeholders()[0], te.placeholder((2, 7), "int32", name="I")
    (ranges,) = index_ranges(te.create_prim_func([x, i, topi.gather_nd(x, i)])).values()
    assert isinstance(ranges, Positions)
    np.testing.assert_array_equal(ranges.highest, [[9] * 7, [19] * 7])


def test_an_axis_of_one_element_gives_zeros_to_its_own_index_alone() -> None:
    mask = te.placeholder((1, 128), name="mask")
    row, column = te.placeholder((1,), "int64", name="row"), te.placeholder((128,), "int64", name="column")
    # Positions are put right in a buffer of their own first, as frameworks do it.
    rows = te.compute((128,), lambda j: tvm.tirx.if_then_else(row[0] < 0, row[0] + 1, row[0]), name="rows")
    picked = te.compute((128,), lambda j: mask[rows[j], column[j]], name="picked")
    workload = from_tvm(te.create_prim_func([mask, row, column, picked]))
    assert highest(workload.mod["main"]) == {1: [0], 2: [127]}
    _, rows_drawn, columns_drawn = workload.make_inputs(0)
    assert not rows_drawn.any() and {0, 127} <= set(columns_drawn.tolist())


def test_what_is_added_to_an_index_and_what_multiplies_it_counts() -> None:
    x, i = te.placeholder((100,), name="X"), te.placeholder((5,), "int32", name="I")
    picked = te.compute((5, 4), lambda k, j: x[i[k] * 8 + j], name="picked")
    assert highest(te.create_prim_func([x, i, picked])) == {1: [12]}


def test_a_place_that_is_written_is_an_index_too() -> None:
    @T.prim_func(s_tir=True)
    def scatter(places: T.Buffer((50,), "uint8"), H: T.Buffer((10,), "int32")) -> None:
        for i in range(10):
            with T.sblock("zero"):
                vi = T.axis.spatial(10, i)
                H[vi] = 0
        for i in range(50):
            with T.sblock("count"):
                vi = T.axis.reduce(50, i)
                H[T.cast(places[vi], "int32")] = H[T.cast(places[vi], "int32")] + 1

    assert highest(scatter) == {0: [9]}


def test_rows_of_a_sparse_matrix_cover_all_its_elements() -> None:
    @T.prim_func(s_tir=True)
    def spmv(
        indptr: T.Buffer((33,), "int32"),
        column: T.Buffer((400,), "int32"),
        A: T.Buffer((400,), "float32"),
        x: T.Buffer((64,), "float32"),
        y: T.Buffer((32,), "float32"),
    ) -> None:
        for i in range(32):
            with T.sblock("row"):
                vi = T.axis.spatial(32, i)
                y[vi] = T.float32(0)
                for k in range(indptr[vi + 1] - indptr[vi]):
                    y[vi] = y[vi] + A[indptr[vi] + k] * x[column[indptr[vi] + k]]

    ranges = index_ranges(spmv)
    assert isinstance(ranges[0], Offsets) and ranges[0].total == 400
    assert isinstance(ranges[1], Positions) and ranges[1].highest.max() == 63
    rng = np.random.default_rng(0)
    for offsets in (ranges[0].draw(rng), ranges[0].at_the_ends(rng)):
        assert offsets[0] == 0 and offsets[-1] == 400 and (np.diff(offsets) >= 0).all()
    assert (np.diff(ranges[0].draw(rng)) > 0).mean() > 0.7


def test_lengths_that_are_compared_with_a_loop_reach_its_end() -> None:
    x, length = te.placeholder((4, 60), name="X"), te.placeholder((4,), "int32", name="length")
    zero = tvm.tirx.const(0.0, "float32")
    masked = te.compute((4, 60), lambda i, j: tvm.tirx.if_then_else(j < length[i], x[i, j], zero), name="masked")
    assert highest(te.create_prim_func([x, length, masked])) == {1: [60]}


def test_numbers_are_no_indices() -> None:
    a = te.placeholder((64,), "int32", name="A")
    doubled = te.compute((64,), lambda i: a[i] * 2, name="B")
    workload = from_tvm(te.create_prim_func([a, doubled]))
    assert not workload.index_ranges
    (values,) = workload.make_inputs(0)
    assert values.min() < 0 < values.max()

"""The inputs beside the random ones, for every dtype that may change and for those that may not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.workload import numpy_dtype
from reasoning_compiler.workload.index_ranges import Positions
from reasoning_compiler.workload.input_sets import INPUT_SETS, make_input_set, nans

SHAPE = (40, 50)
LENGTH = 40  # of a sum over the first axis
FLOATS = ["float16", "bfloat16", "float32", "float64"]


def made(name: str, dtype: str, *, seed: int = 0) -> np.ndarray:
    """Returns a set's values for one argument, as float64."""
    dtype_ = numpy_dtype(dtype)
    random = np.random.default_rng(7).standard_normal(SHAPE)
    random = (100 * random).astype(dtype_) if dtype_.kind in "iu" else random.astype(dtype_)
    (values,) = make_input_set(name, [Argument("A", SHAPE, dtype)], [random], seed=seed, longest_sum=LENGTH, ranges={})
    assert values is not None and values.shape == SHAPE and values.dtype == dtype_
    return values.astype(np.float64)


@pytest.mark.parametrize("dtype", FLOATS)
class TestFloats:
    def test_zeros_negative_and_large_are_what_they_say(self, dtype: str) -> None:
        assert not made("zeros", dtype).any()
        negative = made("negative", dtype)
        assert (negative <= 0).all() and (negative < 0).mean() > 0.9
        large = made("large", dtype)
        unit = 8.0 if dtype == "float16" else 32.0
        assert set(np.unique(large / unit)) == {-2, -1, 0, 1, 2}

    def test_denormal_numbers_are_below_the_smallest_normal_one(self, dtype: str) -> None:
        values = made("denormal", dtype)
        assert (np.abs(values) < float(ml_dtypes.finfo(numpy_dtype(dtype)).tiny)).all()
        assert (values != 0).mean() > 0.9 and values.min() < 0 < values.max()

    def test_mixed_ones_are_of_every_kind(self, dtype: str) -> None:
        values = made("mixed", dtype)
        tiny = float(ml_dtypes.finfo(numpy_dtype(dtype)).tiny)
        kinds = [values == 1, values == -1, values == 0, (values != 0) & (np.abs(values) < tiny)]
        others = ~np.logical_or.reduce(kinds)
        assert all(kind.mean() > 0.1 for kind in [*kinds, others])
        assert np.signbit(values[values == 0]).any() and not np.signbit(values[values == 0]).all()

    def test_all_are_finite_and_drawn_from_the_seed(self, dtype: str) -> None:
        for name in INPUT_SETS:
            assert np.isfinite(made(name, dtype)).all()
            np.testing.assert_array_equal(made(name, dtype, seed=3), made(name, dtype, seed=3))
        assert (made("mixed", dtype, seed=3) != made("mixed", dtype, seed=4)).any()

    def test_nans_fill_what_can_hold_them(self, dtype: str) -> None:
        (values,) = nans([Argument("A", SHAPE, dtype)])
        assert values is not None and np.isnan(values.astype(np.float64)).all()


def test_small_integers_go_to_the_ends_of_their_range() -> None:
    assert set(np.unique(made("large", "int8"))) == {-127, 127}
    assert set(np.unique(made("large", "uint8"))) == {0, 255}
    assert set(np.unique(made("mixed", "int8"))) == {-127, 0, 1, 127}
    assert (made("negative", "int8") <= 0).all()


@pytest.mark.parametrize(("dtype", "role"), [("int32", "input"), ("float32", "weight")])
def test_indices_and_weights_keep_their_values(dtype: str, role: str) -> None:
    argument = Argument("A", SHAPE, dtype, role)  # type: ignore[arg-type]
    random = np.ones(SHAPE, numpy_dtype(dtype))
    for name in INPUT_SETS:
        assert make_input_set(name, [argument], [random], seed=0, longest_sum=LENGTH, ranges={}) == [None]
    assert nans([argument]) == [None]


def test_exact_ones_are_small_integers_whose_sums_the_dtype_holds() -> None:
    for dtype in FLOATS:
        values = made("exact", dtype)
        assert set(np.unique(values)) <= {-1, 0, 1} and (values != 0).mean() > 0.9
    (values,) = make_input_set(
        "exact", [Argument("A", SHAPE, "bfloat16")], [np.zeros(SHAPE, ml_dtypes.bfloat16)], seed=0,
        longest_sum=1 << 16, ranges={},
    )  # fmt: skip
    assert values is not None and 0.05 < (values != 0).mean() < 0.2


@pytest.mark.parametrize("dtype", FLOATS)
def test_spikes_are_rare_and_dominate_what_is_around_them(dtype: str) -> None:
    for name in ("spikes", "ends"):
        values = np.abs(made(name, dtype))
        assert 0.005 < (values >= 2).mean() < 0.06 and values.max() <= 4
        assert np.sort(values.ravel())[:-200].max() < 0.01


def test_ends_have_one_spike_in_the_first_or_last_place_of_lines_along_each_axis() -> None:
    spikes = np.abs(made("ends", "float32")) >= 2
    assert not spikes[1:-1, 1:-1].any()
    for edge in (spikes[0], spikes[-1], spikes[:, 0], spikes[:, -1]):
        assert 0.15 < edge.mean() < 0.35


def test_booleans_are_true_where_others_have_spikes_and_false_there_in_large() -> None:
    assert 0 < made("spikes", "bool").mean() < 0.1 and made("large", "bool").mean() > 0.9
    assert made("ends", "bool").any() and not made("zeros", "bool").any()


def test_indices_lie_at_the_ends_of_their_range_and_are_drawn_again() -> None:
    argument, random = Argument("I", (200,), "int32"), np.zeros(200, np.int32)
    allowed = {"I": Positions(np.full(200, 9))}
    for name, values in (("ends", {0, 9}), ("spikes", set(range(10)))):
        (chosen,) = make_input_set(name, [argument], [random], seed=0, longest_sum=LENGTH, ranges=allowed)
        assert chosen is not None and chosen.dtype == np.int32 and set(np.unique(chosen)) == values

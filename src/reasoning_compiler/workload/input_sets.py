"""Inputs on which programs fail that pass on random ones.

What random inputs cannot show: sums that start from what memory held (zeros must give zeros), an order of operations
that overflows (large), wrong handling of signs (negative) or of numbers below the smallest normal one (denormal),
elements that trade places (mixed); and what a tolerance hides, a term among thousands that is left out or counted
twice. Small integers show it to the bit, since sums of them are the same in every order (exact), and so do inputs of
which single elements dominate each sum: at random places (spikes), at the beginning and the end of each axis (ends).

Constant weights keep their random values. Integers that are used as indices are drawn again, and lie at the ends of
their range (`index_ranges`); wider integers that are plain numbers keep their values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.rng import stream
from reasoning_compiler.workload.index_ranges import IndexRange
from reasoning_compiler.workload.workload import numpy_dtype

InputSet = Literal["mixed", "large", "negative", "zeros", "denormal", "exact", "spikes", "ends"]
INPUT_SETS: tuple[InputSet, ...] = get_args(InputSet)

SUMS_EXACTLY: InputSet = "exact"
"""The set on which plain sums, and sums of products, are the same in every order."""

# "large" leaves most exponents for what a kernel multiplies and sums up: it is 2^5, and 2^3 in float16.
_EXPONENT_SHARE = 5
_MAX_EXPONENT = 5
_SMALL_INTEGERS = 2
# A spike is this many times what lies around it: the square root of a long sum's length, and more. All are small enough
# for exponentials.
_SPIKE, _AROUND = 2.0, 2.0**-11


def make_input_set(
    name: InputSet,
    arguments: Sequence[Argument],
    inputs: Sequence[np.ndarray],
    *,
    seed: int,
    longest_sum: int,
    ranges: Mapping[str, IndexRange],
) -> list[np.ndarray | None]:
    """Returns the values of one input set for each argument, None where the random ones stay.

    - "mixed": zeros of both signs, ones of both signs, denormal numbers and random ones, at random places.
    - "large": integers from -2 to 2 times a power of two, so that the scores of a softmax become thousands. Sums of
      their products are exact in any order: equal scores are equal in every right program, as those of other large
      numbers are not.
    - "negative": the random values, none of them above zero.
    - "zeros": nothing else.
    - "denormal": numbers below the smallest normal one. Integers have none.
    - "exact": ones of both signs, and zeros as far as it takes to keep sums within what the dtype holds exactly.
    - "spikes": one element in `longest_sum`, at random places, of 2 to 4, and others some thousand times smaller.
    - "ends": the same, with the spikes in the first or the last place of each line along each axis.

    8-bit integers are at the ends of their range where floats are large. Booleans are True where others have spikes,
    and False there in "large".

    Args:
        name: which set.
        arguments: those of the kernel that are no outputs.
        inputs: their random values (`Workload.make_inputs`).
        seed: of what is drawn.
        longest_sum: terms of the kernel's longest sum.
        ranges: of the arguments that are used as indices, by name (`Workload.index_ranges`).
    """
    made: list[np.ndarray | None] = []
    for index, (argument, values) in enumerate(zip(arguments, inputs, strict=True)):
        rng = stream(seed, f"inputs: {name}", index)
        if argument.name in ranges:
            chosen = _indices(name, ranges[argument.name], rng)
            made.append(None if chosen is None else chosen.astype(values.dtype))
        else:
            made.append(_values(name, values, rng, longest_sum) if _may_change(argument) else None)
    return made


def nans(arguments: Sequence[Argument]) -> list[np.ndarray | None]:
    """Returns NaN for every element of every input that can hold one, None for all others."""
    return [
        np.full(argument.shape, np.nan, numpy_dtype(argument.dtype))
        if _may_change(argument) and _is_float(numpy_dtype(argument.dtype))
        else None
        for argument in arguments
    ]


def _may_change(argument: Argument) -> bool:
    dtype = numpy_dtype(argument.dtype)
    return argument.role == "input" and (_is_float(dtype) or dtype.itemsize == 1)


def _indices(name: InputSet, allowed: IndexRange, rng: np.random.Generator) -> np.ndarray | None:
    if name == "ends":
        return allowed.at_the_ends(rng)
    return allowed.draw(rng) if name in ("mixed", "exact", "spikes") else None


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind not in "biu"


def _values(name: InputSet, random: np.ndarray, rng: np.random.Generator, longest_sum: int) -> np.ndarray | None:
    dtype = random.dtype
    if name == "zeros":
        return np.zeros_like(random)
    if dtype.kind == "b":
        spikes = _at_ends(random.shape) if name == "ends" else rng.random(random.shape) < 1 / longest_sum
        return {"spikes": spikes, "ends": spikes, "large": ~spikes}.get(name)
    if name == "negative":
        return None if dtype.kind == "u" else -np.abs(random)
    if not _is_float(dtype):
        return _integers(name, random, rng) if name in ("large", "mixed") else None
    info = ml_dtypes.finfo(dtype)
    if name == "large":
        exponent = min(int(math.log2(float(info.max)) + 1) // _EXPONENT_SHARE, _MAX_EXPONENT)
        factors = rng.integers(-_SMALL_INTEGERS, _SMALL_INTEGERS + 1, random.shape, dtype=np.int8)
        return (factors.astype(np.float64 if dtype == np.float64 else np.float32) * 2.0**exponent).astype(dtype)
    if name == "exact":
        # Sums of products of two such inputs stay below what the dtype's digits hold, by four standard deviations.
        share = min(1.0, 2.0 ** (info.nmant - 2) / math.sqrt(longest_sum))
        signs = rng.integers(0, 2, random.shape, dtype=np.int8) * 2 - 1
        return (signs * (rng.random(random.shape, dtype=np.float32) < share)).astype(dtype)
    if name in ("spikes", "ends"):
        signs = rng.integers(0, 2, random.shape, dtype=np.int8) * 2 - 1
        spikes = signs * _SPIKE * (1 + rng.random(random.shape, dtype=np.float32))
        is_spike = _at_ends(random.shape) if name == "ends" else _somewhere(random.shape, longest_sum, rng)
        return np.where(is_spike, spikes, random.astype(np.float32) * _AROUND).astype(dtype)
    denormal = (rng.random(random.shape, dtype=np.float32) - np.float32(0.5)).astype(dtype) * info.tiny
    if name == "denormal":
        return denormal.astype(dtype)
    kinds = rng.integers(0, 6, random.shape, dtype=np.int8)
    one, zero = dtype.type(1), dtype.type(0)
    return np.select([kinds == kind for kind in range(5)], [zero, -zero, one, -one, denormal], default=random).astype(
        dtype
    )


def _somewhere(shape: tuple[int, ...], longest_sum: int, rng: np.random.Generator) -> np.ndarray:
    """Returns one place in so many, and at least one."""
    chosen = rng.random(shape) < 1 / longest_sum
    if chosen.size:
        chosen.flat[rng.integers(chosen.size)] = True
    return chosen


def _at_ends(shape: tuple[int, ...]) -> np.ndarray:
    """Returns the first or the last place of lines along each axis, for one line in as many as there are choices.

    So most lines have one of them, or none, and few have several.
    """
    chosen = np.zeros(shape, bool)
    places = np.indices(shape, sparse=True)
    for axis, extent in enumerate(shape):
        line = sum((place for other, place in enumerate(places) if other != axis), start=np.zeros((), int))
        for end, place in enumerate((0, extent - 1)):
            chosen |= (places[axis] == place) & (line % (2 * len(shape)) == 2 * axis + end)
    return chosen if shape else np.ones(shape, bool)


def _integers(name: InputSet, random: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ends = [np.iinfo(random.dtype).max, 0 if random.dtype.kind == "u" else -np.iinfo(random.dtype).max]
    choices = np.array(ends if name == "large" else [0, 1, *ends], dtype=random.dtype)
    return choices[rng.integers(0, len(choices), random.shape, dtype=np.int8)]

"""Inputs on which programs fail that pass on random ones: large and tiny numbers, one sign only, zeros, NaN before.

Arguments that are constant weights keep their random values, and so do integers of more than 8 bits, which may be
indices. What a random set cannot show: sums that start from what memory held (zeros must give zeros), an order of
operations that overflows (large), wrong handling of signs (negative) or of numbers below the smallest normal one
(denormal), elements that trade places (mixed).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.rng import stream
from reasoning_compiler.workload.workload import numpy_dtype

InputSet = Literal["mixed", "large", "negative", "zeros", "denormal"]
INPUT_SETS: tuple[InputSet, ...] = get_args(InputSet)

# "large" leaves most exponents for what a kernel multiplies and sums up: it is 2^5, and 2^3 in float16.
_EXPONENT_SHARE = 5
_MAX_EXPONENT = 5
_SMALL_INTEGERS = 2

LOOSER = {"large": 100.0}
"""How many times as far from the reference a right result may lie on an input set; once where it is not named.

A softmax of scores in the thousands turns a rounding of one score, which fused multiply-add leaves out in one loop and
not in the other, into a relative error of some 1e-4. What is wrong there is wrong by far more.
"""


def make_input_set(
    name: InputSet, arguments: Sequence[Argument], inputs: Sequence[np.ndarray], *, seed: int
) -> list[np.ndarray | None]:
    """Returns the values of one input set for each argument, None where the random ones stay.

    - "mixed": zeros of both signs, ones of both signs, denormal numbers and random ones, at random places.
    - "large": integers from -2 to 2 times a power of two, so that the scores of a softmax become thousands. Sums of
      their products are exact in any order: equal scores are equal in every right program, as those of other large
      numbers are not.
    - "negative": the random values, none of them above zero.
    - "zeros": nothing else.
    - "denormal": numbers below the smallest normal one. Integers have none.

    8-bit integers are at the ends of their range where floats are large.

    Args:
        name: which set.
        arguments: those of the kernel that are no outputs.
        inputs: their random values (`Workload.make_inputs`).
        seed: of what is drawn.
    """
    return [
        _values(name, values, stream(seed, f"inputs: {name}", index)) if _may_change(argument) else None
        for index, (argument, values) in enumerate(zip(arguments, inputs, strict=True))
    ]


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
    return argument.role == "input" and (_is_float(dtype) or (dtype.kind in "iu" and dtype.itemsize == 1))


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind not in "biu"


def _values(name: InputSet, random: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    dtype = random.dtype
    if name == "zeros":
        return np.zeros_like(random)
    if name == "negative":
        return None if dtype.kind == "u" else -np.abs(random)
    if not _is_float(dtype):
        return None if name == "denormal" else _integers(name, random, rng)
    info = ml_dtypes.finfo(dtype)
    if name == "large":
        exponent = min(int(math.log2(float(info.max)) + 1) // _EXPONENT_SHARE, _MAX_EXPONENT)
        factors = rng.integers(-_SMALL_INTEGERS, _SMALL_INTEGERS + 1, random.shape, dtype=np.int8)
        return (factors.astype(np.float64 if dtype == np.float64 else np.float32) * 2.0**exponent).astype(dtype)
    denormal = (rng.random(random.shape, dtype=np.float32) - np.float32(0.5)).astype(dtype) * info.tiny
    if name == "denormal":
        return denormal.astype(dtype)
    kinds = rng.integers(0, 6, random.shape, dtype=np.int8)
    one, zero = dtype.type(1), dtype.type(0)
    return np.select([kinds == kind for kind in range(5)], [zero, -zero, one, -one, denormal], default=random).astype(
        dtype
    )


def _integers(name: InputSet, random: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ends = [np.iinfo(random.dtype).max, 0 if random.dtype.kind == "u" else -np.iinfo(random.dtype).max]
    choices = np.array(ends if name == "large" else [0, 1, *ends], dtype=random.dtype)
    return choices[rng.integers(0, len(choices), random.shape, dtype=np.int8)]

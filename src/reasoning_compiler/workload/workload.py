"""The workload: one tensor program to tune, its arguments, its work, and what it should compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.rng import stream
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.workload.index_ranges import IndexRange, index_ranges

if TYPE_CHECKING:
    from tvm import IRModule

_LARGEST_NUMBER = 100

Reference = Callable[[list[np.ndarray]], list[np.ndarray]]
Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Workload:
    """One tensor program to tune.

    Args:
        name: what people call it, as "llama3-attention".
        mod: a module with one PrimFunc, `main`; its attribute `layout_free_buffers` lists the constant weights.
        arguments: the PrimFunc's arguments in order.
        flops: floating-point operations that one run has to do; None where their number depends on the data, or is not
            known.
        reference: computes the outputs from the other arguments, in float64 if they are floats; None for the kernel
            itself in float64, as it was written.
        good_order: the same in the kernel's own precision, with sums in a good order, which shows how exact results can
            be; None for the kernel itself with its sums in a good order.
        spec: text that `parse` makes the same workload from, as "llama3-attention[seq_len=512]" or
            "/home/me/kernels.py:my_matmul"; empty for a program that was given as an object.
        draws: by name of an argument, what draws its values, where not all random ones have a meaning, as for indices.
    """

    name: str
    mod: IRModule
    arguments: tuple[Argument, ...]
    flops: int | None
    reference: Reference | None
    spec: str
    good_order: Reference | None = None
    draws: Mapping[str, Draw] = field(default_factory=dict, hash=False)

    @property
    def bytes(self) -> int:
        """The bytes of all arguments: what any program must at least move between memory and cores."""
        return sum(math.prod(a.shape) * numpy_dtype(a.dtype).itemsize for a in self.arguments)

    @cached_property
    def key(self) -> str:
        """The structural hash of the module: 16 hexadecimal digits, the same in every process."""
        import_tvm()
        import tvm_ffi

        return f"{tvm_ffi.structural_hash(self.mod) & (2**64 - 1):016x}"

    @cached_property
    def index_ranges(self) -> Mapping[str, IndexRange]:
        """Which values the arguments may have that the program uses as indices, by name."""
        found = index_ranges(self.mod["main"])
        return {self.arguments[number].name: each for number, each in found.items()}

    def make_inputs(self, seed: int) -> list[np.ndarray]:
        """Returns random values for every argument that is not an output, in order.

        Floats are uniform around 0 with variance 1. Those of weights are integers times a power of two, so that sums of
        them are exact, with variance about 1 divided by their last-but-one extent, so that results stay near 1.
        Integers that the program uses as indices, or to bound loops, cover the range that is allowed
        (`index_ranges`). Others are numbers: 8-bit ones use their whole range but for -128, wider ones are at most 100.
        What `draws` names is drawn as it says.
        """
        inputs = [a for a in self.arguments if a.role != "output"]
        return [self._drawn(a, stream(seed, "inputs", index)) for index, a in enumerate(inputs)]

    def _drawn(self, argument: Argument, rng: np.random.Generator) -> np.ndarray:
        if argument.name in self.draws:
            return self.draws[argument.name](rng)
        if argument.name in self.index_ranges:
            return self.index_ranges[argument.name].draw(rng).astype(numpy_dtype(argument.dtype))
        return _random_array(argument, rng)


def numpy_dtype(dtype: str) -> np.dtype:
    """Returns NumPy's dtype for TVM's name of one, bfloat16 and the 8-bit floats included."""
    if dtype == "bool":
        return np.dtype(np.bool_)
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def _random_array(argument: Argument, rng: np.random.Generator) -> np.ndarray:
    dtype = numpy_dtype(argument.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, argument.shape, dtype=np.int8).astype(dtype)
    if dtype.kind in "iu":
        largest = np.iinfo(dtype).max if dtype.itemsize == 1 else _LARGEST_NUMBER
        return rng.integers(0 if dtype.kind == "u" else -largest, largest + 1, argument.shape, dtype=dtype)
    if argument.role == "weight" and argument.shape:
        length = argument.shape[-2 if len(argument.shape) > 1 else -1]
        largest = math.sqrt(3.0 / max(1, length))
        unit = 2.0 ** math.ceil(math.log2(largest / 127))
        top = round(largest / unit)
        array = rng.integers(-top, top + 1, argument.shape, dtype=np.int8).astype(np.float32)
    else:
        unit = math.sqrt(12.0)
        array = rng.random(argument.shape, dtype=np.float64 if dtype == np.float64 else np.float32)
        array -= 0.5
    array *= unit
    return array.astype(dtype, copy=False)

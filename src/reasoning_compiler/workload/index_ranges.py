"""Which values an integer argument may have: read from what a kernel does with it.

An argument of integers may hold plain numbers, or positions in other buffers, or the bounds of loops. Positions must
stay below the extent of the very axis that they index, bounds must not lead a loop beyond a buffer, and offsets into
rows (`indptr` of the CSR format) ascend. All of them should cover the whole range that is allowed: positions that are
always 0 and rows that are empty verify nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reasoning_compiler.ir.walk import mapped, parts_in, substituted, variables
from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True, eq=False)
class Positions:
    """Integers that select, or count, something.

    Args:
        highest: the largest allowed value of each element; the smallest is 0.
    """

    highest: np.ndarray

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns random values, the first and the last that are allowed among them where there are two or more."""
        values = rng.integers(0, self.highest + 1, self.highest.shape)
        if values.size > 1:
            first, last = rng.choice(values.size, 2, replace=False)
            values.flat[first], values.flat[last] = 0, self.highest.flat[last]
        return values

    def at_the_ends(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the largest values that are allowed, and zeros in between where there are several elements."""
        is_last = rng.integers(0, 2, self.highest.shape)
        return self.highest * (is_last if self.highest.size > 1 else 1)


@dataclass(frozen=True, eq=False)
class Offsets:
    """Integers of which each pair of neighbours bounds a row.

    Args:
        shape: of the argument, which has one dimension.
        total: of all rows together.
    """

    shape: tuple[int, ...]
    total: int

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns random offsets from 0 to `total`."""
        inner = np.sort(rng.integers(0, self.total + 1, max(0, math.prod(self.shape) - 2)))
        return np.concatenate([[0], inner, [self.total]])[: math.prod(self.shape)].reshape(self.shape)

    def at_the_ends(self, rng: np.random.Generator) -> np.ndarray:
        """Returns offsets of which one row has everything, and all others nothing."""
        num = math.prod(self.shape)
        return np.where(np.arange(num) > rng.integers(0, max(1, num - 1)), self.total, 0).reshape(self.shape)


IndexRange = Positions | Offsets


def index_ranges(func: PrimFunc) -> dict[int, IndexRange]:
    """Returns, by the argument's number, which values those may have that are used as indices or as bounds.

    Integer arguments that are not in it are plain numbers, of which nothing is known.

    Args:
        func: a PrimFunc with blocks that nobody has scheduled.
    """
    reader = _Reader(func)
    reader.visit(func.body)
    result: dict[int, IndexRange] = {}
    for number, param in enumerate(func.params):
        uses = reader.uses.get(param)
        if uses is None:
            continue
        shape = tuple(int(extent) for extent in param.shape)
        if uses.total is not None and len(shape) == 1:
            result[number] = Offsets(shape, uses.total)
        elif uses.limits:
            highest = np.full(shape, np.iinfo(np.int64).max)
            for where, limit in uses.limits:
                highest[where] = np.minimum(highest[where], max(0, limit))
            known = highest < np.iinfo(np.int64).max
            fallback = highest[known].min() if known.any() else 0
            most = np.iinfo(str(param.dtype)).max
            result[number] = Positions(np.minimum(np.where(known, highest, fallback), most))
    return result


@dataclass
class _Uses:
    """What a kernel does with an argument: per slice of it the largest allowed value, and the total of its rows."""

    limits: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)
    comparisons: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)
    total: int | None = None


class _Reader:
    """A walk through a kernel that notes every use of an integer argument.

    Args:
        func: the kernel.
    """

    def __init__(self, func: PrimFunc) -> None:
        self._tvm = import_tvm()
        self._arguments = {p: p for p in func.params if _is_integer(str(p.dtype))}
        self._values: dict[Any, Any] = {}  # of block variables
        self._analyzer = self._tvm.sym.Analyzer()
        self._bounded_by: dict[Any, list[tuple[Any, bool]]] = {}  # loop variable: arguments, and whether by two of it
        self._uses: dict[Any, _Uses] = {}

    @property
    def uses(self) -> Mapping[Any, _Uses]:
        """By argument; what is compared with indices counts where it is no index itself."""
        for uses in self._uses.values():
            uses.limits = uses.limits or uses.comparisons
        return self._uses

    def visit(self, node: Any) -> None:
        """Notes the uses in a statement or an expression, outer ones before those inside."""
        tirx = self._tvm.tirx
        comparisons = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ)
        kinds = (tirx.For, self._tvm.s_tir.SBlockRealize, tirx.BufferStore, self._tvm.ir.TensorLoad, *comparisons)
        for each in parts_in(node, *kinds):
            if isinstance(each, tirx.For):
                self._bind_loop(each)
            elif isinstance(each, self._tvm.s_tir.SBlockRealize):
                for variable, value in zip(each.block.iter_vars, each.iter_values, strict=True):
                    self._values[variable.var] = self._resolved(value)
            elif isinstance(each, tirx.BufferStore):
                self._note_indices(each.buffer, each.indices)
                self._note_copy(each)
            elif isinstance(each, comparisons):
                self._note_comparison(self._resolved(each.a), self._resolved(each.b))
                self._note_comparison(self._resolved(each.b), self._resolved(each.a))
            else:
                self._note_indices(each.source, each.indices)

    def _bind_loop(self, loop: Any) -> None:
        bounds = [*self._loads(self._resolved(loop.min)), *self._loads(self._resolved(loop.extent))]
        if not bounds:
            if isinstance(loop.extent, self._tvm.tirx.IntImm):
                self._analyzer.bind(loop.loop_var, self._tvm.ir.Range.from_min_extent(loop.min, loop.extent))
            return
        sources = [self._arguments[load.source] for load in bounds]
        self._bounded_by[loop.loop_var] = [(s, sum(s.same_as(o) for o in sources) > 1) for s in sources]

    def _note_comparison(self, mine: Any, other: Any) -> None:
        loads = list(self._loads(mine))
        if len(loads) != 1 or list(self._loads(other)) or not _is_integer(str(other.ty.dtype)):
            return
        if isinstance(other, self._tvm.tirx.IntImm):
            return  # as in `index < 0`, which says nothing of how far it goes
        bound = self._analyzer.const_int_bound(other)
        if bound.max_value < 2**31:
            self._of(loads[0]).comparisons.append((self._where(loads[0]), int(bound.max_value) + 1))

    def _note_indices(self, buffer: Any, indices: Any) -> None:
        for extent, index in zip(buffer.shape, indices, strict=True):
            if not isinstance(extent, self._tvm.tirx.IntImm):
                continue
            resolved = self._resolved(index)
            for load in self._loads(resolved):
                step, offset = self._linear(resolved, load)
                self._of(load).limits.append((self._where(load), (int(extent) - 1 - offset) // step))
            inside = {v for load in parts_in(resolved, self._tvm.ir.TensorLoad) for v in variables(load)}
            for variable in set(variables(resolved)) - inside:
                for argument, of_rows in self._bounded_by.get(variable, ()):
                    self._note_bound(argument, int(extent), of_rows)

    def _note_bound(self, argument: Any, extent: int, of_rows: bool) -> None:
        uses = self._uses.setdefault(argument, _Uses())
        if of_rows:
            uses.total = extent if uses.total is None else min(uses.total, extent)
        else:
            uses.limits.append(((...,), extent))

    def _note_copy(self, store: Any) -> None:
        """Takes a buffer that an argument's values are copied into, perhaps put right if negative, for the argument."""
        loads = list(self._loads(self._resolved(store.value)))
        sources = {self._arguments[load.source] for load in loads}
        is_new = store.buffer not in self._arguments and _is_integer(str(store.buffer.dtype))
        if is_new and len(sources) == 1:
            self._arguments[store.buffer] = sources.pop()

    def _linear(self, index: Any, load: Any) -> tuple[int, int]:
        """Returns by which factor a load counts in an index, and the most that is added to it."""
        import tvm_ffi

        value = self._tvm.tirx.Var("value", str(load.ty.dtype))

        def replaced(other: Any) -> Any:
            return value if tvm_ffi.structural_equal(other, load) else other

        changed = mapped(index, self._tvm.ir.TensorLoad, replaced)
        found = self._tvm.sym.detect_linear_equation(changed, [value])
        if len(found) != 2 or not isinstance(found[0], self._tvm.tirx.IntImm) or int(found[0]) < 1:
            return 1, 0
        bound = self._analyzer.const_int_bound(found[1])
        return int(found[0]), max(0, int(bound.max_value)) if bound.max_value < 2**31 else 0

    def _of(self, load: Any) -> _Uses:
        return self._uses.setdefault(self._arguments[load.source], _Uses())

    def _where(self, load: Any) -> tuple[Any, ...]:
        """Returns which elements a load may read: all along an axis, but for indices that are known."""
        if not self._arguments[load.source].same_as(load.source) or not len(load.indices):
            return (...,)
        is_known = [isinstance(index, self._tvm.tirx.IntImm) for index in load.indices]
        return tuple(int(index) if known else slice(None) for index, known in zip(load.indices, is_known, strict=True))

    def _loads(self, expr: Any) -> Iterator[Any]:
        """Yields the loads of integer arguments, or of what stands for them, but for those that index other loads."""
        loads = parts_in(expr, self._tvm.ir.TensorLoad)
        inner = [each for load in loads for index in load.indices for each in parts_in(index, type(load))]
        outer = (load for load in loads if not any(load.same_as(each) for each in inner))
        yield from (load for load in outer if load.source in self._arguments)

    def _resolved(self, expr: Any) -> Any:
        """Returns an expression with what block variables are bound to in their place."""
        return substituted(expr, self._values)


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))

"""The cost model's constants, measured on this machine by short kernels that TVM generates.

Each figure is the fastest of many slices, and is taken twice with all the others in between. What does not repeat, or
is implausible, is left to the typical figures, see `core.costs.costs_of`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from reasoning_compiler.core.costs import LEVELS
from reasoning_compiler.machine import kernels
from reasoning_compiler.machine.slices import best_secs

REPEATABLE = 0.15
"""The relative difference of two measurements of the same figure beyond which something disturbed one of them."""

_DIFFERENCES = ("near_page_cycles", "far_page_cycles", "split_cycles")
_CYCLES_OF_NOISE = 0.5  # in figures that are differences, and may be zero
_BUDGET_SECS = 0.03  # for each figure and round
_SLICE_SECS = 0.5e-3  # below a scheduler's turn, well above waking TVM's threads
_FLOAT_BYTES, _LINE_BYTES, _PAGE_BYTES = 4, 64, 4096
_CHAINS = 8  # vectors that a walk has under way, which hides the latency of their additions
_VISIT_BYTES = 2 * _LINE_BYTES
_FAR_PAGES = 9  # from one visited page to the next: odd, so that their lines fall into all sets of a cache
_NEAR_PAGES = 128  # visited in turns: twice those whose translations a core's first-level TLB holds
_STEPS = 16384  # of a chase, which goes on where the one before ended
_START_BYTES = 1 << 20
"""Where resident data begin. The system likes to end large arrays at multiples of 64 MB, so that their first pages lie
on both sides of one. First-level caches of AMD predict the way from a hash of the address, which is then the same for
both sides: they drive each other out, and the cache looks three times slower than it is."""


class Host(NamedTuple):
    """What is known of the machine before its costs are measured.

    Args:
        target: TVM's.
        num_cores: threads to run, one per physical core.
        lanes: float32 lanes of a vector.
        clock_hz: of one core.
        cache_bytes: of the first and second level of a core, and of a core's share of the last one; 0 for none.
        memory_bytes: of an array that exceeds every cache.
    """

    target: dict[str, Any]
    num_cores: int
    lanes: int
    clock_hz: float
    cache_bytes: tuple[int, int, int]
    memory_bytes: int

    @property
    def resident_bytes(self) -> tuple[int, ...]:
        """Sizes of data that each cache level holds, and the one before does not.

        Half of a core's own cache, so that other data does not drive ours out. A quarter of the last level: pages of
        more than a few megabytes exceed the reach of the second-level TLB.
        """
        l1, l2, l3 = self.cache_bytes
        return (l1 // 2, max(l2 // 2, 2 * l1), *([max(l3 // 4, 2 * l2)] if l3 else []))

    def cycles(self, calls: Iterable[Callable[[], Any]]) -> float:
        """Returns the cycles of one core in the fastest of some calls, which are repeated for a while."""
        return best_secs(itertools.cycle(calls), budget_secs=_BUDGET_SECS) * self.clock_hz


def measure_costs(host: Host) -> tuple[dict[str, Any], bool]:
    """Returns the fields of `Costs` that repeated, as JSON with levels as lists, and whether all of them did.

    It takes about two seconds. `exposed` is not among them, see `core.costs`.
    """
    walks, chases, small = Walks(host), Chases(host), SmallKernels(host)
    first, second = ({**chases.latencies(), **walks.figures(), **small.figures()} for _ in range(2))
    found = agreed(first, second)
    return _with_levels(found), len(found) == len(first)


def agreed(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Returns the means of what two rounds of measurement agree on."""
    found = {}
    for name, value in first.items():
        noise = _CYCLES_OF_NOISE if name in _DIFFERENCES else 0.0
        if math.isclose(value, second[name], rel_tol=REPEATABLE, abs_tol=noise):
            found[name] = (value + second[name]) / 2
    return found


def _with_levels(figures: Mapping[str, float]) -> dict[str, Any]:
    """Returns figures of which those of a level, as "l1 read", are one list; a level needs all of its three."""
    costs: dict[str, Any] = {name: value for name, value in figures.items() if " " not in name}
    for level in LEVELS:
        of_level = [figures.get(f"{level} {part}") for part in ("latency", "read", "update")]
        if None not in of_level:
            costs[level] = of_level
    return costs


class Walks:
    """Streams through memory by all cores, each through data of its own; times are in cycles of a core."""

    def __init__(self, host: Host) -> None:
        import tvm

        self._host = host
        self._vector_bytes = host.lanes * _FLOAT_BYTES
        self._core_bytes = host.memory_bytes // host.num_cores
        shape = (host.num_cores, self._core_bytes // _FLOAT_BYTES)
        self._data = tvm.runtime.empty(shape, "float32")
        self._out = tvm.runtime.empty((host.num_cores, _CHAINS * host.lanes), "float32")
        make = partial(kernels.walk, host.target, shape=shape, lanes=host.lanes, room=_CHAINS)
        self._read = make(vectors=_CHAINS)
        self._visit = make(vectors=_VISIT_BYTES // self._vector_bytes)
        self._update = make(vectors=_CHAINS, updates=True)
        self._row_bytes = _CHAINS * self._vector_bytes
        self._call(self._update, (1, 0), (self._core_bytes // self._row_bytes, self._row_bytes))

    def figures(self) -> dict[str, float]:
        """Returns the rates of each level, in bytes a cycle, and what memory, pages and split lines cost."""
        rates = {}
        for level, size in zip(LEVELS, self._host.resident_bytes, strict=False):
            rates[f"{level} read"] = size / self._resident(self._read, size)
            rates[f"{level} update"] = 2 * size / self._resident(self._update, size)
        split_cycles = self.split_cycles(self._host.resident_bytes[0])
        return {**rates, **self.of_memory(), **self.of_pages(), "split_cycles": split_cycles}

    def of_memory(self) -> dict[str, float]:
        """Returns what streams from memory cost relative to reading in order by all cores."""
        size = self._core_bytes // 32
        in_order, one_stream = self._from_memory(self._read, size), self._from_memory(self._visit, size)
        return {
            "memory_update": min(1.0, 2 * in_order / self._from_memory(self._update, size)),  # one bus for both
            "lone_bytes_per_cycle": size / self._from_memory(self._read, size, threads=1),
            "side_by_side": min(1.0, self._from_memory(self._visit, size, streams=4) / one_stream),
        }

    def of_pages(self) -> dict[str, float]:
        """Returns the extra time of a visit to a page, near and far."""
        near_bytes = _NEAR_PAGES * _VISIT_BYTES
        apart = (_NEAR_PAGES, _PAGE_BYTES + _VISIT_BYTES)
        near = self._resident(self._visit, near_bytes, rows=apart) - self._resident(self._visit, near_bytes)
        stride = _FAR_PAGES * _PAGE_BYTES
        num_rows, rounds = self._core_bytes // stride, 4
        starts = range(0, stride - rounds * _VISIT_BYTES + 1, rounds * _VISIT_BYTES)
        far = self._timed(self._visit, starts, (rounds, _VISIT_BYTES), (num_rows, stride)) / (rounds * num_rows)
        size = self._core_bytes // 32
        in_order = self._from_memory(self._visit, size) * _VISIT_BYTES / size
        return {"near_page_cycles": max(0.0, near / _NEAR_PAGES), "far_page_cycles": max(0.0, far - in_order)}

    def split_cycles(self, size: int) -> float:
        """Returns the extra time of a load that crosses a line: of unaligned loads, a share of lane bytes to a line."""
        extra = self._resident(self._read, size, at=_FLOAT_BYTES) - self._resident(self._read, size)
        return max(0.0, extra) / (size / _LINE_BYTES)

    def _resident(
        self, kernel: kernels.Kernel, size: int, *, rows: tuple[int, int] | None = None, at: int = 0
    ) -> float:
        """Returns the time of one pass over data that stays in a cache, of many; each row is a number and a step."""
        row_bytes = _VISIT_BYTES if kernel is self._visit else self._row_bytes
        rows = rows or (size // row_bytes, row_bytes)
        rounds = max(1, int(_SLICE_SECS * self._host.clock_hz * self._vector_bytes / size))
        return self._timed(kernel, [_START_BYTES + at], (rounds, 0), rows) / rounds

    def _from_memory(self, kernel: kernels.Kernel, size: int, *, streams: int = 1, threads: int = 0) -> float:
        """Returns the time of a pass over data that no cache holds, in one stream or in several side by side."""
        row_bytes = _VISIT_BYTES if kernel is self._visit else self._row_bytes
        starts = range(0, self._core_bytes - size + 1, size)
        rounds = (size // streams // row_bytes, row_bytes)
        return self._timed(kernel, starts, rounds, (streams, size // streams), threads=threads)

    def _timed(
        self,
        kernel: kernels.Kernel,
        starts: Sequence[int],
        rounds: tuple[int, int],
        rows: tuple[int, int],
        *,
        threads: int = 0,
    ) -> float:
        run = partial(self._call, kernel, rounds, rows, threads=threads)
        return self._host.cycles([partial(run, at=start) for start in starts])

    def _call(
        self,
        kernel: kernels.Kernel,
        rounds: tuple[int, int],
        rows: tuple[int, int],
        *,
        at: int = 0,
        threads: int = 0,
    ) -> None:
        steps = (rounds[1] // _FLOAT_BYTES, rows[1] // _FLOAT_BYTES, at // _FLOAT_BYTES)
        kernel(self._data, self._out, threads or self._host.num_cores, rounds[0], rows[0], *steps)


class Chases:
    """Rings of cache lines in random order, each of which holds the place of the next; one ring for each level."""

    def __init__(self, host: Host) -> None:
        import tvm

        self._host = host
        names = (*(f"{level} latency" for level in LEVELS[: len(host.resident_bytes)]), "memory_latency_cycles")
        sizes = (*host.resident_bytes, host.memory_bytes // 2)
        items_per_line = _LINE_BYTES // 8
        successors = np.zeros((_START_BYTES + sum(sizes)) // 8, "int64")
        rng = np.random.default_rng(0)
        start = _START_BYTES // _LINE_BYTES
        self._ends = {}
        for name, size in zip(names, sizes, strict=True):
            order = (start + rng.permutation(size // _LINE_BYTES)) * items_per_line
            successors[order] = np.roll(order, -1)
            self._ends[name] = tvm.runtime.tensor(order[:1])
            start += size // _LINE_BYTES
        self._successors = tvm.runtime.tensor(successors)
        self._kernel = kernels.chase(host.target, size=len(successors))

    def latencies(self) -> dict[str, float]:
        """Returns the time of a load that depends on the one before, in cycles, for each level and memory."""
        return {
            name: self._host.cycles([partial(self._kernel, self._successors, end, _STEPS)]) / _STEPS
            for name, end in self._ends.items()
        }


class SmallKernels:
    """What strided elements, calls and parallel regions cost, of data in the first-level cache."""

    def __init__(self, host: Host) -> None:
        import tvm

        self._host = host
        stride, self._rounds, self._size = 17, 1024, 4096
        self._elements = kernels.GATHERS * host.lanes
        spread = tvm.runtime.tensor(np.ones(self._elements * stride, "float32"))
        points = tvm.runtime.tensor(np.linspace(-4, 4, self._size, dtype="float32"))
        sums, values = (tvm.runtime.empty((size,), "float32") for size in (self._elements, self._size))
        out = tvm.runtime.empty((64 * host.num_cores,), "float32")
        gather = kernels.gather(host.target, lanes=host.lanes, stride=stride)
        in_all, in_one = (kernels.region(host.target, num_threads=host.num_cores, parallel=p) for p in (True, False))
        self._gather = partial(gather, spread, sums, self._rounds)
        self._exponentials = partial(kernels.calls(host.target, size=self._size), points, values)
        self._in_all, self._in_one = partial(in_all, out), partial(in_one, out)

    def figures(self) -> dict[str, float]:
        cycles = self._host.cycles
        region_cycles = max(0.0, cycles([self._in_all]) - cycles([self._in_one]))
        return {
            "gather_cycles": cycles([self._gather]) / (self._rounds * self._elements),
            "call_cycles": cycles([self._exponentials]) / self._size,
            "region_secs": region_cycles / self._host.clock_hz,
        }

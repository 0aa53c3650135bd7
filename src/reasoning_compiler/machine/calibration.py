"""The cost model's constants, measured on this machine by short kernels that TVM generates.

Each is the fastest of many slices, so that other programs on the machine do not spoil it. What is still implausible is
left to the published figures, see `core.costs.costs_of`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from reasoning_compiler.core.costs import LEVELS
from reasoning_compiler.machine import kernels
from reasoning_compiler.machine.slices import best_secs

_BUDGET_SECS = 0.12  # for each figure
_SLICE_SECS = 0.5e-3  # below a scheduler's turn, well above waking TVM's threads
_FLOAT_BYTES, _LINE_BYTES, _PAGE_BYTES = 4, 64, 4096
_CHAINS = 8  # vectors that a walk has under way, which hides the latency of their additions
_FMAS = 4  # for each vector, about as long as it takes to come from the second-level cache
_VISIT_BYTES = 2 * _LINE_BYTES
_FAR_PAGES = 9  # from one visited page to the next: odd, so that their lines fall into all sets of a cache
_NEAR_PAGES = 128  # visited in turns: twice those whose translations a core's first-level TLB holds
_STEPS = 16384  # of a chase, which goes on where the one before ended


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

    def cycles(self, calls: Iterable[Callable[[], Any]]) -> float:
        """Returns the cycles of one core in the fastest of some calls, which are repeated for a while."""
        return best_secs(itertools.cycle(calls), budget_secs=_BUDGET_SECS) * self.clock_hz


def measure_costs(host: Host) -> dict[str, Any]:
    """Returns fields of `Costs` as JSON, levels as lists. Takes about five seconds."""
    walks = _Walks(host)
    l1, l2, l3 = host.cache_bytes
    # Half of a cache, so that other data does not drive ours out, and more than the cache before it.
    sizes = (l1 // 2, max(l2 // 2, 2 * l1), *([max(l3 // 2, 2 * l2)] if l3 else []))
    *latencies, memory_latency = _latencies(host, (*sizes, host.memory_bytes // 2))
    levels = {
        level: [latency, *walks.bytes_per_cycle(size)]
        for level, size, latency in zip(LEVELS, sizes, latencies, strict=False)
    }
    return {
        **levels,
        "memory_latency_cycles": memory_latency,
        **walks.of_memory(),
        **walks.of_pages(),
        "exposed": walks.exposed(*sizes[:2]),
        "split_cycles": walks.split_cycles(sizes[0]),
        "gather_cycles": _gather_cycles(host),
        "call_cycles": _call_cycles(host),
        "region_secs": _region_secs(host),
    }


class _Walks:
    """Streams through memory by all cores, each through data of its own; times are in cycles of a core."""

    def __init__(self, host: Host) -> None:
        import tvm

        self._host = host
        self._vector_bytes = host.lanes * _FLOAT_BYTES
        self._core_bytes = host.memory_bytes // host.num_cores
        shape = (host.num_cores, self._core_bytes // _FLOAT_BYTES)
        self._data = tvm.runtime.empty(shape, "float32")
        self._out = tvm.runtime.empty((host.num_cores, _CHAINS * host.lanes), "float32")
        make = partial(kernels.reading_walk, host.target, shape=shape, lanes=host.lanes, room=_CHAINS)
        self._read, self._work = make(vectors=_CHAINS), make(vectors=_CHAINS, fmas=_FMAS)
        self._visit = make(vectors=_VISIT_BYTES // self._vector_bytes)
        self._update = kernels.updating_walk(host.target, shape=shape, lanes=host.lanes, vectors=_CHAINS)
        self._row_bytes = _CHAINS * self._vector_bytes
        self._call(self._update, (1, 0), (self._core_bytes // self._row_bytes, self._row_bytes))

    def bytes_per_cycle(self, size: int) -> tuple[float, float]:
        """Returns the rates of reading, and of reading and writing back, data of a size that a cache holds."""
        return size / self._resident(self._read, size), 2 * size / self._resident(self._update, size)

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

    def exposed(self, l1_bytes: int, l2_bytes: int) -> float:
        """Returns the share that shows of the shorter one of arithmetic and reading from the second-level cache."""
        arithmetic = self._resident(self._work, l1_bytes) / l1_bytes
        transfer = self._resident(self._read, l2_bytes) / l2_bytes
        both = self._resident(self._work, l2_bytes) / l2_bytes
        return min(1.0, max(0.0, (both - max(arithmetic, transfer)) / min(arithmetic, transfer)))

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
        return self._timed(kernel, [at], (rounds, 0), rows) / rounds

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


def _latencies(host: Host, sizes: Sequence[int]) -> list[float]:
    """Returns the time of a load that depends on the one before, in data of each of these sizes."""
    import tvm

    ints_per_line = _LINE_BYTES // 4
    successors = np.zeros(max(sizes) // 4, "int32")
    kernel = kernels.chase(host.target, size=len(successors))
    rng = np.random.default_rng(0)
    found = []
    for size in sizes:
        order = rng.permutation(size // _LINE_BYTES).astype("int32") * ints_per_line
        successors[order] = np.roll(order, -1)
        end = tvm.runtime.tensor(order[:1])
        found.append(host.cycles([partial(kernel, tvm.runtime.tensor(successors), end, _STEPS)]) / _STEPS)
    return found


def _gather_cycles(host: Host) -> float:
    """Returns the time per element of vectors that are loaded with a stride from the first-level cache."""
    import tvm

    stride, rounds = 17, 4096
    kernel = kernels.gather(host.target, lanes=host.lanes, stride=stride)
    elements = kernels.GATHERS * host.lanes
    data = tvm.runtime.tensor(np.ones(elements * stride, "float32"))
    out = tvm.runtime.empty((elements,), "float32")
    return host.cycles([partial(kernel, data, out, rounds)]) / (rounds * elements)


def _call_cycles(host: Host) -> float:
    import tvm

    size = 4096
    data = tvm.runtime.tensor(np.linspace(-4, 4, size, dtype="float32"))
    kernel = kernels.calls(host.target, size=size)
    return host.cycles([partial(kernel, data, tvm.runtime.empty((size,), "float32"))]) / size


def _region_secs(host: Host) -> float:
    import tvm

    out = tvm.runtime.empty((64 * host.num_cores,), "float32")
    in_all, in_one = (
        host.cycles([partial(kernels.region(host.target, num_threads=host.num_cores, parallel=parallel), out)])
        for parallel in (True, False)
    )
    return max(0.0, in_all - in_one) / host.clock_hz

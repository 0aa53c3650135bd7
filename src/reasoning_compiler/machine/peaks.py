"""This machine's two ceilings, measured by kernels that TVM generates: float32 FLOP/s and read bandwidth.

Other programs may be running. Each kernel therefore runs in slices of about a millisecond, short enough that
some of them find all cores free, and the fastest slice counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reasoning_compiler.machine.calibration import REPEATABLE, Host, measure_costs
from reasoning_compiler.machine.other_load import OtherLoad
from reasoning_compiler.machine.slices import best_secs, compile_kernel, secs_of
from reasoning_compiler.machine.targets import host_target, vector_unit
from reasoning_compiler.machine.toolchain import use_threads

_MAX_OTHER_LOAD = 0.1  # of all CPUs' time
_BUDGET_SECS = 0.15  # for each figure
_SLICE_SECS = 0.7e-3  # well below a scheduler's turn, well above waking TVM's threads
_MIN_READ_BYTES = 256 << 20
_MAX_READ_BYTES = 1 << 30
_FLOAT_BYTES = 4


def measure_peaks(
    num_cores: int, os_features: list[str], caches_bytes: Sequence[int], max_read_bytes: int
) -> dict[str, Any]:
    """Returns what only compiled code can tell of this machine, as JSON: its target, features, peaks and costs.

    To be called in a process of its own: it starts TVM's threads and runs for about four seconds. "disturbed" is true
    where other programs were in the way. Costs are then left out, all or those that did not repeat; where others held
    some core all the time, the peak is one core's, multiplied.

    Args:
        num_cores: threads to run, one per physical core.
        os_features: instruction-set extensions that the operating system reports, by LLVM's names.
        caches_bytes: first- and second-level cache of a core, and the last one of all, which arrays for memory exceed.
        max_read_bytes: the largest array that memory has room for.
    """
    import tvm  # noqa: F401, so that the threads are set in the running runtime

    others = OtherLoad()
    use_threads(num_cores)
    target, features = host_target(num_cores, os_features)
    unit = vector_unit(features)
    lanes = unit.vector_bytes // _FLOAT_BYTES
    # Multiplier, addend and a spare register stay free; 16 chains hide any FMA latency and width of today.
    num_chains = min(16, unit.num_registers - 4)
    chain_flops = _fma_flops(target, num_threads=1, num_chains=1, lanes=lanes)
    core_flops = _fma_flops(target, num_threads=1, num_chains=num_chains, lanes=lanes)
    peak_flops = _fma_flops(
        target,
        num_threads=num_cores,
        num_chains=num_chains,
        lanes=lanes,
        expected_flops=num_cores * core_flops,
    )
    # All cores together clock lower than one alone, but not by half: others were in the way all the time.
    lacks_cores = peak_flops < 0.55 * num_cores * core_flops
    read_bytes = min(max(_MIN_READ_BYTES, 8 * caches_bytes[2]), _MAX_READ_BYTES, max_read_bytes)
    read = _reader(target, num_cores, lanes, read_bytes)
    fmas = fma_per_cycle(core_flops / chain_flops)
    *core_caches, l3_bytes = caches_bytes
    clock_hz = core_flops / (fmas * lanes * 2)
    bandwidth = read()
    host = Host(target, num_cores, lanes, clock_hz, (*core_caches, l3_bytes // num_cores), read_bytes)
    costs, repeats = measure_costs(host)
    later_bandwidth = read()
    repeats = repeats and math.isclose(bandwidth, later_bandwidth, rel_tol=REPEATABLE)
    is_busy = lacks_cores or others.share() > _MAX_OTHER_LOAD
    return {
        "target": target,
        "features": features,
        "fma_per_cycle": fmas,
        "costs": {} if is_busy else costs | {"fma_latency_cycles": core_flops / chain_flops / fmas},
        "peak_flops": num_cores * core_flops if lacks_cores else peak_flops,
        "bandwidth_bytes_per_sec": max(bandwidth, later_bandwidth),
        "disturbed": is_busy or not repeats,
    }


def fma_per_cycle(speedup: float) -> int:
    """Returns the multiply-adds that a core starts per cycle, from how much a chain gains by many beside it.

    The gain is latency times throughput. The latency is 4 cycles on most cores and 5 on some; the throughput
    is a power of two on all.
    """
    return max(1, 2 ** round(math.log2(speedup / 4.5)))


def _fma_flops(
    target: dict[str, Any], *, num_threads: int, num_chains: int, lanes: int, expected_flops: float = 0.0
) -> float:
    import tvm
    from tvm.script import tirx as T

    width = num_chains * lanes

    @T.prim_func
    def fma_loop(state: T.Buffer((num_threads, width), "float32"), num_rounds: T.int32):
        for thread in T.parallel(num_threads):
            sums = T.alloc_buffer((width,), "float32", scope="local")
            for c in T.unroll(num_chains):
                for lane in T.vectorized(lanes):
                    sums[c * lanes + lane] = state[thread, c * lanes + lane]
            for _ in T.serial(num_rounds):
                for c in T.unroll(num_chains):
                    for lane in T.vectorized(lanes):
                        sums[c * lanes + lane] = sums[c * lanes + lane] * T.float32(0.9999) + T.float32(0.001)
            for c in T.unroll(num_chains):
                for lane in T.vectorized(lanes):
                    state[thread, c * lanes + lane] = sums[c * lanes + lane]

    kernel = compile_kernel(fma_loop, target)
    state = tvm.runtime.empty((num_threads, width), "float32")
    num_rounds = 1 << 12
    while min(secs_of(partial(kernel, state, num_rounds)) for _ in range(5)) < _SLICE_SECS:
        num_rounds *= 2
    flop = 2.0 * num_threads * width * num_rounds
    slices = itertools.repeat(partial(kernel, state, num_rounds))
    expected_secs = flop / expected_flops if expected_flops else math.inf
    return flop / best_secs(slices, expected_secs=expected_secs, budget_secs=_BUDGET_SECS)


def _reader(target: dict[str, Any], num_threads: int, lanes: int, num_bytes: int) -> Callable[[], float]:
    """Returns a function that measures how fast memory is read, in bytes a second."""
    import tvm
    from tvm.script import tirx as T

    num_chains = 8
    width = num_chains * lanes
    num_slices = 4
    num_rows = max(1, num_bytes // (num_slices * num_threads * width * _FLOAT_BYTES))

    @T.prim_func
    def fill(data: T.Buffer((num_slices, num_threads, num_rows, width), "float32")):
        for thread in T.parallel(num_threads):
            for part, row in T.grid(num_slices, num_rows):
                for lane in T.vectorized(width):
                    data[part, thread, row, lane] = T.float32(1)

    @T.prim_func
    def read(
        data: T.Buffer((num_slices, num_threads, num_rows, width), "float32"),
        out: T.Buffer((num_threads, width), "float32"),
        part: T.int32,
    ):
        for thread in T.parallel(num_threads):
            sums = T.alloc_buffer((width,), "float32", scope="local")
            for c in T.unroll(num_chains):
                for lane in T.vectorized(lanes):
                    sums[c * lanes + lane] = T.float32(0)
            for row in T.serial(num_rows):
                for c in T.unroll(num_chains):
                    for lane in T.vectorized(lanes):
                        sums[c * lanes + lane] = sums[c * lanes + lane] + data[part, thread, row, c * lanes + lane]
            for c in T.unroll(num_chains):
                for lane in T.vectorized(lanes):
                    out[thread, c * lanes + lane] = sums[c * lanes + lane]

    data = tvm.runtime.empty((num_slices, num_threads, num_rows, width), "float32")
    out = tvm.runtime.empty((num_threads, width), "float32")
    compile_kernel(fill, target)(data)  # each thread touches its own part first, so that it lies in its own memory
    kernel = compile_kernel(read, target)
    slices = itertools.cycle(partial(kernel, data, out, part) for part in range(num_slices))
    slice_bytes = num_threads * num_rows * width * _FLOAT_BYTES
    return lambda: slice_bytes / best_secs(slices, budget_secs=_BUDGET_SECS)

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemm_nest import UNROLLS, GemmSpace, gemm, group, machine, tiled
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import Decision, TileDomain
from reasoning_compiler.cost.analysis import analyze, analyze_block, clock_hz
from reasoning_compiler.cost.tile_choice import TileChooser
from reasoning_compiler.cost.tiling import TileGroup, tile_groups
from reasoning_compiler.ir.nest import Access, Loop, Nest
from reasoning_compiler.machine.presets import PRESETS
from reasoning_compiler.proposer.random import draw

M = machine()  # two cores, AVX-512, 32 KB and 1 MB of cache a core
CUBE = group(64, 64, 64)


def named(nest: Nest, buffer: str) -> Access:
    return next(access for access in nest.accesses if access.buffer == buffer)


def seconds(nest: Nest, on: Machine = M) -> float:
    return analyze_block(nest, on).secs


# -- nests --------------------------------------------------------------------------------------------------------


def test_footprints_of_a_product() -> None:
    nest = gemm(4, 8, 16)
    found = {b: [nest.footprint_elements(named(nest, b), depth) for depth in range(4)] for b in "CAB"}
    assert found == {"C": [32, 8, 1, 1], "A": [64, 16, 16, 1], "B": [128, 128, 16, 1]}
    assert nest.iterations == 4 * 8 * 16 and nest.reduces and nest.output == named(nest, "C")


def test_footprints_of_windows_shared_heads_and_regions() -> None:
    loops = (Loop("x", 8), Loop("r", 3, reduces=True), Loop("head", 32))
    window = Access("In", (10,), 4, ((1.0, 1.0, 0.0),), (1,))
    heads = Access("KV", (8, 128), 4, ((0.0, 0.0, 0.25), (0.0, 0.0, 0.0)), (1, 128))
    nest = Nest("B", loops, (window, heads), 2.0)
    assert [nest.footprint_elements(window, depth) for depth in range(4)] == [10, 3, 1, 1]
    short = replace(window, shape=(9,))
    assert replace(nest, accesses=(short, heads)).footprint_elements(short, 0) == 9, "no more than there is"
    assert nest.footprint_elements(heads, 0) == 8 * 128
    assert nest.footprint_elements(heads, 3) == 128


def test_strides_and_movement() -> None:
    nest = gemm(4, 8, 16)
    assert [named(nest, "A").stride(loop) for loop in range(3)] == [16, 0, 1]
    assert [named(nest, "B").stride(loop) for loop in range(3)] == [0, 1, 8]
    assert [named(gemm(4, 8, 16, b_is_transposed=True), "B").stride(loop) for loop in range(3)] == [0, 16, 1]
    assert [named(nest, "C").moved_by(loop) for loop in range(3)] == [True, True, False]
    down = Access("D", (8,), 4, ((-1.0, 0.0, 0.0),), (1,))
    assert down.stride(0) == -1


def test_tiling_splits_and_reorders_as_the_structure_says() -> None:
    nest = gemm(8, 32, 4).tiled("SSRSRS", {"i": (1, 2, 1, 4), "j": (2, 1, 2, 8), "k": (2, 2)}, unroll_limit=16)
    assert [(loop.name, loop.extent) for loop in nest.loops] == [
        ("i_0", 1),
        ("j_0", 2),
        ("i_1", 2),
        ("j_1", 1),
        ("k_0", 2),
        ("i_2", 1),
        ("j_2", 2),
        ("k_1", 2),
        ("i_3", 4),
        ("j_3", 8),
    ]
    assert [loop.reduces for loop in nest.loops] == [False] * 4 + [True] + [False] * 2 + [True] + [False] * 2
    assert (nest.unroll_limit, nest.tiling, nest.iterations) == (16, "SSRSRS", 8 * 32 * 4)
    c, a = named(nest, "C"), named(nest, "A")
    assert c.steps == ((8, 0, 4, 0, 0, 4, 0, 0, 1, 0), (0, 16, 0, 16, 0, 0, 8, 0, 0, 1))
    assert a.steps[1] == (0, 0, 0, 0, 2, 0, 0, 1, 0, 0)
    assert nest.footprint_elements(c, 0) == 8 * 32
    assert nest.footprint_elements(c, 8) == 4 * 8


def test_loops_without_factors_stay_outside() -> None:
    nest = gemm(8, 32, 4).tiled("SRS", {"j": (4, 8), "k": (4,)})
    assert [(loop.name, loop.extent) for loop in nest.loops] == [("i_0", 8), ("j_0", 4), ("k_0", 4), ("j_1", 8)]


# -- tile groups -----------------------------------------------------------------------------------------------------


def test_outer_loops_run_in_parallel_until_there_are_enough_jobs() -> None:
    # As MetaSchedule does it: the loop that exceeds the limit is still taken.
    nest = tiled(group(64, 64, 64, max_jobs=8), (2, 8, 1, 4), (4, 2, 2, 4), (4, 16))
    assert [loop.name for loop in nest.loops if loop.kind == "parallel"] == ["i_0", "j_0", "i_1"]
    nest = tiled(group(64, 64, 64, max_jobs=4), (2, 8, 1, 4), (4, 2, 2, 4), (4, 16))
    assert [loop.name for loop in nest.loops if loop.kind == "parallel"] == ["i_0", "j_0"]
    nest = tiled(group(64, 64, 64, max_jobs=1000), (2, 2, 4, 4), (4, 2, 2, 4), (4, 16))
    assert [loop.name for loop in nest.loops if loop.kind == "parallel"] == ["i_0", "j_0", "i_1", "j_1"]


def test_the_innermost_loop_is_vectorized_if_it_can_be() -> None:
    def kind(j: tuple[int, ...], g: TileGroup = CUBE) -> str:
        return tiled(g, (1, 1, 16, 4), j, (4, 16)).loops[-1].kind

    assert kind((1, 1, 4, 16)) == "vectorized"
    assert kind((1, 1, 64, 1)) == "serial"
    assert kind((1, 1, 1, 64), replace(CUBE, max_vector=32)) == "serial"


def test_groups_are_found_in_a_program_whose_tiles_are_whole() -> None:
    whole = gemm(8, 32, 4).tiled("SSRSRS", {"i": (8, 1, 1, 1), "j": (32, 1, 1, 1), "k": (4, 1)})
    table = [
        Decision(f"C.{axis} tile", "tile", TileDomain(extent, num), (extent, *[1] * (num - 1)), block="C", loop=axis)
        for axis, extent, num in (("i", 8, 4), ("j", 32, 4), ("k", 4, 2))
    ]
    untiled = replace(gemm(8, 8, 8), block="D")
    (found,) = tile_groups([whole, untiled], table, max_jobs=32, max_vector=64, own={"C", "D"})
    assert (found.block, found.structure, found.nest) == ("C", "SSRSRS", gemm(8, 32, 4))
    assert [name for _, name, _ in found.decisions] == ["C.i tile", "C.j tile", "C.k tile"]
    again = found.tiled({"i": (8, 1, 1, 1), "j": (32, 1, 1, 1), "k": (4, 1)}, unroll_limit=0)
    assert [(loop.name, loop.extent) for loop in again.loops] == [(loop.name, loop.extent) for loop in whole.loops]
    assert tile_groups([whole], table[:2], max_jobs=32, max_vector=64, own={"C"}) == (), "not to be tiled as a whole"


# -- registers and vectors ---------------------------------------------------------------------------------------------


def test_the_register_tile_of_a_product() -> None:
    found = analyze_block(tiled(CUBE, (1, 1, 8, 8), (1, 1, 2, 32), (4, 16)), M)
    assert found.tile == (("i_3", 8), ("j_3", 32))
    assert (found.vector_lanes, found.accumulators, found.in_registers, found.strided) == (16, 8 * 2, True, ())
    assert found.flops == 2 * 64**3


def test_without_an_inner_reduction_the_loops_inside_the_outer_one_are_the_tile() -> None:
    found = analyze_block(tiled(CUBE, (1, 1, 8, 8), (1, 1, 2, 32), (64, 1)), M)
    assert found.tile == (("i_2", 8), ("j_2", 2), ("i_3", 8), ("j_3", 32))
    assert found.accumulators == 8 * 2 * 8 * 2
    assert not found.in_registers


@pytest.mark.parametrize(
    ("rows", "width", "unroll", "stays"),
    [
        (8, 32, 0, True),  # LLVM unrolls eight iterations unasked
        (16, 16, 0, False),
        (16, 16, 16, True),
        (16, 32, 64, False),  # 32 sums and nothing left for the operands
        (32, 16, 64, False),
        (1, 64, 0, True),
    ],
)
def test_sums_stay_in_registers_if_they_fit_and_are_unrolled(rows: int, width: int, unroll: int, stays: bool) -> None:
    nest = tiled(CUBE, (1, 1, 64 // rows, rows), (1, 1, 64 // width, width), (4, 16), unroll)
    found = analyze_block(nest, M)
    assert found.accumulators == rows * width // 16
    assert found.in_registers is stays


def test_compute_time_by_hand() -> None:
    # 64³ / (8·32) = 1024 steps of k. Each: 16 vectors of FMA at 2 a cycle = 8 cycles, more than the 10 loads at 2 a
    # cycle, half a cycle for the loop, and a sixteenth of moving 16 sums in and out (16 cycles at a load and a store in
    # each) after the 4 cycles of the last FMA.
    found = analyze_block(tiled(CUBE, (1, 1, 8, 8), (1, 1, 2, 32), (4, 16)), M)
    assert clock_hz(M) == 300e9 / (2 * 2 * 2 * 16)
    assert found.compute_secs == pytest.approx(1024 * (8 + 0.5 + (16 + 4) / 16) / clock_hz(M))


def test_few_sums_wait_for_each_other() -> None:
    # One vector of sums: a step takes the 4 cycles of an FMA; 64³ / 16 steps.
    found = analyze_block(tiled(CUBE, (1, 1, 64, 1), (1, 1, 4, 16), (4, 16)), M)
    assert found.compute_secs == pytest.approx(64**3 / 16 * (4 + (1 + 4) / 16) / clock_hz(M))


def test_sums_of_short_runs_side_by_side_do_not_wait_for_each_other() -> None:
    # Four tiles of one vector in each of eight pieces of k: a step takes a cycle, for two loads as for an FMA's four
    # shared by four, the loop half of one, and the sums move once for 8 steps.
    found = analyze_block(tiled(CUBE, (1, 1, 64, 1), (1, 1, 4, 16), (8, 8), 0), M)
    assert found.compute_secs == pytest.approx(64**3 / 16 * (1 + 0.5 + (1 + 4) / 8) / clock_hz(M))


@pytest.mark.parametrize(
    ("rows", "runs", "steps", "faster"), [(1, 4, 8, True), (1, 2, 8, False), (1, 4, 16, False), (64, 4, 8, False)]
)
def test_what_is_read_once_comes_faster_in_short_runs_side_by_side(
    rows: int, runs: int, steps: int, faster: bool
) -> None:
    nest = tiled(group(rows, 8192, 4096), (1, 1, rows, 1), (16, 16 // runs, runs, 32), (4096 // steps, steps))
    found = analyze_block(nest.reading_in_order({"B"}), M)
    assert (found.secs < found.bytes_moved / M.bandwidth_bytes_per_sec) is faster


def test_scalar_without_a_vector_loop() -> None:
    found = analyze_block(gemm(64, 64, 64), M)
    assert (found.vector_lanes, found.accumulators, found.tile) == (1, 1, ())


def test_a_contiguous_inner_loop_is_vectorized_unasked() -> None:
    def copy(**changes: Any) -> Nest:
        i, j = (1.0, 0.0), (0.0, 1.0)
        out, into = Access("D", (64, 64), 4, (i, j), (1, 1), writes=True), Access("C", (64, 64), 4, (i, j), (1, 1))
        return replace(Nest("D", (Loop("i", 64), Loop("j", 64)), (out, into), flops=1.0), **changes)

    assert analyze_block(copy(), M).vector_lanes == 16
    assert analyze_block(copy(scalar_calls=1), M).vector_lanes == 1, "calls of libm are scalar"
    assert seconds(copy(scalar_calls=1)) > 5 * seconds(copy())
    parallel = copy(loops=(Loop("i", 64), Loop("j", 64, "parallel")))
    assert analyze_block(parallel, M).vector_lanes == 1
    transposed = replace(copy(), loops=(Loop("j", 64), Loop("i", 64)))
    transposed = replace(
        transposed, accesses=tuple(replace(a, steps=(a.steps[1], a.steps[0])) for a in transposed.accesses)
    )
    assert analyze_block(transposed, M).vector_lanes == 1, "a strided loop is not"


def test_vectors_across_rows_are_strided() -> None:
    plain = CUBE
    across = replace(CUBE, nest=gemm(64, 64, 64, b_is_transposed=True))
    found = [analyze_block(tiled(g, (1, 1, 8, 8), (1, 1, 2, 32), (4, 16)), M) for g in (plain, across)]
    assert [f.strided for f in found] == [(), ("B",)]
    assert found[1].secs > 2 * found[0].secs


def test_lanes_follow_the_element_and_the_machine() -> None:
    half = replace(CUBE, nest=gemm(64, 64, 64, item_bytes=2))
    assert analyze_block(tiled(half, (1, 1, 8, 8), (1, 1, 2, 32), (4, 16)), M).vector_lanes == 32
    found = analyze_block(tiled(CUBE, (1, 1, 8, 8), (1, 1, 2, 32), (4, 16)), PRESETS["core-i9"])
    assert (found.vector_lanes, found.accumulators, found.in_registers) == (8, 32, False)


# -- cores and caches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jobs", "efficiency"), [(1, 1 / 4), (2, 1 / 2), (4, 1.0), (6, 6 / 8), (8, 1.0), (9, 9 / 12)])
def test_cores_without_a_job_wait(jobs: int, efficiency: float) -> None:
    loops = (Loop("i", jobs, "parallel"), Loop("j", 64), Loop("k", 64, reduces=True))
    found = analyze_block(replace(gemm(jobs, 64, 64), loops=loops), machine(num_cores=4))
    assert found.parallel_extent == jobs
    assert found.parallel_efficiency == pytest.approx(efficiency)


def test_traffic_of_a_product_by_hand() -> None:
    # 64³: one row of C and A and all of B are 16.5 KB: L1 holds loop j, and B for the next i; all is 48 KB.
    l1, l2, l3 = analyze_block(gemm(64, 64, 64), M).levels
    row, whole = 64 * 4, 64 * 64 * 4
    assert (l1.level, l1.from_loop, l1.working_set_bytes) == ("L1", "j", 2 * row + whole)
    assert (l2.level, l2.from_loop, l2.working_set_bytes) == ("L2", "i", 3 * whole)
    assert l1.bytes_in == l2.bytes_in == l3.bytes_in == 2 * whole + whole + whole, "C is read and written"


def test_what_does_not_fit_comes_in_again() -> None:
    # 256³: all of B, 256 KB, comes into L1 again for each of the 256 rows; L2 holds everything.
    l1, l2, _ = analyze_block(gemm(256, 256, 256), M).levels
    matrix = 256 * 256 * 4
    assert l1.from_loop == "k"
    assert l1.working_set_bytes == 64 + 256 * 4 + 256 * 64
    # A column's lines are 1 KB apart, and so in four sets: each is gone before the next column needs it again.
    assert l1.bytes_in == 256 * (matrix * 16) + matrix + 2 * matrix
    assert l2.bytes_in == 4 * matrix


def test_the_lines_of_a_column_stay_for_the_next() -> None:
    # 250³: rows of 1000 bytes spread the 250 lines of a column over all sets, where the next columns find them.
    l1, _, _ = analyze_block(gemm(250, 250, 250), M).levels
    assert l1.from_loop == "k"
    assert l1.bytes_in == pytest.approx(250 * 250000 + 250000 + 2 * 250000, rel=0.02), "but for ends of lines"


def test_a_column_whose_lines_do_not_stay_costs_a_line_for_each_element() -> None:
    # 4096 lines of B, 256 KB, are gone from L1 (32 KB) before the next column needs them, but stay in L2 (1 MB).
    l1, l2, _ = analyze_block(gemm(4, 64, 4096), M).levels
    assert l1.from_loop == "" and l2.from_loop == "k"
    a, b, c = 4 * 4096 * 4, 4096 * 64 * 4, 4 * 64 * 4
    assert l1.bytes_in == 4 * 64 * (4096 * 64) + 64 * a + 16 * 2 * c
    assert l2.bytes_in == 4 * b + a + 2 * c


def test_a_window_that_slides_comes_in_once() -> None:
    # Three taps over 1026 elements, 64 channels: the next position needs one new element, and two are still there.
    loops = (Loop("x", 1024), Loop("c", 64), Loop("r", 3, reduces=True))
    out = Access("Out", (1024, 64), 4, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), (1, 1), writes=True)
    window = Access("In", (1026, 64), 4, ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0)), (1, 1))
    found = analyze_block(Nest("B", loops, (out, window), 2.0), M)
    assert found.levels[0].from_loop == "c"
    assert found.levels[0].bytes_in == 1026 * 64 * 4 + 2 * 1024 * 64 * 4
    assert found.bytes_moved == found.levels[-1].bytes_in
    assert found.intensity == pytest.approx(2 * 1024 * 64 * 3 / (1026 * 256 + 2 * 1024 * 256))


def test_sums_in_registers_take_no_room_in_a_cache() -> None:
    nest = tiled(CUBE, (1, 2, 4, 8), (1, 2, 1, 32), (4, 16))
    sums, *operands = nest.accesses
    local = replace(nest, accesses=(replace(sums, in_registers=True, external=False), *operands))
    moved = [
        [(level.working_set_bytes, level.bytes_in) for level in analyze_block(each, M).levels]
        for each in (local, replace(nest, accesses=tuple(operands)), nest)
    ]
    assert moved[0] == moved[1] != moved[2]


def test_what_is_made_and_used_inside_a_loop_costs_no_traffic() -> None:
    nest = gemm(64, 64, 64)
    inside = replace(nest, accesses=(replace(nest.accesses[0], shared=2, external=False), *nest.accesses[1:]))
    whole = 64 * 64 * 4
    assert analyze_block(inside, M).levels[1].bytes_in == 2 * whole


def test_a_cache_less_means_no_time_for_it() -> None:
    nest = gemm(512, 512, 512)
    found = analyze_block(nest, machine(l3_bytes=0))
    assert [level.level for level in found.levels] == ["L1", "L2"]
    with_l3 = analyze_block(nest, machine(l3_bytes=2 * M.l2_bytes))  # a share as big as L2: the same traffic
    assert with_l3.levels[2].bytes_in == found.levels[1].bytes_in
    assert found.secs == with_l3.secs, "a stream from memory takes as long, whatever caches it passes"


def test_a_cores_share_of_the_last_cache_is_no_smaller_than_its_own() -> None:
    # Graviton2 has 64 cores: half a megabyte of L3 each, and a megabyte of L2, which holds these 600 KB of B.
    _, l2, l3 = analyze_block(gemm(8, 512, 300), PRESETS["graviton2"]).levels
    assert l3.bytes_in == l2.bytes_in == 4 * (8 * 300 + 300 * 512 + 2 * 8 * 512)


def test_one_core_has_all_the_memory_of_a_machine_with_one() -> None:
    nest = gemm(1, 64, 1 << 22)
    costs = replace(M.costs, lone_bytes_per_cycle=4.0, exposed=0.0, far_page_cycles=0.0)
    alone = analyze_block(nest, machine(costs=costs, num_cores=1, peak_flops=150e9, bandwidth_bytes_per_sec=1e9))
    of_two = analyze_block(nest, machine(costs=costs, bandwidth_bytes_per_sec=1.6 * 4.0 * clock_hz(M)))
    assert alone.bytes_moved / alone.secs == pytest.approx(1e9, rel=0.01)
    assert of_two.secs == pytest.approx(of_two.bytes_moved / (4.0 * clock_hz(M)), rel=0.2)


@st.composite
def tilings(draw_: st.DrawFn, g: TileGroup) -> Nest:
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    factors = {axis: draw(domain, rng) for axis, _, domain in g.decisions}
    return g.tiled(factors, unroll_limit=draw_(st.sampled_from(UNROLLS)))


ANY = st.sampled_from([M, *PRESETS.values(), machine(l3_bytes=0), machine(num_cores=1, peak_flops=150e9)])


@given(tilings(group(96, 128, 160)), ANY)
def test_the_analysis_of_any_tiling_makes_sense(nest: Nest, on: Machine) -> None:
    found = analyze_block(nest, on)
    assert 0 < found.compute_secs <= found.secs < math.inf
    assert found.secs >= found.flops / on.peak_flops, "nothing is faster than the peak"
    assert 0 < found.parallel_efficiency <= 1
    assert 1 <= found.vector_lanes <= on.vector_bytes // 4
    assert found.in_registers is False or found.accumulators <= on.num_vector_registers - 2
    moved = [level.bytes_in for level in found.levels]
    assert moved == sorted(moved, reverse=True), "a bigger cache needs no more"
    assert moved[-1] >= 4 * (96 * 160 + 160 * 128 + 2 * 96 * 128), "each byte comes in once at least"
    assert found.bound in ("compute", "L2", "L3", "memory", "pages")


@given(tilings(group(96, 128, 160)))
def test_a_better_machine_is_no_slower(nest: Nest) -> None:
    def no_slower(**changes: Any) -> bool:
        return seconds(nest, machine(**changes)) <= seconds(nest) * (1 + 1e-9)

    assert no_slower(peak_flops=2 * M.peak_flops)
    assert no_slower(bandwidth_bytes_per_sec=2 * M.bandwidth_bytes_per_sec)
    assert no_slower(l1_bytes=4 * M.l1_bytes)
    assert no_slower(l2_bytes=4 * M.l2_bytes)
    assert no_slower(num_cores=4 * M.num_cores, peak_flops=4 * M.peak_flops, l3_bytes=4 * M.l3_bytes)


def test_a_good_schedule_is_estimated_faster() -> None:
    big = group(1024, 1024, 1024)
    scalar = gemm(1024, 1024, 1024)
    through_memory = tiled(big, (16, 1, 8, 8), (1, 1, 32, 32), (1024, 1))
    one_vector = tiled(big, (16, 1, 64, 1), (1, 1, 64, 16), (16, 64))
    register_tile = tiled(big, (16, 1, 8, 8), (1, 1, 32, 32), (16, 64))
    one_core = tiled(replace(big, max_jobs=0), (16, 1, 8, 8), (1, 1, 32, 32), (16, 64))
    assert seconds(register_tile) < seconds(one_vector) < seconds(scalar)
    assert seconds(register_tile) < seconds(through_memory) < seconds(scalar)
    assert 1.9 < seconds(one_core) / seconds(register_tile) < 2.1
    assert big.nest.iterations * 2 / seconds(register_tile.reading_in_order({"B"})) > 0.6 * M.peak_flops
    assert seconds(scalar) > 20 * seconds(register_tile)


def test_blocking_pays_where_the_cache_is_too_small() -> None:
    slow = machine(bandwidth_bytes_per_sec=4e9, l3_bytes=4 << 20)
    big = group(2048, 2048, 2048)
    unblocked = tiled(big, (2, 1, 128, 8), (1, 1, 64, 32), (32, 64))  # 16 MB of B for every eight rows
    blocked = tiled(big, (2, 8, 16, 8), (4, 4, 4, 32), (32, 64))
    a, b = analyze_block(unblocked, slow), analyze_block(blocked, slow)
    assert a.compute_secs == pytest.approx(b.compute_secs, rel=0.1)
    assert b.levels[-1].bytes_in < 0.6 * a.levels[-1].bytes_in
    assert b.secs < 0.7 * a.secs
    assert a.bound == "memory"


def test_rows_that_share_a_cache_set_conflict() -> None:
    def product(k: int) -> Nest:
        return tiled(group(64, 64, k), (1, 1, 4, 16), (1, 1, 4, 16), (k // 32, 32))

    per_step = [analyze_block(product(k), M).levels[0].entered[1] / k for k in (992, 1024)]
    assert per_step[1] > 2 * per_step[0], "rows of A 4096 bytes apart fall into one set of eight lines"
    assert seconds(product(1024)) > 1.5 * seconds(product(992))


# -- whole programs --------------------------------------------------------------------------------------------------


def test_the_roofline_of_a_kernel() -> None:
    nests = [gemm(64, 64, 64), replace(gemm(64, 64, 64), block="D")]
    whole = analyze(nests, M, kernel_flops=3e6, kernel_bytes=26e6)
    assert whole.roofline_secs == pytest.approx(26e6 / 26e9)
    assert whole.secs == pytest.approx(2 * seconds(nests[0]))
    assert analyze(nests, M).roofline_secs == pytest.approx(2 * 2 * 64**3 / M.peak_flops)
    assert analyze([], M).secs == 0


def test_the_analysis_in_words() -> None:
    fast = tiled(CUBE, (2, 1, 4, 8), (1, 1, 2, 32), (4, 16))
    slow = replace(gemm(64, 64, 64), block="D")
    text = analyze([fast, slow], M).describe(min_share=0.0)
    assert "C: " in text and "Vectors: 16 lanes. Tile i_3=8 x j_3=32: 16 vector accumulators kept in registers." in text
    assert "2 parallel jobs." in text
    assert "D: " in text and "Vectors: scalar." in text
    assert "one core only. L1 holds 16.5 KB from loop j inward, 64 KB in" in text
    assert analyze([fast, slow], M).describe(min_share=0.5).startswith("D: ")
    three = tiled(CUBE, (4, 1, 2, 8), (1, 1, 2, 32), (4, 16))
    assert "(67% of the cores' time used)" in analyze([three], machine(num_cores=3)).describe()


# -- choosing tiles -------------------------------------------------------------------------------------------------


def chosen(on: Machine, m: int = 512, n: int = 4096, k: int = 1024) -> Any:
    return TileChooser(group(m, n, k, max_jobs=16 * on.num_cores), on, UNROLLS).ranked(12)


def elements(tiling: Any) -> int:
    return math.prod(extent for _, extent in tiling.analysis.tile)


@pytest.mark.parametrize("name", PRESETS)
def test_tiles_use_the_registers_and_do_not_exceed_them(name: str) -> None:
    on = PRESETS[name]
    for tiling in chosen(on)[:3]:
        found = tiling.analysis
        assert found.in_registers and found.vector_lanes == on.vector_bytes // 4
        assert on.num_vector_registers / 4 <= found.accumulators <= on.num_vector_registers - 2
        assert found.parallel_efficiency > 0.85


def test_smaller_vectors_and_fewer_registers_get_smaller_tiles() -> None:
    avx512, avx2, neon = (chosen(on)[0] for on in (M, PRESETS["core-i9"], PRESETS["m2-pro"]))
    assert elements(avx2) < elements(avx512)
    assert elements(neon) < elements(avx512)
    assert avx2.analysis.accumulators < neon.analysis.accumulators


@pytest.mark.parametrize("name", ["graviton2", "epyc-7r13"])
def test_many_cores_get_enough_jobs(name: str) -> None:
    on = PRESETS[name]
    best = chosen(on)[0].analysis
    assert best.parallel_extent >= on.num_cores
    assert best.parallel_efficiency > 0.85


def test_a_matrix_times_a_vector_is_read_in_runs() -> None:
    for n, k in ((4096, 4096), (8192, 5120), (1000, 2049)):
        best = chosen(M, 1, n, k)[0]
        _, (*_, runs, _), (_, steps) = best.sizes
        assert runs >= 4 and 1 < steps <= 8


def test_a_ranking_is_legal_ordered_and_varied() -> None:
    chooser = TileChooser(group(512, 4096, 1024), M, UNROLLS)
    ranking = chooser.ranked(12)
    assert len(ranking) == 12
    assert all(chooser.allows(tiling.sizes) for tiling in ranking)
    assert [t.secs for t in ranking] == sorted(t.secs for t in ranking)
    inner = [tuple(f[-1] for f in tiling.sizes) for tiling in ranking]
    assert len(set(inner[:6])) == 6 and len(set(inner)) >= 6
    assert len({(t.sizes, t.unroll) for t in ranking}) == 12


def test_a_ranking_does_not_depend_on_what_was_judged_before() -> None:
    g = group(512, 4096, 1024)
    fresh, used = TileChooser(g, M, UNROLLS), TileChooser(g, M, UNROLLS)
    best = fresh.ranked(12)
    for tiling in used.neighbours(best[0]):
        for unroll in UNROLLS:
            used.judge(tiling.sizes, unroll)
    assert used.ranked(12) == best


def test_the_first_choice_is_hard_to_beat_by_chance() -> None:
    g = group(512, 4096, 1024)
    rng = np.random.default_rng(0)
    drawn = [g.tiled({a: draw(d, rng) for a, _, d in g.decisions}, unroll_limit=16) for _ in range(500)]
    chance = sorted(map(seconds, drawn))
    first = chosen(M)[0].secs
    assert first < chance[5] and first < 1.05 * chance[0]


@pytest.mark.parametrize("extents", [(1, 1, 1), (7, 13, 5), (512, 4096, 1024), (3, 127, 4099)])
@pytest.mark.parametrize("structure", ["SSRSRS", "SSRS", "SRS", "SR", "SSSRRSRS"])
def test_odd_shapes_and_structures_get_legal_tiles(extents: tuple[int, int, int], structure: str) -> None:
    decisions = tuple(
        (axis, f"C.{axis} tile", TileDomain(extent, structure.count("R" if axis == "k" else "S"), max_innermost=64))
        for axis, extent in zip("ijk", extents, strict=True)
    )
    chooser = TileChooser(replace(group(*extents), decisions=decisions, structure=structure), M, UNROLLS)
    ranking = chooser.ranked(4)
    assert ranking and all(chooser.allows(tiling.sizes) for tiling in ranking)


def test_where_no_start_is_legal_there_is_no_ranking() -> None:
    g = group(64, 64, 64)
    narrow = tuple((a, n, replace(d, inner_multiple=64, inner_from=3, max_innermost=None)) for a, n, d in g.decisions)
    assert TileChooser(replace(g, decisions=narrow), machine(num_vector_registers=2), UNROLLS).ranked(4) == []
    assert TileChooser(replace(g, decisions=narrow), M, UNROLLS).ranked(4) == []


def test_neighbours_move_one_prime_factor() -> None:
    chooser = TileChooser(group(4, 6, 1), M, UNROLLS)
    near = {tiling.sizes for tiling in chooser.neighbours(chooser.judge(((4, 1, 1, 1), (6, 1, 1, 1), (1, 1)), 0))}
    assert len(near) == 3 + 2 * 3
    assert ((2, 1, 2, 1), (6, 1, 1, 1), (1, 1)) in near
    assert ((4, 1, 1, 1), (2, 1, 1, 3), (1, 1)) in near


def test_the_space_of_these_tests_is_what_it_says() -> None:
    space = GemmSpace(CUBE)
    (nest,) = space.nests(space.sample(3))
    assert nest.iterations == 64**3

"""The cost model's constants as records: typical ones, measured ones, and what fills the gaps."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from gemm_nest import gemm, group, machine, tiled
from reasoning_compiler.core.costs import Costs, Level, costs_of, typical_costs
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.cost.analysis import analyze_block
from reasoning_compiler.cost.pages import page_cycles
from reasoning_compiler.cost.register_tile import RegisterTile, vectors_of
from reasoning_compiler.ir.nest import Access, Loop, Nest
from reasoning_compiler.machine.calibration import agreed

USUAL = typical_costs("avx512")
MEASURED = {"l1": [4.0, 120.0, 110.0], "call_cycles": 9.0, "region_secs": 3e-6, "split_cycles": 0.0}


def test_costs_are_plain_json() -> None:
    costs = costs_of(MEASURED, "avx2")
    assert Costs.from_json(json.loads(json.dumps(costs.to_json()))) == costs


def test_a_machine_from_before_costs_were_measured_has_typical_ones() -> None:
    record = machine().to_json()
    del record["costs"]
    assert Machine.from_json(record).costs == USUAL


def test_what_was_measured_counts_and_the_rest_is_typical() -> None:
    costs = costs_of(MEASURED, "avx512")
    assert (costs.l1, costs.call_cycles, costs.split_cycles) == (Level(4.0, 120.0, 110.0), 9.0, 0.0)
    assert costs.l2 == USUAL.l2 and "l2" in costs.typical
    assert not {"l1", "call_cycles", "region_secs", "split_cycles"} & set(costs.typical)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("call_cycles", 1000.0),
        ("call_cycles", 0.0),
        ("region_secs", math.nan),
        ("far_page_cycles", math.inf),
        ("l1", [12.0, 120.0, 110.0]),
        ("l2", [14.0, 48.0, 4000.0]),
    ],
)
def test_an_implausible_figure_is_replaced_and_named(name: str, value: object) -> None:
    costs = costs_of(MEASURED | {name: value}, "avx512")
    assert getattr(costs, name) == getattr(USUAL, name) and name in costs.typical


def test_figures_that_do_not_repeat_are_left_out() -> None:
    first = {"l1 latency": 5.0, "call_cycles": 10.0, "split_cycles": 0.0, "region_secs": 1e-6}
    second = {"l1 latency": 5.2, "call_cycles": 12.0, "split_cycles": 0.4, "region_secs": 3e-6}
    assert agreed(first, second) == pytest.approx({"l1 latency": 5.1, "split_cycles": 0.2})


# -- what the analysis makes of them ----------------------------------------------------------------------------------


def down_a_panel(rows: int, columns: int, width: int, *, block: int) -> Nest:
    """Returns a sum of row-major rows, by panels of columns or, within a block of rows, columns inside."""
    r, c = rows // block, columns // width
    loops = (
        Loop("r_0", r, reduces=True),
        Loop("c_0", c),
        Loop("r_1", block, reduces=True),
        Loop("c_1", width, "vectorized"),
    )
    steps = ((float(block), 0.0, 1.0, 0.0), (0.0, float(width), 0.0, 1.0))
    read = Access("A", (rows, columns), 4, steps, (1, 1))
    total = Access("S", (columns,), 4, (steps[1],), (1,), writes=True)
    return Nest("S", loops, (total, read), 1.0)


def test_each_step_down_a_narrow_panel_visits_another_page() -> None:
    # 4096 rows, 64 KB apart; panels of 32 columns, 128 bytes: 512 panels × 4096 rows are visited, 31/32 of a page left
    # out each time. (The sums of a panel lie in one page.)
    on = machine(costs=replace(USUAL, near_page_cycles=0.0, far_page_cycles=1.0), l3_bytes=0)
    nest = down_a_panel(4096, 16384, 32, block=4096)
    assert page_cycles(nest, on, analyze_block(nest, on).levels) == pytest.approx(512 * 4096 * 31 / 32, rel=0.01)


def test_few_rows_at_a_time_keep_their_pages_in_sight() -> None:
    on = machine()
    panel, blocks = (down_a_panel(4096, 16384, 32, block=block) for block in (4096, 16))
    assert page_cycles(blocks, on, analyze_block(blocks, on).levels) == 0
    assert analyze_block(panel, on).secs > 2 * analyze_block(blocks, on).secs
    assert analyze_block(panel, on).bound == "pages"


@pytest.mark.parametrize(("extent", "vectors"), [(16, 1), (48, 3), (28, 3), (14, 3), (1, 1), (7, 3), (57, 5)])
def test_vectors_are_whole_registers_and_powers_of_two_for_the_tail(extent: int, vectors: int) -> None:
    assert vectors_of(extent, 16) == vectors


def test_a_tail_is_loaded_in_vectors_of_its_own() -> None:
    """19 floats are vectors of 16, 2 and 1, and 40 are two of 16 and one of 8: three loads either way."""

    def cycles(columns: int) -> float:
        nest = group(1, columns, 64)
        return RegisterTile(tiled(nest, (1, 1, 1, 1), (1, 1, 1, columns), (1, 64)), machine()).cycles()

    assert cycles(19) == pytest.approx(cycles(40))


@pytest.mark.parametrize(
    ("name", "nest"),
    [
        ("region_secs", replace(gemm(8, 8, 8), loops=(Loop("i", 8, "parallel"), *gemm(8, 8, 8).loops[1:]))),
        ("call_cycles", replace(gemm(8, 64, 8), scalar_calls=1)),
        ("far_page_cycles", down_a_panel(4096, 16384, 32, block=4096)),
        ("fma_latency_cycles", gemm(64, 64, 64)),
        ("exposed", gemm(64, 64, 64)),
    ],
)
def test_a_higher_cost_is_more_time(name: str, nest: Nest) -> None:
    dearer = machine(costs=replace(USUAL, **{name: 2 * getattr(USUAL, name)}))
    assert analyze_block(nest, dearer).secs > analyze_block(nest, machine()).secs

"""What the rule does: softmax(Q·Kᵀ)·V block of rows by block of rows, so that the scores never leave the cache.

For each head and block of rows: the scores of these rows with all keys, by a register tile whose sums live in
registers; the softmax on them, in vectors; the product with V, by another register tile. K is packed first, so that
a tile reads it in vectors: [..., keys / lanes, depth, lanes]. FlashAttention (Dao et al., 2022) goes on to blocks of
keys; on a CPU a block of whole rows fits the second-level cache until sequences are very long.

Where only short vectors divide the keys, or none, what is reduced is laid out in whole ones, filled up with what
changes no result: a predicate of a reduction would be lost where TVM moves it. The loops over panels of keys are marked
for TVM to split off the iteration in which the last vector is cut, element by element.

Where a causal or windowed mask leaves scores out, the loops over blocks of keys are marked, and `skip_masked` makes
them skip those that do not count. Without it the program is right, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reasoning_compiler.ir.marks import NO_RULES, SETTLED, SKIP_MASKED
from reasoning_compiler.ir.statements import readers
from reasoning_compiler.ir.walk import REDUCTION
from reasoning_compiler.machine.toolchain import TVM_ERRORS
from reasoning_compiler.rules.attention.chain import Chain, Product, Stage
from reasoning_compiler.rules.operand_layout import Layout, copy_operand, settle_copy

MAX_TILE_ROWS, MAX_TILE_VECTORS = 16, 8
"""Of a register tile."""

_STEPS = (1, 2, 4)  # of the sums, unrolled
_NEUTRAL = {"Add": 0.0, "Max": -3.4028234663852886e38}
_PARTITION = "pragma_loop_partition_hint"  # TVM's own: iterations in which a condition always holds go apart


def fuse(sch: Any, chain: Chain, lanes: int, depth_lanes: int, finish: Callable[[Any], None]) -> None:
    """Computes a chain block of rows by block of rows.

    Args:
        sch: is changed.
        chain: what is computed.
        lanes: of vectors over keys.
        depth_lanes: of vectors over depth.
        finish: is called where nothing is left for other rules, and settles what is decided of the whole program.
    """
    is_odd = chain.scores.num_columns % lanes > 0
    if is_odd:  # what follows the scores fills up their last vector, which a product cannot
        chain = replace(chain, after_scores=())
    scores, out = sch.get_sblock(chain.scores.name, "main"), sch.get_sblock(chain.out.name, "main")
    stages = {stage.name: sch.get_sblock(stage.name, "main") for stage in chain.stages}
    tail = [sch.get_sblock(name, "main") for name in chain.tail]
    own = [scores, out, *stages.values(), *tail]
    alone = len(sch.get_child_blocks(sch.get_sblock("root", "main"))) == len(own)
    for block in own:
        sch.annotate(block, NO_RULES, "None")

    inlined = _inline(sch, chain, stages)
    placed = [s for s in chain.stages if s.name not in inlined and s.name not in chain.after_scores]
    padded = _fill_last_vector(sch, placed, stages, lanes) if is_odd else {}
    partial = {s.name: _split_reduction(sch, s, stages[s.name], lanes) for s in placed if s.reduces}
    _pack(sch, scores, chain.scores, lanes)
    if chain.out.right_order[-2] != len(chain.out.right_order) - 1:
        _pack(sch, out, chain.out, depth_lanes)

    rows, depths, keys, steps = _sample(sch, out, chain, lanes, depth_lanes)
    out_copy = sch.cache_write(out, 0, "local")
    last = _inline_tail(sch, tail) or out_copy
    loops = sch.get_loops(last)
    row, column = chain.out.result
    block, rest = sch.split(loops[row], [rows[0], None])
    shared = [loop for i, loop in enumerate(loops) if i not in (row, column)]
    sch.reorder(*shared, block, rest, loops[column])
    if last is out_copy:
        copied = [rest, loops[column]]
    else:
        sch.compute_at(out_copy, block, preserve_unit_loops=True)
        inner = sch.get_loops(out_copy)[-len(loops) :]
        copied = [inner[row], inner[column]]
        _vectorize(sch, sch.get_loops(last)[-1], depth_lanes)
    _, tile = _tile_copy(sch, *copied, rows[1:], [*depths, depth_lanes])
    out_sums = _tile_sums(sch, out, chain.out, tile, depth_lanes, [*keys, None, steps])
    panels = [(out_sums[0], chain.out.statement.read_of(chain.out.left.source), 1)]

    # What the block of rows needs, computed in front of it, last things first.
    for stage in reversed(placed):
        sch.compute_at(stages[stage.name], block, preserve_unit_loops=True)
        if stage.reduces:
            sch.compute_at(partial[stage.name], block, preserve_unit_loops=True)
    score_copy = sch.cache_write(scores, 0, "local")
    for name in chain.after_scores:
        sch.reverse_compute_inline(stages[name])
    sch.compute_at(score_copy, block, preserve_unit_loops=True)
    copied = sch.get_loops(score_copy)[1 - len(chain.scores.statement.loops) :]
    row, column = (copied[dimension] for dimension in chain.scores.result)
    panel, tile = _tile_copy(sch, row, column, rows[1:], [*keys, lanes])
    panels.append((panel, -1, 1))
    score_sums = _tile_sums(sch, scores, chain.scores, tile, lanes, [None, steps])

    # In parallel before the sums are split from their zeros: TVM's proof needs them whole.
    jobs = sch.fuse(*shared, block)
    sch.parallel(jobs)
    sch.annotate(jobs, SETTLED, 1)
    for stage in placed:
        if stage.reduces:
            panel = _vectorize_reduction(sch, stage, partial[stage.name], keys)
            panels.append((panel, stage.over, lanes if is_odd else 1))
        elif stage.column is not None:
            loops = sch.get_loops(stages[stage.name])
            if stage.name in padded:
                lane = loops[-1]
                panel, vector = sch.split(loops[-2], keys)
            else:
                panel, vector, lane = sch.split(loops[stage.column - len(stage.statement.loops)], [*keys, lanes])
            _vectorize(sch, lane)
            sch.unroll(vector)
            panels.append((panel, stage.over, lanes if stage.name in padded else 1))
    for init in (sch.decompose_reduction(scores, score_sums[0]), sch.decompose_reduction(out, out_sums[0])):
        *_, init_row, init_vector, init_lane = sch.get_loops(init)
        sch.unroll(init_row)
        sch.unroll(init_vector)
        _vectorize(sch, init_lane)
    for loop, access, width in panels:
        if chain.live is not None:
            sch.annotate(loop, SKIP_MASKED, mark(chain, access, width))
        if is_odd:
            sch.annotate(loop, _PARTITION, 1)
    if alone:  # nothing is left for other rules
        finish(sch)


def _sample(sch: Any, out: Any, chain: Chain, lanes: int, depth_lanes: int) -> tuple[Any, Any, Any, Any]:
    """Returns the decisions: rows as [blocks, tiles, rows of a tile]; vectors of depth and of keys as [panels, vectors
    of a tile]; how many steps of the sums are unrolled. Both products have the rows and steps in common."""
    product = chain.out
    loops = sch.get_loops(out)
    row, depth, key = (loops[product.statement.loops[i]] for i in (product.row, product.column, product.reduced))
    rows = sch.sample_perfect_tile(row, n=3, max_innermost_factor=MAX_TILE_ROWS)
    vectors, _ = sch.split(depth, [None, depth_lanes])
    depths = sch.sample_perfect_tile(vectors, n=2, max_innermost_factor=MAX_TILE_VECTORS)
    vectors, lane = sch.split(key, [None, lanes])
    keys = sch.sample_perfect_tile(vectors, n=2, max_innermost_factor=MAX_TILE_VECTORS)
    possible = [s for s in _STEPS if math.gcd(lanes, chain.scores.num_reduced) % s == 0]
    steps = sch.sample_categorical(possible, [1 / len(possible)] * len(possible))
    sch.split(lane, [None, steps])
    return rows, depths, keys, steps


def _inline_tail(sch: Any, tail: list[Any]) -> Any:
    """Inlines what follows the second product into it; returns the last block where it reads something else, too."""
    for position, block in enumerate(tail):
        try:
            sch.reverse_compute_inline(block)
        except TVM_ERRORS:
            for middle in tail[position:-1]:
                sch.compute_inline(middle)
            return tail[-1]
    return None


def _tile_copy(sch: Any, row: Any, column: Any, rows: Any, columns: list[Any]) -> tuple[Any, Any]:
    """Tiles the block that writes a product's sums back; returns its loops over panels and over tiles in a panel."""
    tile, row = sch.split(row, rows)
    panel, vector, lane = sch.split(column, columns)
    sch.reorder(panel, tile, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    _vectorize(sch, lane)
    return panel, tile


def _tile_sums(sch: Any, block: Any, product: Product, tile: Any, lanes: int, steps: list[Any]) -> list[Any]:
    """Computes a product's sums in a tile of its copy, in registers; returns the loops of its reduction."""
    sch.compute_at(block, tile, preserve_unit_loops=True)
    inner = sch.get_loops(block)[-len(product.statement.loops) :]
    row, column, reduced = (inner[i] for i in (product.row, product.column, product.reduced))
    sums = sch.split(reduced, steps)
    vector, lane = sch.split(column, [None, lanes])
    sch.reorder(*sums, row, vector, lane)
    for loop in (sums[-1], row, vector):
        sch.unroll(loop)
    _vectorize(sch, lane)
    return list(sums)


def _inline(sch: Any, chain: Chain, stages: dict[str, Any]) -> set[str]:
    """Inlines elementwise stages into the one elementwise stage that reads them; returns their names."""
    names = set()
    for stage in chain.stages:
        reading = [s for s in chain.stages if readers([s.statement], stage.statement.buffer)]
        alone = len(reading) == 1 and not reading[0].reduces and reading[0].column is not None
        if alone and not stage.reduces and stage.column is not None and stage.name not in chain.after_scores:
            sch.compute_inline(stages[stage.name])
            names.add(stage.name)
    return names


def _fill_last_vector(sch: Any, placed: list[Stage], stages: dict[str, Any], lanes: int) -> dict[str, float]:
    """Lays out what is reduced as [..., columns / lanes, lanes], with what changes no result behind the last column.

    A reduction over whole vectors is right then. Returns that by the names of the stages that make it.

    Raises:
        LookupError: what is reduced is made by none of the stages, or reduced by other than sum and maximum.
        ValueError: it is reduced in two ways, or no float32 with the columns last.
    """
    fillers: dict[str, float] = {}
    makers = {stage.statement.buffer: stage for stage in placed}
    for stage in placed:
        if stage.reduces:
            made = makers[stage.statement.block.reads[stage.over].source]
            filler = _NEUTRAL[type(stage.statement.value).__name__]
            loops = made.statement.loops
            is_last = made.column is not None and loops[made.column] == len(loops) - 1
            if (
                fillers.setdefault(made.name, filler) != filler
                or not is_last
                or made.statement.buffer.dtype != "float32"
            ):
                raise ValueError(f"`{made.name}` cannot be filled up")
    for name, filler in fillers.items():
        sch.transform_layout(
            stages[name], ("write", 0), lambda *at: (*at[:-1], at[-1] // lanes, at[-1] % lanes), pad_value=filler
        )
    return fillers


def _pack(sch: Any, block: Any, product: Product, lanes: int) -> None:
    """Lays out all of the right operand in parallel."""
    layout = Layout(product.right_order, lanes)
    read = product.statement.read_of(product.right.source)
    around, lane = copy_operand(sch, block, read, layout, is_cut=product.num_columns % lanes > 0)
    settle_copy(sch, around, lane)


def _split_reduction(sch: Any, stage: Stage, block: Any, lanes: int) -> Any:
    """Reduces over vectors first; returns the block that does, the given one reduces the last vector."""
    assert stage.column is not None
    _, lane = sch.split(sch.get_loops(block)[stage.statement.loops[stage.column]], [None, lanes])
    return sch.rfactor(lane, len(stage.statement.indices))


def _vectorize_reduction(sch: Any, stage: Stage, partial: Any, keys: Any) -> Any:
    """Makes a split reduction a vector of reductions; returns its loop over panels of keys."""
    iterations = sch.get(partial).iter_vars
    loops = sch.get_loops(partial)[-len(iterations) :]
    names = [str(variable.name) for variable in stage.statement.variables]
    row = next(i for i, each in enumerate(iterations) if str(each.var.name) == names[stage.row])
    outer = next(i for i, each in enumerate(iterations) if int(each.iter_type) == REDUCTION)
    lane = next(i for i, each in enumerate(iterations) if i != outer and str(each.var.name) not in names)
    panel, vector = sch.split(loops[outer], keys)
    sch.reorder(loops[row], panel, vector, loops[lane])
    sch.unroll(vector)
    _vectorize(sch, loops[lane])
    _vectorize(sch, sch.get_loops(sch.decompose_reduction(partial, panel))[-1])
    return panel


def _vectorize(sch: Any, loop: Any, lanes: int = 0) -> None:
    """Makes a loop a vector; where `lanes` are given, an unrolled loop of vectors of so many."""
    if lanes:
        outer, loop = sch.split(loop, [None, lanes])
        sch.unroll(outer)
    sch.vectorize(loop)
    sch.annotate(loop, SETTLED, 1)


def mark(chain: Chain, access: int, lanes: int = 1) -> str:
    """Returns the value of the mark on a loop over blocks of keys.

    Args:
        chain: what is computed, with a mask.
        access: which read of the first block in the loop that reads anything has rows and columns, its own result not
            counted; -1 where that result has.
        lanes: of the vectors in which its columns lie, in two dimensions; 1 where they lie in one.
    """
    assert chain.live is not None
    told = [access, *chain.scores.result, chain.live.first, chain.live.last]
    return json.dumps(told if lanes == 1 else [*told, lanes])

"""A rule that sums up the products which one elementwise block reads in one pass, as gate and up of SwiGLU.

Products of the same rows with several constants are loops of their own, each with a result in memory and an end at
which all cores wait for each other. Here one loop nest computes a register tile of each, over the whole reduction, and
from the complete sums what is wanted of them:

    for i_0, j_0 (parallel): for i_1, j_1:
        for k_0, k_1:
            for i_2, j_2 (vectorized): gate_local[i, j] += X[i, k] * W_gate[k, j]
            for i_2, j_2 (vectorized): up_local[i, j] += X[i, k] * W_up[k, j]
        for i_2, j_2 (vectorized): activated[i, j] = silu(gate_local[i, j]) * up_local[i, j]

An element needs as many registers as there are products, so a tile has fewer elements than one of a single product. It
does as many multiply-adds for each load: what is saved is memory and waiting, which counts where there is little work.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.cost.tiling import WHOLE_REDUCTION
from reasoning_compiler.ir.joined_label import JOINED
from reasoning_compiler.ir.marks import NO_RULES, SETTLED, STRUCTURE
from reasoning_compiler.ir.walk import REDUCTION, SPATIAL, factors
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.announced import announce_streams
from reasoning_compiler.rules.attempted import attempted

_SPATIAL_LEVELS, _REDUCTION_LEVELS = (WHOLE_REDUCTION.count(kind) for kind in "SR")
_MAX_VECTOR, _MAX_ROWS, _MAX_STEPS = 64, 16, 8  # of a register tile; of its rows and steps all are unrolled
_MAX_PRODUCTS = 3


def joined_products(stream_bytes: int) -> Any:
    """Returns the rule, which goes before MetaSchedule's: what it has settled, those leave alone.

    Args:
        stream_bytes: constants of which one is larger may be prefetched; what a core's caches hold.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.schedule_rule import PyScheduleRule

    @derived_object
    class JoinedProducts(PyScheduleRule):
        """Offers the block as it is, and in one nest with the products that it reads."""

        on_cpu = False

        def _initialize_with_tune_context(self, context: Any) -> None:
            self.on_cpu = context.target.kind.name == "llvm"

        def apply(self, sch: Any, block: Any) -> list[Any]:
            if not self.on_cpu or not _is_elementwise(sch, block):
                return [sch]
            joined = attempted(sch, _join, block, stream_bytes)
            return [sch] if joined is None else [sch, joined]

        def clone(self) -> Any:
            return JoinedProducts()

    return JoinedProducts()


def _products(sch: Any, block: Any) -> list[Any]:
    """Returns the products that an elementwise block reads, alike and of a common operand.

    Elementwise blocks between them are inlined.

    Raises:
        LookupError: it reads one only, or something else.
    """
    while True:
        producers = list(sch.get_producers(block))
        between = [each for each in producers if _is_elementwise(sch, each) and len(sch.get_consumers(each)) == 1]
        if not between:
            break
        for each in between:
            sch.compute_inline(each)
    written = [str(sch.get(each).writes[0].source.name) for each in producers]
    own = {name: _plain_indices(sch.get(block), name) for name in written}
    shapes = {_shape(sch, each) for each in producers}
    if not 2 <= len(producers) <= _MAX_PRODUCTS or len(shapes) != 1 or None in shapes or not all(own.values()):
        raise LookupError("no products that are alike")
    read = [{str(load.source.name) for load in factors(sch.get(each)) or ()} for each in producers]
    alone = all(len(sch.get_consumers(each)) == 1 for each in producers)
    if not alone or not set.intersection(*read):
        raise LookupError("no operand in common, or others read the products")
    return producers


def _is_elementwise(sch: Any, block: Any) -> bool:
    """Tells whether a block that no rule has touched computes each element by itself, at its own loops' place."""
    found = sch.get(block)
    return (
        NO_RULES not in found.annotations
        and type(found.body).__name__ == "BufferStore"
        and len(found.writes) == 1
        and len(found.iter_vars) > 0
        and all(int(each.iter_type) == SPATIAL for each in found.iter_vars)
        and _in_order(found, found.body.indices)
        and len(sch.get_loops(block)) == len(found.iter_vars)
    )


def _shape(sch: Any, block: Any) -> tuple[int, tuple[int, ...]] | None:
    """Returns the number of spatial loops and all extents of a product in plain loops, spatial ones first."""
    found = sch.get(block)
    kinds = [int(each.iter_type) for each in found.iter_vars]
    num_spatial = kinds.count(SPATIAL)
    extents = [getattr(sch.get(loop).extent, "value", None) for loop in sch.get_loops(block)]
    if found.init is None or factors(found) is None or NO_RULES in found.annotations or None in extents:
        return None
    if sorted(kinds) != kinds or num_spatial + kinds.count(REDUCTION) != len(extents) or num_spatial == len(extents):
        return None
    return (num_spatial, tuple(map(int, extents))) if _in_order(found, found.body.indices) else None


def _plain_indices(block: Any, buffer: str) -> bool:
    """Tells whether a block reads of a buffer only the element at its own place."""
    regions = [region for region in block.reads if str(region.source.name) == buffer]
    return len(regions) == 1 and _in_order(block, [part.min for part in regions[0].region])


def _in_order(block: Any, indices: Any) -> bool:
    """Tells whether indices are a block's spatial variables, all of them, in order."""
    own = [each.var for each in block.iter_vars if int(each.iter_type) == SPATIAL]
    return len(own) == len(indices) and all(index.same_as(var) for index, var in zip(indices, own, strict=True))


def _join(sch: Any, block: Any, stream_bytes: int) -> None:
    """Computes a block and the products that it reads in one nest. Raises LookupError as `_products` does."""
    products = _products(sch, block)
    sch.annotate(block, STRUCTURE, JOINED)
    for each in (block, *products):
        sch.annotate(each, NO_RULES, "None")
    for each in products:
        sch.set_scope(each, 0, "local")
    announce_streams(sch, products, stream_bytes=stream_bytes)
    spatial = sch.get_loops(block)
    most = [*[_MAX_ROWS] * (len(spatial) - 1), _MAX_VECTOR]
    tiles = [
        sch.split(loop, sch.sample_perfect_tile(loop, n=_SPATIAL_LEVELS, max_innermost_factor=limit))
        for loop, limit in zip(spatial, most, strict=True)
    ]
    reduced = [
        sch.sample_perfect_tile(loop, n=_REDUCTION_LEVELS, max_innermost_factor=_MAX_STEPS)
        for loop in sch.get_loops(products[0])[len(spatial) :]
    ]
    outer, middle, inner = zip(*tiles, strict=True)
    sch.reorder(*outer, *middle, *inner)
    jobs = sch.fuse(*outer)
    sums = []
    for each in products:
        sch.compute_at(each, middle[-1], preserve_unit_loops=True)
        loops = sch.get_loops(each)[-len(spatial) - len(reduced) :]
        pieces = [sch.split(loop, cut) for loop, cut in zip(loops[len(spatial) :], reduced, strict=True)]
        steps = [*(piece[0] for piece in pieces), *(piece[1] for piece in pieces)]
        sch.reorder(*steps, *loops[: len(spatial)])
        _settle_tile(sch, loops[: len(spatial)])
        sums.append(steps)
    _settle_tile(sch, list(inner))
    # In parallel before the sums are split from their zeros: TVM's proof needs them whole.
    sch.parallel(jobs)
    sch.annotate(jobs, SETTLED, 1)
    for each, steps in zip(products, sums, strict=True):
        init = sch.decompose_reduction(each, steps[0])
        _settle_tile(sch, sch.get_loops(init)[-len(spatial) :])
    sch.merge(*(steps[-1] for steps in sums))
    for step in sch.get_loops(products[0])[-len(spatial) - len(reduced) : -len(spatial)]:
        sch.unroll(step)


def _settle_tile(sch: Any, loops: list[Any]) -> None:
    """Unrolls the loops of a register tile, and makes vectors of the last."""
    *rows, vector = loops
    for loop in rows:
        sch.unroll(loop)
    sch.vectorize(vector)
    sch.annotate(vector, SETTLED, 1)

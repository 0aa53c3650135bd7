"""The rule: where attention can be fused over rows, and what each of its parts says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from reasoning_compiler.ir.walk import blocks, parts_in
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.attention.chain import Chain, Stage, find_chain
from reasoning_compiler.rules.attention.schedule import MAX_TILE_ROWS, fuse
from reasoning_compiler.rules.attention.sizes import RowBlocks
from reasoning_compiler.rules.rule import Offer, Phase, Rule, Structure, attempted

_FLOAT_BYTES = 4
_MIN_LANES = 4
_MIN_ROWS = 16  # that share the packed keys; packing costs as much as a few rows' products
_MIN_TILE_ROWS = 4  # where the last vector of keys is not whole
_MAX_WASTE = 1 / 8  # of the last vector of keys, of all


class FusedAttention(Rule):
    """An alternative for the last product of each attention: the scores of a block of rows never leave the cache.

    It is not offered where too few rows share the keys, or where no vectors divide the keys and the last one would be a
    large part of all or no register tile divides the rows; then nothing would be gained.
    """

    name, phase = "fusion", Phase.FUSE

    @cached_property
    def claims(self) -> frozenset[str]:
        """The products of attentions: what they read is laid out here."""
        names = (str(realize.block.name_hint) for realize, _ in blocks(self.kernel.mod["main"].body))
        chains = (find_chain(self.kernel.mod, name) for name in names)
        return frozenset(product.name for chain in chains if chain for product in (chain.scores, chain.out))

    def offer(self, sch: Any, block: Any) -> Iterator[Offer]:
        """Yields the attention that ends in a block, fused; see `Rule.offer`."""
        found, unit = sch.get(block), self.kernel.unit
        chain = find_chain(sch.mod, str(found.name_hint)) if unit is not None and found.init is not None else None
        if chain is None or unit is None:
            return
        for lanes, depth_lanes in _lanes(chain, unit.vector_bytes // _FLOAT_BYTES):
            fused = attempted(sch, fuse, chain, lanes, depth_lanes, self.kernel.finish)
            if fused is not None:
                heads = math.prod(chain.out.statement.extents[i] for i in chain.out.shared)
                masked = chain.live is not None
                label = "fused over rows" + (", masked keys skipped" if masked else "")
                yield Offer(fused, label, (("heads", heads), ("masked", int(masked))))
                return

    def sizing(self, structure: Structure) -> RowBlocks:
        """Returns the sizes of the blocks and register tiles; see `Rule.sizing`."""
        rows, depth, keys, steps = structure.decisions
        taken = structure.alternative
        return RowBlocks(
            structure.site.block,
            ((structure.site.name, taken.label),),
            (rows, depth, keys, steps),
            heads=int(taken["heads"]),  # type: ignore[arg-type]
            masked=bool(taken["masked"]),
        )


def _lanes(chain: Chain, widest: int) -> list[tuple[int, int]]:
    """Returns vector lengths over keys and over depth, the better ones first; none where the rule is not worth it."""
    scores, out = chain.scores, chain.out
    keys, depth = (math.gcd(p.num_columns, widest) for p in (scores, out))
    # Query heads that share a KV head share its packed keys, too.
    rows, num_keys = scores.num_rows, scores.num_columns
    if depth < _MIN_LANES or rows < _MIN_ROWS:
        return []
    whole = [(keys, depth)] if keys >= _MIN_LANES else []
    is_short = 2 * keys < widest or keys < _MIN_LANES
    little = -num_keys % widest <= _MAX_WASTE * num_keys
    has_tile = any(rows % size == 0 for size in range(_MIN_TILE_ROWS, MAX_TILE_ROWS + 1))
    fills = is_short and little and has_tile and _num_bounds(chain.stages) <= 1
    return [(widest, depth), *whole] if fills else whole


def _num_bounds(stages: Sequence[Stage]) -> int:
    """Returns how many comparisons of places, as a mask makes, decide what stages compute.

    TVM cuts a loop where each of them changes. The last vector is one such place, and a mask's bound another; with a
    third, as of a window, it now and then, not in every process, computes a vector too many, behind a buffer's end.
    """
    tvm = import_tvm()
    kinds = (tvm.tirx.LT, tvm.tirx.LE, tvm.tirx.GT, tvm.tirx.GE, tvm.tirx.EQ, tvm.tirx.NE)
    comparisons = (comparison for stage in stages for comparison in parts_in(stage.statement.value, *kinds))
    return sum(not parts_in(comparison, tvm.ir.TensorLoad) for comparison in comparisons)

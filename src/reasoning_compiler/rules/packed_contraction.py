"""Contractions whose sums stay in registers from the first term to the last.

MetaSchedule's tiling, SSRSRS, cuts the reduction into pieces around which other tiles are computed: each piece loads
the sums of its tile and stores them again. Here a register tile takes the whole reduction at once, SSRRS, in a buffer
of scope "local" that is written back when it is complete:

    for i_0, j_0, i_1, j_1:                                       # parallel as far as there are jobs
        for k_0, k_1: for i_2: for j_2 (vectorized): C_local[i, j] += A[i, k] * B_packed[k, j]
        for i_2: for j_2: C[i, j] = C_local[i, j]

What a tile reads of a constant operand is one contiguous stream then, as `RewriteLayout` packs it (Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication", 2008: the panel of B). It comes from L2 where the panel
fits, as in a convolution, and from memory in a product with few rows, where it may be prefetched (see `prefetch`).
Where many rows share a panel that fits no cache, MetaSchedule's own structure is better: so this is an alternative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from reasoning_compiler.cost.tiling import WHOLE_REDUCTION
from reasoning_compiler.ir.marks import PADDED
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm
from reasoning_compiler.rules.prefetch import prefetch_streams
from reasoning_compiler.rules.rule import Kernel, Offer, Phase, Rule

IN_REGISTERS = "sums in registers"
"""The label of the alternative that the rule makes."""

_MAX_INNERMOST = 64  # as in MetaSchedule's rules for CPUs


class PackedContraction(Rule):
    """Offers the block with its sums in registers, tiled SSRRS."""

    name, phase, retiles = "contraction", Phase.ACCUMULATE, True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        import_tvm()
        from tvm.s_tir import meta_schedule as ms

        written_back = ms.schedule_rule.ReuseType(req="must", levels=[2], scope="local")
        self._tiling = ms.schedule_rule.MultiLevelTiling(
            WHOLE_REDUCTION, max_innermost_factor=_MAX_INNERMOST, reuse_write=written_back
        )
        self._context = ms.TuneContext(target=kernel.target)
        self._tiling._initialize_with_tune_context(self._context)

    def offer(self, sch: Any, block: Any) -> Iterator[Offer]:
        """Yields the tiled block; see `Rule.offer`."""
        options = list(self._tiling.apply(sch.copy(), block))
        tiled = options[-1]  # a block may ask for several levels; the last is the innermost
        if len(tiled.trace.insts) == len(sch.trace.insts):
            return
        prefetch_streams(tiled, block, stream_bytes=self.kernel.stream_bytes)
        if PADDED in sch.get(block).annotations:
            _write_back_to_reader(tiled, block)
        yield Offer(tiled, IN_REGISTERS)


def _write_back_to_reader(sch: Any, block: Any) -> None:
    """Makes the copy of complete sums one of those that count, or what is computed of them, where one block reads them.

    A padded result is then never in memory.
    """
    (copy,) = sch.get_consumers(block)
    readers = sch.get_consumers(copy)
    if len(readers) == 1:
        with suppress(TVM_ERRORS):  # unless it reads something else, or in another order
            sch.reverse_compute_inline(readers[0])


RULE = PackedContraction

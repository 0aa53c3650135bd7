"""The decision how many bytes ahead of its loads a block prefetches what it streams from memory, see `PREFETCH`."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.ir.extract import buffer_bytes
from reasoning_compiler.ir.nest import PREFETCH
from reasoning_compiler.ir.walk import constants, index_of

_DISTANCES_BYTES = (0, 4096, 8192, 16384)


def prefetch_streams(sch: Any, block: Any, *, stream_bytes: int) -> None:
    """Makes the distance a decision where a block reads a constant of more than `stream_bytes`.

    Args:
        sch: a schedule that has tiled the block with its sums in registers.
        block: what reads.
        stream_bytes: what fits into a core's caches is not worth it.
    """
    if _largest_constant_bytes(sch, block) > stream_bytes:
        probability = 1 / len(_DISTANCES_BYTES)
        distance = sch.sample_categorical(list(_DISTANCES_BYTES), [probability] * len(_DISTANCES_BYTES))
        sch.annotate(block, PREFETCH, distance)


def _largest_constant_bytes(sch: Any, block: Any) -> int:
    """Returns the size of the largest constant that a block reads: only those are laid out in the order of reading."""
    known = constants(sch.mod["main"])
    read = [region.source for region in sch.get(block).reads]
    return max((buffer_bytes(buffer) for buffer in read if index_of(buffer, known) is not None), default=0)

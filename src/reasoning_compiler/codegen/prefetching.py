"""Prefetching what a kernel streams from memory: calls in front of the loads, some bytes ahead.

A product with few rows reads each weight once, and its speed is memory's. The hardware's own prefetching ends at each
page, and the multiply-adds between two loads fill the window in which a core looks ahead; loads that are prefetched
early keep memory busy. TVM has no schedule primitive for that, so a schedule marks its block with `PREFETCH` and a
distance in bytes, and this pass puts in the calls. Without them the program is right as well, and slower.

    for k: for i: for j (vectorized): C[i, j] += A[i, k] * B_packed[k, j]     # annotated
    for k: prefetch(&B_packed[k, 0] + distance); for i: for j (vectorized): ...
"""

from __future__ import annotations

from typing import Any

import tvm

from reasoning_compiler.ir.extract import item_bytes, nests
from reasoning_compiler.ir.nest import PREFETCH, Nest
from reasoning_compiler.ir.walk import annotations_in, bindings, blocks, substituted, with_body, with_loops

_LINE_BYTES = 64
_MAX_LINES = 8  # per iteration of the loop that they stand in
_READ, _DATA = 0, 1  # the arguments of llvm.prefetch, and between them how long to keep it
_USED_ONCE, _USED_AGAIN = 0, 3


def with_prefetches(func: Any) -> Any:
    """Returns a PrimFunc with the prefetches that its blocks are marked with, the same where there are none.

    Prefetched are arguments of the kernel that a block reads in vectors, in the order in which they lie in memory, as
    weights that were laid out for it.

    Args:
        func: scheduled, its weights packed or not.
    """
    if PREFETCH not in annotations_in(func.body):
        return func
    marked = {
        str(realize.block.name_hint): (realize, loops, int(realize.block.annotations[PREFETCH]))
        for realize, loops in blocks(func.body)
        if int(realize.block.annotations.get(PREFETCH, 0)) > 0
    }
    calls: dict[Any, list[Any]] = {}
    for nest in nests(tvm.IRModule({"main": func})):
        if nest.block in marked and (loop := nest.innermost_reduction) is not None:
            realize, loops, distance = marked[nest.block]
            inside = {variable.loop_var for variable in loops[loop + 1 :]}
            calls.setdefault(loops[loop].loop_var, []).extend(_calls(nest, loop, realize, inside, distance))
    if not any(calls.values()):
        return func

    def with_calls(loop: Any) -> Any:
        if not calls.get(loop.loop_var):
            return loop
        return with_body(loop, tvm.tirx.SeqStmt([*calls[loop.loop_var], loop.body]))

    return func.with_body(with_loops(func.body, with_calls))


def _calls(nest: Nest, loop: int, realize: Any, inside: set[Any], distance: int) -> list[Any]:
    """Returns the calls for one iteration of the loop with that index."""
    bound, first = bindings(realize), dict.fromkeys(inside, 0)
    calls = []
    for region in realize.block.reads:
        access = next((a for a in nest.streams(loop) if a.buffer == str(region.source.name)), None)
        if access is None:
            continue
        start = [substituted(substituted(part.min, bound), first) for part in region.region]
        keep = _USED_AGAIN if nest.reads_again(access) else _USED_ONCE
        num_bytes = nest.footprint_elements(access, loop + 1) * access.item_bytes
        for line in range(min(_MAX_LINES, max(1, num_bytes // _LINE_BYTES))):
            ahead = (distance + line * _LINE_BYTES) // item_bytes(str(region.source.dtype))
            address = tvm.tirx.address_of(tvm.tirx.BufferLoad(region.source, [*start[:-1], start[-1] + ahead]))
            call = tvm.tirx.call_intrin("void", "tirx.prefetch", address, _READ, keep, _DATA)
            calls.append(tvm.tirx.Evaluate(call))
    return calls

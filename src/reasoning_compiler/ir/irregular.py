"""Blocks that TVM's primitives cannot treat, or treat as what they are not."""

from __future__ import annotations

from typing import Any

import tvm
import tvm.s_tir
import tvm_ffi

from reasoning_compiler.ir.walk import REDUCTION, SPATIAL, blocks, is_unit, parts_in, variables


def irregular(main: Any) -> list[Any]:
    """Returns the realizations of the root's blocks, in program order, in nests that have an irregular block.

    A block is irregular that has loops or blocks inside, reads elsewhere what it writes, writes where memory says, has
    an axis that is neither spatial nor a reduction, or stands in a loop that is no axis of its own or whose length is
    not constant.

    Args:
        main: a PrimFunc with a root block.
    """
    children = list(blocks(main.body.block.body, inside=False))
    odd = [realize for realize, loops in children if _is_irregular(realize, loops)]
    nests = {loops[0].loop_var for realize, loops in children if loops and any(realize.same_as(each) for each in odd)}
    return [
        realize
        for realize, loops in children
        if any(realize.same_as(each) for each in odd) or (loops and loops[0].loop_var in nests)
    ]


def names_inside(realizes: list[Any]) -> set[str]:
    """Returns the names of blocks and of all blocks in them."""
    return {str(block.name_hint) for each in realizes for block in parts_in(each, tvm.s_tir.SBlock)}


def _is_irregular(realize: Any, loops: tuple[Any, ...]) -> bool:
    block = realize.block
    bound = {variable for value in realize.iter_values for variable in variables(value)}
    return (
        bool(parts_in(block.body, tvm.tirx.For, tvm.s_tir.SBlock))
        or any(_carries(store) for store in parts_in(block.body, tvm.tirx.BufferStore))
        or any(int(axis.iter_type) not in (SPATIAL, REDUCTION) for axis in block.iter_vars)
        or any(not isinstance(loop.extent, tvm.tirx.IntImm) for loop in loops)
        or any(loop.loop_var not in bound and not is_unit(loop) for loop in loops)
    )


def _carries(store: Any) -> bool:
    """Tells whether a store reads its buffer elsewhere than where it writes, or writes where memory says."""
    if any(parts_in(index, tvm.ir.TensorLoad) for index in store.indices):
        return True
    loads = (load for load in parts_in(store.value, tvm.ir.TensorLoad) if load.source.same_as(store.buffer))
    return any(not tvm_ffi.structural_equal(list(load.indices), list(store.indices)) for load in loads)

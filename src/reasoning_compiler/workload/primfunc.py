"""Reading a PrimFunc: its arguments and their roles, its blocks, and whether it can be tuned at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.ir.walk import parts_in
from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

LAYOUT_FREE_ATTR = "layout_free_buffers"
"""TVM's attribute with the indices of the arguments that are constant and may be laid out ahead of time."""

_MAX_ELEMENTS = 2**31 - 1
_EXACT_CALLS = {"prim.if_then_else", "tirx.reinterpret"}


@dataclass(frozen=True)
class Block:
    """One block of a PrimFunc.

    Args:
        name: the block's name.
        reduction_length: terms that each written element sums up; 1 for an elementwise block.
        arithmetic: dtypes in which it adds, multiplies, divides or calls functions.
        casts: dtypes to which it converts.
        reads: indices of the arguments it reads; its own result counts only where the block does not initialise it.
        writes: indices of the arguments it writes.
    """

    name: str
    reduction_length: int
    arithmetic: frozenset[str]
    casts: frozenset[str]
    reads: frozenset[int]
    writes: frozenset[int]


def blocks(func: PrimFunc) -> list[Block]:
    """Returns the PrimFunc's blocks in program order, the root block left out."""
    return [_block(func, sblock) for sblock in _sblocks(func)[1:]]


def arguments(func: PrimFunc) -> tuple[Argument, ...]:
    """Returns the PrimFunc's arguments: outputs are those it writes, weights those in its `layout_free_buffers`.

    Their names are unique: tensor expressions may call two of them the same, and the later ones are then numbered.
    """
    written = {index for block in blocks(func) for index in block.writes}
    weights = set()
    if func.attrs is not None and LAYOUT_FREE_ATTR in func.attrs:
        weights = {int(index) for index in func.attrs[LAYOUT_FREE_ATTR]}
    result: list[Argument] = []
    for index, param in enumerate(func.params):
        taken = {argument.name for argument in result}
        candidates = chain([param.name], (f"{param.name}_{i}" for i in count(1)))
        name = next(candidate for candidate in candidates if candidate not in taken)
        role = "output" if index in written else "weight" if index in weights else "input"
        result.append(Argument(name, tuple(int(d) for d in param.shape), str(param.dtype), role))
    return tuple(result)


def require_buffers(func: PrimFunc, name: str) -> None:
    """Returns if all arguments of the PrimFunc are buffers of known shapes, none of them empty.

    Args:
        func: any PrimFunc.
        name: what errors call it.

    Raises:
        UsageError: some argument is something else.
    """
    tvm = import_tvm()
    for param in func.params:
        if not isinstance(param.ty, tvm.tirx.BufferType):
            raise UsageError(f"`{name}`: the argument `{param.name}` is no buffer; give it as a constant instead")
        _require_known_shape(tvm, param, name)


def require_tunable(func: PrimFunc, name: str) -> None:
    """Returns if the PrimFunc can be tuned.

    Args:
        func: a PrimFunc in normal form.
        name: what errors call it.

    Raises:
        UsageError: it has buffers of shapes that are not known, no output, or an argument updated in place.
    """
    tvm = import_tvm()
    for block in _sblocks(func):
        for buffer in block.alloc_buffers:
            _require_known_shape(tvm, buffer, name)
    _require_outputs(func, blocks(func), name)


def has_known_loops(func: PrimFunc) -> bool:
    """Returns whether no loop's length depends on data, or on the place in another loop."""
    tvm = import_tvm()
    return all(isinstance(loop.extent, tvm.tirx.IntImm) for loop in parts_in(func.body, tvm.tirx.For))


def _require_known_shape(tvm: Any, buffer: Any, name: str) -> None:
    if not all(isinstance(dim, tvm.tirx.IntImm) for dim in buffer.shape):
        shape = ", ".join(str(dim) for dim in buffer.shape)
        raise UsageError(
            f"`{name}` has a dynamic shape: `{buffer.name}` is ({shape}); "
            "fix every dimension, for instance with `func.specialize`"
        )
    num_elements = math.prod(int(dim) for dim in buffer.shape)
    if num_elements == 0:
        extents = [int(dim) for dim in buffer.shape]
        raise UsageError(
            f"`{name}` has nothing to compute: `{buffer.name}` is ({', '.join(map(str, extents))}), "
            f"and its dimension {extents.index(0)} is empty; give every dimension at least one element"
        )
    if num_elements > _MAX_ELEMENTS and any(str(dim.ty.dtype) == "int32" for dim in buffer.shape):
        raise UsageError(
            f"`{name}` is too large: `{buffer.name}` has {num_elements:,} elements, "
            f"and TVM's 32-bit indices reach {_MAX_ELEMENTS:,}; take smaller sizes"
        )


def _require_outputs(func: PrimFunc, found: list[Block], name: str) -> None:
    written: set[int] = set()
    for block in found:
        for index in sorted((block.writes & block.reads) - written):
            raise UsageError(
                f"`{name}` adds to what its argument `{func.params[index].name}` holds, so that repeated runs differ; "
                "set it to zero first (`with T.init():`), or write the result to an argument of its own"
            )
        written |= block.writes
    if not written:
        raise UsageError(f"`{name}` has no output: it writes to none of its arguments")


def _sblocks(func: PrimFunc) -> list[Any]:
    return parts_in(func.body, import_tvm().s_tir.SBlock)


def _block(func: PrimFunc, sblock: Any) -> Block:
    tvm = import_tvm()
    tirx = tvm.tirx
    reduced = [v.dom.extent for v in sblock.iter_vars if v.iter_type == tirx.IterVar.CommReduce]
    calls = [call for call in parts_in(sblock.body, tvm.ir.Call) if call.op.name not in _EXACT_CALLS]
    return Block(
        name=sblock.name_hint,
        reduction_length=math.prod(int(extent) for extent in reduced if isinstance(extent, tirx.IntImm)),
        arithmetic=_dtypes(calls) | _dtypes(parts_in(sblock.body, tirx.Add, tirx.Sub, tirx.Mul, tirx.Div)),
        casts=_dtypes(parts_in(sblock.body, tirx.Cast)),
        reads=_argument_indices(func, sblock.reads),
        writes=_argument_indices(func, sblock.writes),
    )


def _argument_indices(func: PrimFunc, regions: Any) -> frozenset[int]:
    return frozenset(
        index for index, param in enumerate(func.params) if any(param.same_as(region.source) for region in regions)
    )


def _dtypes(nodes: list[Any]) -> frozenset[str]:
    return frozenset(str(node.ty.dtype) for node in nodes if hasattr(node.ty, "dtype"))

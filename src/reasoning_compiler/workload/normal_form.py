"""Kernels in the form that schedules need: a root block, blocks with names of their own, and types that LLVM can add.

TVM builds kernels that its schedules do not take, as those that `topi` writes as one piece of loops. Here such a piece
becomes a block, so that it can be measured, kept or tuned as any other.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from reasoning_compiler.ir.walk import index_of, mapped, parts_in, rebuilt
from reasoning_compiler.machine import import_tvm

_BOOL = "bool"


def in_normal_form(func: Any) -> Any:
    """Returns a PrimFunc that computes the same, and that can be scheduled; the function itself where it can be.

    Args:
        func: any PrimFunc whose arguments are buffers.
    """
    for change in (_with_root, _with_unique_names, _without_sums_of_bools):
        func = change(func)
    return func


def _with_root(func: Any) -> Any:
    """Returns a function whose loops are all in blocks, with a root block around them."""
    s_tir = import_tvm().s_tir
    body, root = func.body, None
    if isinstance(body, s_tir.SBlockRealize) and not body.block.iter_vars:
        root = body.block
        body = root.body
    if root is not None and parts_in(body, s_tir.SBlock):
        return func
    name = "kernel" if root is None or root.name_hint == "root" else root.name_hint
    allocated = [] if root is None else root.alloc_buffers
    reads, writes = _accessed(func, body)
    piece = s_tir.SBlockRealize([], True, s_tir.SBlock([], reads, writes, name, body, alloc_buffers=allocated))
    return func.with_body(s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", piece)))


def _accessed(func: Any, body: Any) -> tuple[list[Any], list[Any]]:
    """Returns the arguments that a statement reads before it writes them, and those that it writes, in whole."""
    import tvm_ffi

    tvm = import_tvm()
    read: list[Any] = []
    written: list[Any] = []

    def note(access: Any) -> None:
        if isinstance(access, tvm.tirx.BufferStore):
            written.append(access.buffer)
        elif index_of(access.source, written) is None:
            read.append(access.source)

    # In this order what is stored comes before the store itself.
    tvm_ffi.structural_walk(body, ((tvm.ir.TensorLoad, tvm.tirx.BufferStore), note), order="post")

    def regions(buffers: list[Any]) -> list[Any]:
        touched = (param for param in func.params if index_of(param, buffers) is not None)
        return [tvm.tirx.BufferRegion(param, [tvm.ir.Range(0, dim) for dim in param.shape]) for param in touched]

    return regions(read), regions(written)


def _with_unique_names(func: Any) -> Any:
    """Returns a function whose blocks have different names; of several with one name, the later ones are numbered."""
    s_tir = import_tvm().s_tir
    names = Counter(str(block.name_hint) for block in parts_in(func.body, s_tir.SBlock))
    if max(names.values()) == 1:
        return func
    taken = set(names)
    seen: set[str] = set()

    def renamed(block: Any) -> Any:
        name, number = str(block.name_hint), 1
        while name in seen or (number > 1 and name in taken):
            name, number = f"{block.name_hint}_{number}", number + 1
        seen.add(name)
        return block if name == block.name_hint else rebuilt(block, name_hint=name)

    return func.with_body(mapped(func.body, s_tir.SBlock, renamed))


def _without_sums_of_bools(func: Any) -> Any:
    """Returns a function with `or` in place of sums of truth values, as NumPy has it: LLVM cannot add those."""
    tirx = import_tvm().tirx
    if not any(str(add.ty.dtype) == _BOOL for add in parts_in(func.body, tirx.Add)):
        return func

    def with_or(add: Any) -> Any:
        return tirx.Or(add.a, add.b) if str(add.ty.dtype) == _BOOL else add

    return func.with_body(mapped(func.body, tirx.Add, with_or))

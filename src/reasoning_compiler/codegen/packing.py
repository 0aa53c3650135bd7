"""Taking the ahead-of-time layout of constant weights out of a scheduled kernel, into functions of their own.

MetaSchedule's postprocessor `RewriteLayout` leaves, in front of the kernel proper, a loop nest per weight
that copies it into the layout which the kernel reads:

    for k, j: B_global[j // 16, k, j % 16] = B[k, j]      # annotated "meta_schedule.layout_rewrite_preproc"
    for i, j, k: C[i, j] += A[i, k] * B_global[j // 16, k, j % 16]

A weight is constant, so that copy is to be paid for once, not per call: here it becomes a function of its
own, `pack_B(B, B_global)`, and the kernel takes `B_global` where it took `B`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoning_compiler.core.factors import divisors
from reasoning_compiler.ir.walk import index_of

_PACKING_ANNOTATION = "meta_schedule.layout_rewrite_preproc"
_LAYOUT_FREE = "layout_free_buffers"
_TILE = 16


@dataclass(frozen=True)
class Packed:
    """A kernel whose constant weights arrive packed, and the functions that pack them.

    Args:
        kernel: an IRModule with the PrimFunc `main`.
        packers: argument index → the PrimFunc (weight, packed weight) that lays this argument out.
    """

    kernel: Any  # tvm.IRModule
    packers: dict[int, Any]  # tvm.tirx.PrimFunc

    @property
    def library(self) -> Any:
        """The IRModule that goes into a library: `main` and one `pack_<argument>` per packed weight."""
        import tvm

        functions = {"main": self.kernel["main"]}
        functions |= {str(packer.attrs["global_symbol"]): packer for packer in self.packers.values()}
        return tvm.IRModule(functions)

    def layout(self, index: int) -> str:
        """Returns a name for the layout of an argument, the same in every process; empty where it has no packer."""
        import tvm_ffi

        if index not in self.packers:
            return ""
        return f"{tvm_ffi.structural_hash(self.packers[index], True) & (2**64 - 1):016x}"


def split_packing(mod: Any) -> Packed:
    """Returns the kernel without the packing of its weights, and that packing as functions of their own.

    A packing that cannot be taken out, because the weight is also read elsewhere, stays where it is: the
    kernel is then right, and packs at every call.

    Args:
        mod: an IRModule with the PrimFunc `main`, scheduled and postprocessed, or untuned.
    """
    import tvm

    main = mod["main"]
    root = main.body.block if isinstance(main.body, tvm.s_tir.SBlockRealize) else None
    if root is None:
        return Packed(mod, {})
    stmts = list(root.body) if isinstance(root.body, tvm.tirx.SeqStmt) else [root.body]
    params, allocated, packers = list(main.params), list(root.alloc_buffers), {}
    for nest in list(stmts):
        found = _source_and_target(nest, params, allocated)
        if found is None:
            continue
        source, target = found
        rest = [stmt for stmt in stmts if not stmt.same_as(nest)]
        if any(index_of(source, tvm.tirx.analysis.undefined_vars(stmt, [])[:]) is not None for stmt in rest):
            continue
        index = index_of(source, params)
        stmts, params[index] = rest, target
        del allocated[index_of(target, allocated)]
        packers[index] = _packer(nest, source, target)
    if not packers:
        return Packed(mod, {})
    body = stmts[0] if len(stmts) == 1 else tvm.tirx.SeqStmt(stmts)
    block = tvm.s_tir.SBlock(
        [], [], [], root.name_hint, body, None, allocated, list(root.match_buffers), root.annotations
    )
    realize = tvm.s_tir.SBlockRealize([], True, block)
    kernel = tvm.tirx.PrimFunc(params, realize, main.ret_type, main.attrs)
    if _LAYOUT_FREE in kernel.attrs:
        kernel = kernel.without_attr(_LAYOUT_FREE)
    return Packed(tvm.IRModule({"main": kernel}), packers)


def _source_and_target(nest: Any, params: list[Any], allocated: list[Any]) -> tuple[Any, Any] | None:
    """Returns the weight and the packed buffer of a packing nest, None for any other statement."""
    import tvm

    stmt = nest
    while isinstance(stmt, tvm.tirx.For):
        stmt = stmt.body
    if not isinstance(stmt, tvm.s_tir.SBlockRealize) or _PACKING_ANNOTATION not in stmt.block.annotations:
        return None
    reads, writes = stmt.block.reads, stmt.block.writes
    if len(reads) != 1 or len(writes) != 1:
        return None
    source, target = reads[0].source, writes[0].source
    if index_of(source, params) is None or index_of(target, allocated) is None:
        return None
    return source, target


def _packer(nest: Any, source: Any, target: Any) -> Any:
    """Returns the PrimFunc (source, target) that runs the packing nest in tiles, on all cores."""
    import tvm

    name = f"pack_{source.name}"
    root = tvm.s_tir.SBlock([], [], [], "root", nest)
    func = tvm.tirx.PrimFunc([source, target], tvm.s_tir.SBlockRealize([], True, root))
    # Else the function shares its variables with the kernel, and a module must define each once.
    func = tvm.s_tir.renew_defs(func)
    func = func.with_attr({"global_symbol": name, "tirx.noalias": True, "s_tir": True})
    schedule = tvm.s_tir.Schedule(tvm.IRModule({name: func}))
    (block,) = schedule.get_child_blocks(schedule.get_sblock("root", name))
    schedule.unannotate(block, _PACKING_ANNOTATION)
    # Every element of the target is written once, so all loops are parallel and commute. Small tiles keep the
    # lines that are read and those that are written in the cache, whichever way the layout turns.
    outer, inner = [], []
    for loop in schedule.get_loops(block):
        tile = divisors(int(schedule.get(loop).extent), _TILE)[-1]
        outside, inside = schedule.split(loop, [None, tile])
        outer.append(outside)
        inner.append(inside)
    schedule.reorder(*outer, *inner)
    schedule.parallel(schedule.fuse(*outer))
    return schedule.mod[name]

"""The layout of operands that are copied, ahead of time or in each call: the order in which they are read.

MetaSchedule's `RewriteLayout` copies and lays out constants. It does so for none that is selected by an index from
memory, as by an expert's number; here all that it may be selected from is laid out, alike. And it takes the block that
pads a constant for a copy like its own, and would lay out the constant itself like the padded buffer, which has another
shape; here the padded buffer is laid out, and the padding is what is done ahead of time. What each call copies of
operands that are no constants (`operand_packing`) is laid out in the same way.

It is a postprocessor and not a pass of the pipeline: layouts are changed by schedule primitives, which the trace
records, so plain TVM lays out the same.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.ir.marks import LAID_OUT_AHEAD, PACKED
from reasoning_compiler.ir.walk import bindings, blocks, constants, parts_in, substituted
from reasoning_compiler.machine.toolchain import import_tvm

_THEIRS = "RewriteLayout"


def with_operand_layouts(postprocs: list[Any]) -> list[Any]:
    """Returns a target's postprocessors with one that knows all such copies in the place of `RewriteLayout`."""
    return [_operand_layouts(each) if type(each).__name__ == _THEIRS else each for each in postprocs]


def _operand_layouts(theirs: Any) -> Any:
    """Returns the postprocessor; it leaves the constants to MetaSchedule's where none is padded or selected.

    Args:
        theirs: `RewriteLayout`.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.postproc import PyPostproc

    @derived_object
    class OperandLayouts(PyPostproc):
        """Lays out constants, by primitives that stand in the trace."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            theirs._initialize_with_tune_context(context)

        def apply(self, sch: Any) -> bool:
            copied = _copy_constants(sch)
            _lay_out_copies(sch)
            return copied or theirs.apply(sch)

        def clone(self) -> Any:
            return _operand_layouts(theirs.clone())

    return OperandLayouts()


def _copy_constants(sch: Any) -> bool:
    """Copies a program's constants ahead of time where some are padded or selected; returns whether some are."""
    main = sch.mod["main"]
    known = constants(main)
    realizes = [realize for realize, _ in blocks(main.body)]
    padded = any(LAID_OUT_AHEAD in realize.block.annotations for realize in realizes)
    if not padded and not any(_selects(realize.block, constant) for realize in realizes for constant in known):
        return False
    for constant in known:
        readers = _readers(sch, constant)
        if len(readers) == 1 and LAID_OUT_AHEAD not in readers[0][0].annotations:
            block, position = readers[0]
            copy = sch.cache_read(sch.get_sblock(str(block.name_hint), "main"), position, "global")
            sch.annotate(copy, LAID_OUT_AHEAD, 1)
    return True


def _lay_out_copies(sch: Any) -> None:
    """Lays out what is copied, ahead of time or in each call, in the order in which it is read."""
    for realize, _ in blocks(sch.mod["main"].body):
        if LAID_OUT_AHEAD in realize.block.annotations or PACKED in realize.block.annotations:
            readers = _readers(sch, realize.block.writes[0].source)
            if len(readers) == 1:
                _lay_out(sch, *readers[0])


def _readers(sch: Any, buffer: Any) -> list[tuple[Any, int]]:
    """Returns the blocks that read a buffer, each with the position of it among the block's reads."""
    found = []
    for realize, loops in blocks(sch.mod["main"].body):
        if loops:
            reads = enumerate(realize.block.reads)
            found += [(realize.block, position) for position, read in reads if read.source.same_as(buffer)]
    return found


def _lay_out(sch: Any, block: Any, position: int) -> None:
    """Lays out what a block reads in the order of its loops, where that order is one."""
    tvm = import_tvm()
    from tvm.s_tir.schedule.analysis import suggest_index_map

    buffer = block.reads[position].source
    realize, loops = next(each for each in blocks(sch.mod["main"].body) if each[0].block.same_as(block))
    load = next(load for load in parts_in(block.body, tvm.ir.TensorLoad) if load.source.same_as(buffer))
    bound = bindings(realize)
    indices = [substituted(index, bound) for index in load.indices]
    selecting = [i for i, index in enumerate(indices) if type(index).__name__ == "TensorLoad"]
    walked = [i for i in range(len(indices)) if i not in selecting]
    one = tvm.tirx.decl_buffer([buffer.shape[i] for i in walked], buffer.dtype) if selecting else buffer
    layout = suggest_index_map(one, [indices[i] for i in walked], list(loops), realize.predicate)
    if layout is not None:
        sch.transform_layout(
            sch.get_sblock(str(block.name_hint), "main"),
            ("read", position),
            lambda *at: [*(at[i] for i in selecting), *layout.map_indices([at[i] for i in walked])],
        )


def _selects(block: Any, buffer: Any) -> bool:
    """Tells whether a block reads a buffer at an index that comes from memory."""
    regions = [region.region for region in block.reads if region.source.same_as(buffer)]
    return any(type(part.min).__name__ == "TensorLoad" for region in regions for part in region)

"""A postprocessor for vectors of one element, which TVM's lowering refuses: their loops become serial ones.

A rule that vectorizes a tile's innermost loop does not know its extent, which is a decision. No good program has such a
vector, but the plainest has, and others on the way to a good one.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.space.own_rules.joined_label import JOINED
from reasoning_compiler.space.own_rules.marks import STRUCTURE
from reasoning_compiler.space.walk import is_unit

_SERIAL, _VECTORIZED = 0, 2  # in TVM's ForKind


def single_lanes() -> Any:
    """Returns the postprocessor; it may be given to MetaSchedule, after its own."""
    tvm = import_tvm()
    import tvm_ffi
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.postproc import PyPostproc

    @derived_object
    class SingleLanes(PyPostproc):
        """Makes loops over one lane serial."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            pass

        def apply(self, sch: Any) -> bool:
            root = sch.mod["main"].body.block
            if any(_joins(inst) for inst in sch.trace.insts[:]):
                changed = tvm_ffi.structural_map(root, (tvm.tirx.For, _without_lane))
                sch.state.replace(sch.state.get_sref(root), changed, {root: changed})
            return True

        def clone(self) -> Any:
            return SingleLanes()

    return SingleLanes()


def _joins(inst: Any) -> bool:
    return inst.kind.name == "Annotate" and str(inst.attrs[0]) == STRUCTURE and str(inst.inputs[1]) == JOINED


def _without_lane(loop: Any) -> Any:
    if int(loop.kind) != _VECTORIZED or not is_unit(loop):
        return loop
    tvm = import_tvm()
    return tvm.tirx.For(
        loop.loop_var, loop.min, loop.extent, _SERIAL, loop.body, loop.thread_binding, loop.annotations, loop.step
    )

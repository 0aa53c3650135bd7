"""Calls of the C library's functions as arithmetic: a decision of the whole program, `vector math`.

A call of `exp` stays one call for each element, whatever the schedule; a softmax then costs more than the products
around it. As arithmetic it becomes vectors. The rule marks the root block with the decision's value, and the
postprocessor puts the expressions of `workload.vector_math` in place of calls on float32. So a program that has them is
compared with the kernel as it was written, calls and all, and a replay in plain TVM has the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.space.own_rules.marks import VECTOR_MATH
from reasoning_compiler.space.own_rules.rewriting import Annotations, replace_all
from reasoning_compiler.workload import vector_math as arithmetic

_ARITHMETIC: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": arithmetic.exp,
    "tirx.sigmoid": arithmetic.sigmoid,
    "tirx.tanh": arithmetic.tanh,
    "tirx.erf": arithmetic.erf,
}


def vector_math() -> Any:
    """Returns the rule: the decision `vector math`, 1 or 0, for functions with calls that can become arithmetic.

    It goes behind MetaSchedule's rules; see `mark_vector_math`.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.schedule_rule import PyScheduleRule

    @derived_object
    class VectorMath(PyScheduleRule):
        """Marks the root block."""

        on_cpu = False

        def _initialize_with_tune_context(self, context: Any) -> None:
            self.on_cpu = context.target.kind.name == "llvm"

        def apply(self, sch: Any, block: Any) -> list[Any]:
            if self.on_cpu and str(sch.get(block).name_hint) == "root":
                mark_vector_math(sch)
            return [sch]

        def clone(self) -> Any:
            return VectorMath()

    return VectorMath()


def mark_vector_math(sch: Any) -> None:
    """Makes the decision, where there is something to decide, and marks the root block with it.

    TVM shares statements between copies of a schedule and, once the root block of one has been changed, changes what
    is below in all of them. So this has to come after everything else that changes blocks.
    """
    tvm = import_tvm()
    import tvm_ffi

    root = sch.get_sblock("root", "main")
    calls: list[Any] = []
    tvm_ffi.structural_walk(sch.get(root).body, (tvm.ir.Call, calls.append))
    if any(_in_arithmetic(call) is not None for call in calls):
        sch.annotate(root, VECTOR_MATH, sch.sample_categorical([1, 0], [0.5, 0.5]))


def write_vector_math(sch: Any, annotations: Annotations) -> None:
    """Puts arithmetic in place of calls where the root block is marked; see `rewriting`."""
    if VECTOR_MATH in annotations and int(sch.mod["main"].body.block.annotations.get(VECTOR_MATH, 0)):
        replace_all(sch, import_tvm().ir.Call, _rewritten)


def _rewritten(call: Any) -> Any:
    made = _in_arithmetic(call)
    return call if made is None else made


def _in_arithmetic(call: Any) -> Any:
    """Returns what a call comes to in arithmetic; None for one that has to stay."""
    made = _ARITHMETIC.get(str(getattr(call.op, "name", "")))
    return made(call.args[0]) if made is not None and str(call.ty.dtype) == "float32" else None

"""Calls of the C library's functions as arithmetic: a decision of the whole program, `vector math`.

A call of `exp` stays one call for each element, whatever the schedule; a softmax then costs more than the products
around it. As arithmetic it becomes vectors. The rule marks the root block with the decision's value, and the
postprocessor puts the expressions of `workload.vector_math` in place of calls on float32. So a program that has them is
compared with the kernel as it was written, calls and all, and a replay in plain TVM has the calls.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.codegen.vector_math import in_arithmetic
from reasoning_compiler.ir.marks import VECTOR_MATH
from reasoning_compiler.machine.toolchain import import_tvm


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
    if any(in_arithmetic(call) is not None for call in calls):
        sch.annotate(root, VECTOR_MATH, sch.sample_categorical([1, 0], [0.5, 0.5]))

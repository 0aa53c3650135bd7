"""Calls of the C library's functions as arithmetic: a decision of the whole program, `vector math`.

A call of `exp` stays one call for each element, whatever the schedule; a softmax then costs more than the products
around it. As arithmetic it becomes vectors. The rule marks the root block with the decision's value, and code
generation puts the expressions of `workload.vector_math` in place of calls on float32. So a program that has them is
compared with the kernel as it was written, calls and all, and a replay in plain TVM has the calls.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.codegen.vector_math import in_arithmetic
from reasoning_compiler.ir.marks import VECTOR_MATH
from reasoning_compiler.ir.walk import parts_in
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.rule import Phase, Rule


class VectorMath(Rule):
    """Marks the root block with the decision `vector math`, 1 or 0, where calls can become arithmetic."""

    name, phase = "vector math", Phase.FINISH

    def settle(self, sch: Any, block: Any) -> None:
        """Makes the decision, where there is something to decide; see `Rule.settle`.

        TVM shares statements between copies of a schedule and, once the root block of one has been changed, changes
        what is below in all of them. So this has to come after everything else that changes blocks.
        """
        if self.kernel.unit is None or str(sch.get(block).name_hint) != "root":
            return
        if any(in_arithmetic(call) is not None for call in parts_in(sch.get(block).body, import_tvm().ir.Call)):
            sch.annotate(block, VECTOR_MATH, sch.sample_categorical([1, 0], [0.5, 0.5]))


RULE = VectorMath

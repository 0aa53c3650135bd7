"""The rule for what no other rule treats: independent loops run in parallel, those over neighbours as vectors.

Blocks inside blocks, blocks that read what they wrote, loops over time, loops whose length depends on the place or on
data, several blocks that write one buffer: TVM's primitives refuse them, and its postprocessor makes loops parallel
that carry a dependence. The rule closes their loops to it, and marks them for code generation, which changes the loops
that it shows to be independent (`ir/dependence.py`), with the decision `independent loops`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from reasoning_compiler.ir.irregular import irregular, names_inside
from reasoning_compiler.ir.marks import INDEPENDENT, SETTLED
from reasoning_compiler.rules.rule import Phase, Rule

_DEGREES = (2, 1, 0)  # see `INDEPENDENT`


class IndependentLoops(Rule):
    """Marks the nests of blocks that TVM's rules do not treat."""

    name, phase = "independent loops", Phase.FINISH

    def settle(self, sch: Any, block: Any) -> None:
        """Makes the decision, where there is something to decide; see `Rule.settle`."""
        if self.kernel.unit is None or str(sch.get(block).name_hint) != "root":
            return
        if not self._names:
            return
        found = [realize for realize in irregular(sch.mod["main"]) if str(realize.block.name_hint) in self._names]
        if not found:
            return
        degree = sch.sample_categorical(list(_DEGREES), [1 / len(_DEGREES)] * len(_DEGREES))
        closed: set[Any] = set()
        for realize in found:
            inside = sch.get_sblock(str(realize.block.name_hint), "main")
            loops = sch.get_loops(inside)
            for place, loop in enumerate(loops):
                variable = sch.get(loop).loop_var
                if variable not in closed:
                    sch.annotate(loop, SETTLED if place else INDEPENDENT, 1)
                    closed.add(variable)
            if not loops:
                sch.annotate(inside, INDEPENDENT, 1)
        sch.annotate(block, INDEPENDENT, degree)

    @cached_property
    def _names(self) -> set[str]:
        """Of the irregular blocks of the kernel as it is written, and of those inside."""
        return names_inside(irregular(self.kernel.mod["main"]))


RULE = IndependentLoops

"""A postprocessor for vectors of one element, which TVM's lowering refuses: their loops become serial ones.

A rule that vectorizes a tile's innermost loop does not know its extent, which is a decision. No good program has such a
vector, but the plainest has, and others on the way to a good one.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.codegen.rewriting import Annotations, replace_all
from reasoning_compiler.ir.joined_label import JOINED
from reasoning_compiler.ir.marks import STRUCTURE
from reasoning_compiler.ir.walk import is_unit
from reasoning_compiler.machine.toolchain import import_tvm

_SERIAL, _VECTORIZED = 0, 2  # in TVM's ForKind


def make_single_lanes_serial(sch: Any, annotations: Annotations) -> None:
    """Makes the loops of vectors of one element serial ones; see `rewriting`."""
    if JOINED in map(str, annotations.get(STRUCTURE, ())):
        replace_all(sch, import_tvm().tirx.For, _without_lane)


def _without_lane(loop: Any) -> Any:
    if int(loop.kind) != _VECTORIZED or not is_unit(loop):
        return loop
    tvm = import_tvm()
    return tvm.tirx.For(
        loop.loop_var, loop.min, loop.extent, _SERIAL, loop.body, loop.thread_binding, loop.annotations, loop.step
    )

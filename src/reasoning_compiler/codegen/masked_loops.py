"""Loops over blocks of keys that skip those which a mask leaves out for all their rows.

No schedule primitive bounds a loop by another one's variable. So a rule marks the loops with `SKIP_MASKED`, where the
program lets it (`masked_columns`), and here an `if` goes around their bodies. All loops that share a block of rows test
the same thing, so that what one of them has not written no other reads.
"""

from __future__ import annotations

import json
from typing import Any

from reasoning_compiler.ir.marks import SETTLED, SKIP_MASKED
from reasoning_compiler.ir.walk import annotations_in, bindings, mapped, parts_in, substituted, with_body
from reasoning_compiler.machine.toolchain import import_tvm

_PARALLEL = 1  # in TVM's ForKind


def with_masked_blocks_skipped(func: Any) -> Any:
    """Returns a scheduled PrimFunc with an `if` around the bodies of the marked loops."""
    if SKIP_MASKED not in annotations_in(func.body):
        return func
    tvm = import_tvm()
    conditions: dict[Any, Any] = {}
    whole = func.body.block.body
    for part in whole.seq if hasattr(whole, "seq") else [whole]:
        if type(part).__name__ == "For" and int(part.kind) == _PARALLEL and SETTLED in part.annotations:
            conditions |= _conditions(tvm, part)

    def guarded(loop: Any) -> Any:
        if SKIP_MASKED not in loop.annotations:
            return loop
        kept = {key: value for key, value in loop.annotations.items() if key != SKIP_MASKED}
        body = tvm.tirx.IfThenElse(conditions[loop.loop_var], loop.body, None)
        return with_body(loop, body, kept)

    return func.with_body(mapped(func.body, tvm.tirx.For, guarded))


def _conditions(tvm: Any, nest: Any) -> dict[Any, Any]:
    """Returns for each marked loop of a nest, by its variable, when its body may be needed.

    The rows are all those of one iteration of the nest's outermost loop.
    """
    analyzer = tvm.sym.Analyzer()
    inner = parts_in(nest.body, tvm.tirx.For)
    everywhere = {each.loop_var: tvm.sym.IntervalSet(each.min, each.min + each.extent - 1) for each in inner}
    found = {}
    for loop in inner:
        if SKIP_MASKED not in loop.annotations:
            continue
        access, row_dim, column_dim, first, last, *lanes = json.loads(str(loop.annotations[SKIP_MASKED]))
        row, column = _indices(tvm, loop, access, row_dim, column_dim, *lanes)
        below = {each.loop_var: everywhere[each.loop_var] for each in parts_in(loop.body, tvm.tirx.For)}
        rows, columns = analyzer.int_set(row, everywhere), analyzer.int_set(column, below)
        needed = []
        if last is not None:
            needed.append(columns.min_value <= rows.max_value + last)
        if first is not None:
            needed.append(columns.max_value >= rows.min_value + first)
        found[loop.loop_var] = analyzer.simplify(tvm.tirx.all(*needed))
    return found


def _indices(tvm: Any, loop: Any, access: int, row_dim: int, column_dim: int, lanes: int = 1) -> tuple[Any, Any]:
    """Returns row and column of an access in a loop's body, see `mark`, in loop variables."""
    realize = next(each for each in parts_in(loop.body, tvm.s_tir.SBlockRealize) if len(each.block.reads))
    written = realize.block.writes[0]
    others = [region for region in realize.block.reads if not region.source.same_as(written.source)]
    region = (written if access < 0 else others[access]).region
    bound = bindings(realize)
    column = region[column_dim].min if lanes == 1 else region[column_dim].min * lanes + region[column_dim + 1].min
    return substituted(region[row_dim].min, bound), substituted(column, bound)

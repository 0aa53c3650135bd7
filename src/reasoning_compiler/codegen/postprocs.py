"""Our postprocessor: it turns what our rules have marked into code."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.codegen.padded_layout import padded_layout
from reasoning_compiler.codegen.padded_reads import drop_padded_conditions
from reasoning_compiler.codegen.rewriting import rewriting
from reasoning_compiler.codegen.skip_masked import skip_masked
from reasoning_compiler.codegen.vector_math import write_vector_math

_OURS = (drop_padded_conditions, skip_masked, write_vector_math)
_LAYOUT = "RewriteLayout"


def with_own_postprocs(theirs: list[Any]) -> list[Any]:
    """Returns MetaSchedule's postprocessors and, behind them, ours, which leaves programs without marks as they are.

    In the place of `RewriteLayout` comes one that knows padded constants, too.

    Args:
        theirs: a target's own, in order.
    """
    known = [padded_layout(each) if type(each).__name__ == _LAYOUT else each for each in theirs]
    return [*known, rewriting(_OURS)]

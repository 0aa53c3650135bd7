"""Our postprocessors: they turn what our rules have marked into code."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.space.own_rules.skip_masked import skip_masked
from reasoning_compiler.space.own_rules.vector_math import write_vector_math

_OURS = (skip_masked, write_vector_math)


def own_postprocs() -> list[Any]:
    """Returns them in order; they come after MetaSchedule's own, and leave a program without marks as it is."""
    return [postproc() for postproc in _OURS]

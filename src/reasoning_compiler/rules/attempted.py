"""What our rules have in common that offer a block as it is, and changed: TVM may refuse the change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasoning_compiler.machine.toolchain import TVM_ERRORS


def attempted(sch: Any, change: Callable[..., None], *args: Any) -> Any | None:
    """Returns a changed copy of a schedule; None where something that only TVM sees keeps the block where it is.

    Args:
        sch: the schedule, which stays as it is.
        change: is given the copy, and what follows; may refuse by an error of the kinds in `TVM_ERRORS`.
    """
    changed = sch.copy()
    try:
        change(changed, *args)
    except TVM_ERRORS:
        return None
    return changed

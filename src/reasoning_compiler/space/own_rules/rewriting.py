"""What our postprocessors have in common: they rewrite programs that our rules have marked, and refuse none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm


def rewriting(rewrite: Callable[[Any], None]) -> Any:
    """Returns a postprocessor, which may be given to MetaSchedule, after its own.

    Args:
        rewrite: changes a schedule; one without its marks it leaves as it is.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.postproc import PyPostproc

    @derived_object
    class Rewriting(PyPostproc):
        """Rewrites a program."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            pass

        def apply(self, sch: Any) -> bool:
            rewrite(sch)
            return True

        def clone(self) -> Any:
            return rewriting(rewrite)

    return Rewriting()


def notes(sch: Any, name: str) -> list[str]:
    """Returns the values of all annotations of a name in a schedule's trace."""
    annotations = (inst for inst in sch.trace.insts[:] if inst.kind.name == "Annotate")
    return [str(inst.inputs[1]) for inst in annotations if str(inst.attrs[0]) == name]


def replace_all(sch: Any, kind: Any, change: Callable[[Any], Any]) -> None:
    """Puts what `change` returns into the place of each node of a kind.

    At once: TVM would change single blocks in all copies of the schedule (see `vector_math.mark_vector_math`).
    """
    import tvm_ffi

    root = sch.mod["main"].body.block
    changed = tvm_ffi.structural_map(root, (kind, change))
    sch.state.replace(sch.state.get_sref(root), changed, {root: changed})

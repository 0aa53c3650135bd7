"""What our postprocessors have in common: they rewrite programs that our rules have marked, and refuse none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm

Annotations = Mapping[str, Sequence[Any]]
"""The values of all annotations in a schedule's trace, by their names: what its blocks and loops may be marked with."""

Rewrite = Callable[[Any, Annotations], None]
"""Changes a schedule in place; one without its marks it leaves as it is."""


def rewriting(rewrites: Sequence[Rewrite]) -> Any:
    """Returns a postprocessor, which may be given to MetaSchedule, after its own; it makes these changes in turn."""
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.postproc import PyPostproc

    @derived_object
    class Rewriting(PyPostproc):
        """Rewrites programs."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            pass

        def apply(self, sch: Any) -> bool:
            annotations = _annotations(sch)
            for rewrite in rewrites:
                rewrite(sch, annotations)
            return True

        def clone(self) -> Any:
            return rewriting(rewrites)

    return Rewriting()


def _annotations(sch: Any) -> Annotations:
    found: dict[str, list[Any]] = {}
    for inst in sch.trace.insts[:]:
        if inst.kind.name == "Annotate":
            found.setdefault(str(inst.attrs[0]), []).append(inst.inputs[1])
    return found


def replace_all(sch: Any, kind: Any, change: Callable[[Any], Any]) -> None:
    """Puts what `change` returns into the place of each node of a kind.

    At once: TVM would change single blocks in all copies of the schedule (see `vector_math.mark_vector_math`).
    """
    import tvm_ffi

    root = sch.mod["main"].body.block
    changed = tvm_ffi.structural_map(root, (kind, change))
    sch.state.replace(sch.state.get_sref(root), changed, {root: changed})

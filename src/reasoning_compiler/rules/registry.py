"""Our own schedule rules, beside MetaSchedule's: ordinary ones, which any search can use."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.codegen.postprocs import with_own_postprocs
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.dot_products import dot_products
from reasoning_compiler.rules.fused_attention import fused_attention
from reasoning_compiler.rules.operand_packing import operand_packing
from reasoning_compiler.rules.packed_contraction import packed_contraction
from reasoning_compiler.rules.padded_contraction import padded_contraction
from reasoning_compiler.rules.vector_math import vector_math

_JOBS_PER_CORE = (16, 8, 4, 2, 1)
_PARALLEL = "meta_schedule.parallel"
_CORES_CACHES_BYTES = 1 << 20  # a usual second-level cache


def with_own_rules(theirs: list[Any], *, stream_bytes: int = _CORES_CACHES_BYTES) -> list[Any]:
    """Returns our own rules among MetaSchedule's, which leave alone what ours have settled before them.

    Args:
        theirs: what `rules_of` returns.
        stream_bytes: a constant that is larger may be prefetched; what a core's caches hold.
    """
    tiling = next((i for i, rule in enumerate(theirs) if "MultiLevelTiling" in type(rule).__name__), len(theirs))
    first = [fused_attention(), dot_products(stream_bytes)]
    contractions = [padded_contraction(), operand_packing(), packed_contraction(stream_bytes)]
    return [*first, *theirs[:tiling], *contractions, *theirs[tiling:], vector_math()]


def rules_of(mod: Any, target: Any) -> list[Any]:
    """Returns the schedule rules that MetaSchedule has for a target."""
    return list(_their_generator(mod, target).sch_rules)


def space_generator(mod: Any, target: Any, *, rules: list[Any]) -> Any:
    """Returns MetaSchedule's generator of a space with our rules, for `ms.tune_tir(..., space=...)`.

    What our postprocessors change is in the measured programs and not in their traces: a database that such a search
    fills names the right decisions, but replaying a trace of it leaves, say, `exp` a call.

    Args:
        mod: an IRModule with one PrimFunc `main`.
        target: the TVM target.
        rules: of `with_own_rules`.
    """
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    postprocs = with_own_postprocs(list(_their_generator(mod, target).postprocs))
    return ms.space_generator.PostOrderApply(sch_rules=rules, postprocs=postprocs)


def _their_generator(mod: Any, target: Any) -> Any:
    import_tvm()
    from tvm.s_tir import meta_schedule as ms

    return ms.TuneContext(mod=mod, target=target, space_generator="post-order-apply", num_threads=1).space_generator


def parallel_jobs(num_cores: int) -> Any:
    """Returns a rule that makes the number of parallel jobs a decision, `parallel`.

    MetaSchedule fixes it at 16 jobs per core when it generates a sketch, and only its mutator `MutateParallel`
    changes it afterwards. As a sampled decision it can be proposed, shown and replayed like any other. The rule
    goes behind `ParallelizeVectorizeUnroll`.

    Args:
        num_cores: of the machine; the choices are 16, 8, 4, 2 and 1 times as many jobs, and none.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.schedule_rule import PyScheduleRule

    candidates = [jobs * num_cores for jobs in _JOBS_PER_CORE] + [1]

    @derived_object
    class ParallelJobs(PyScheduleRule):
        """Replaces the fixed number of jobs by a sampled one."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            pass

        def apply(self, sch: Any, block: Any) -> list[Any]:
            if _PARALLEL in sch.get(block).annotations:
                sch.unannotate(block, _PARALLEL)
                jobs = sch.sample_categorical(candidates, [1 / len(candidates)] * len(candidates))
                sch.annotate(block, _PARALLEL, jobs)
            return [sch]

        def clone(self) -> Any:
            return ParallelJobs()

    return ParallelJobs()

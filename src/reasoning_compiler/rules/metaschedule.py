"""TVM's MetaSchedule: its own rules as ours, and ours as its own.

Its rules return schedules and say nothing of them. What there is to know of an alternative is read here, and nowhere
else, from the instructions that it has and others have not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoning_compiler.codegen.operand_layouts import with_operand_layouts
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.ir.marks import NO_RULES
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm, last_line
from reasoning_compiler.rules.rule import AS_WRITTEN, Kernel, Offer, Phase, Rule, unique

_NAMES = {
    "MultiLevelTiling": "tiling",
    "MultiLevelTilingWithIntrin": "intrinsic tiling",
    "MultiLevelTilingWideVector": "wide-vector tiling",
    "MultiLevelTilingTensorCore": "tensor-core tiling",
    "AddRFactor": "reduction",
    "CrossThreadReduction": "cross-thread reduction",
    "AutoInline": "inlining",
}
_INTRINSIC = "meta_schedule.auto_tensorize"
_PARALLEL = "meta_schedule.parallel"
_MAX_INNERMOST, _JOBS_PER_CORE = 64, 16  # as its rules for CPUs have it
_OPEN_JOBS_PER_CORE = (16, 8, 4, 2, 1)
_SMALL_UNROLLS = (0, 16, 64)  # without its 512, with which an attention takes half a minute to build


class MetaSchedule:
    """MetaSchedule's rules and postprocessors for a module and target.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        target: the TVM target, of any kind that MetaSchedule has rules for.

    Attributes:
        mod: the module as MetaSchedule takes it.
        postprocs: MetaSchedule's, and ours among them.

    Raises:
        UsageError: MetaSchedule has no rules for this kind of target, or the target lacks an attribute.
    """

    def __init__(self, mod: Any, target: Any) -> None:
        import_tvm()
        from tvm.s_tir import meta_schedule as ms

        try:
            with target:  # some rules ask for the current target
                # The context hands target and module to the rules and postprocessors, so it has to outlive them.
                self.context = ms.TuneContext(
                    mod=mod, target=target, space_generator="post-order-apply", num_threads=1, rand_state=1
                )
        except TVM_ERRORS as error:
            kind = target.kind.name
            raise UsageError(f"MetaSchedule cannot schedule for this `{kind}` target: {last_line(error)}") from error
        self.mod = self.context.mod
        postprocs = list(self.context.space_generator.postprocs)
        if target.kind.name == "llvm":  # a CPU takes loops of any length
            postprocs = [each for each in postprocs if type(each).__name__ != "DisallowDynamicLoop"]
        self.postprocs = with_operand_layouts(postprocs)

    def rules(self, kernel: Kernel) -> list[Rule]:
        """Returns its rules in its own order."""
        theirs = list(self.context.space_generator.sch_rules)
        tiling = next((i for i, rule in enumerate(theirs) if "MultiLevelTiling" in type(rule).__name__), len(theirs))
        phases = [Phase.INLINE] * tiling + [Phase.TILE] * (len(theirs) - tiling)
        return [_Theirs(kernel, self, rule, phase) for rule, phase in zip(theirs, phases, strict=True)]

    def coarse_rules(self, kernel: Kernel, tiling: str) -> list[Rule]:
        """Returns its rules with another tiling structure, and without those that multiply structures.

        Args:
            kernel: what is scheduled.
            tiling: as "SSRSRS"; the result may be cached after its first level.
        """
        from tvm.s_tir.meta_schedule import schedule_rule as sr

        rules = []
        for rule in self.rules(kernel):
            assert isinstance(rule, _Theirs)
            theirs, kind = rule.theirs, type(rule.theirs).__name__
            if kind == "MultiLevelTiling":
                reuse = sr.ReuseType("may", [1], "global")
                theirs = sr.MultiLevelTiling(tiling, max_innermost_factor=_MAX_INNERMOST, reuse_write=reuse)
            elif kind == "ParallelizeVectorizeUnroll":
                theirs = sr.ParallelizeVectorizeUnroll(
                    max_jobs_per_core=_JOBS_PER_CORE,
                    max_vectorize_extent=_MAX_INNERMOST,
                    unroll_max_steps=list(_SMALL_UNROLLS),
                    unroll_explicit=True,
                )
            if not kind.startswith(("MultiLevelTilingW", "AddRFactor")):
                theirs._initialize_with_tune_context(self.context)
                rules.append(_Theirs(kernel, self, theirs, rule.phase))
        return rules


def as_schedule_rule(rule: Rule) -> Any:
    """Returns a rule as one of MetaSchedule's, for a `PostOrderApply` of the kernel that the rule was made for."""
    if isinstance(rule, _Theirs):
        return rule.theirs
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.schedule_rule import PyScheduleRule

    @derived_object
    class OwnRule(PyScheduleRule):
        """Returns the schedules of a rule's alternatives."""

        def _initialize_with_tune_context(self, context: Any) -> None:
            pass

        def apply(self, sch: Any, block: Any) -> list[Any]:
            return [offer.schedule for offer in rule.alternatives(sch, block)]

        def clone(self) -> Any:
            return OwnRule()

    return OwnRule()


def space_generator(mod: Any, target: Any, *, rules: Sequence[Rule]) -> Any:
    """Returns MetaSchedule's generator of a space with these rules, for `ms.tune_tir(..., space=...)`.

    What annotations ask of the code generator is in the measured code and not in the traces: where plain TVM builds a
    program of such a search's database, it leaves, say, `exp` a call. `codegen.compile` builds what was measured.

    Args:
        mod: an IRModule with one PrimFunc `main`.
        target: the TVM target.
        rules: of `discovery.rules_for`, for the same module and target.
    """
    theirs = MetaSchedule(mod, target)
    from tvm.s_tir import meta_schedule as ms

    return ms.space_generator.PostOrderApply(sch_rules=[as_schedule_rule(r) for r in rules], postprocs=theirs.postprocs)


class OpenJobs(Rule):
    """The number of parallel jobs as a decision of the whole program, as in the paper's search.

    MetaSchedule fixes it at 16 jobs per core when it generates a sketch, and only its mutator `MutateParallel` changes
    it afterwards. As a sampled decision it can be proposed, shown and replayed like any other.
    """

    name, phase = "parallel jobs", Phase.FINISH

    def settle(self, sch: Any, block: Any) -> None:
        """Replaces the fixed number of jobs by a sampled one; see `Rule.settle`."""
        if _PARALLEL in sch.get(block).annotations:
            num_cores = int(self.kernel.target.attrs["num-cores"])
            candidates = [jobs * num_cores for jobs in _OPEN_JOBS_PER_CORE] + [1]
            sch.unannotate(block, _PARALLEL)
            jobs = sch.sample_categorical(candidates, [1 / len(candidates)] * len(candidates))
            sch.annotate(block, _PARALLEL, jobs)


class _Theirs(Rule):
    """One of MetaSchedule's rules.

    Args:
        kernel: what is scheduled.
        owner: keeps the rule's context alive.
        theirs: the rule.
        phase: before its tiling, or from there on.
    """

    def __init__(self, kernel: Kernel, owner: MetaSchedule, theirs: Any, phase: Phase) -> None:
        super().__init__(kernel)
        self._owner, self.theirs, self.phase = owner, theirs, phase
        self._kind = type(theirs).__name__
        self.name = _NAMES.get(self._kind, self._kind)
        self.heeds_marks = self._kind != "ApplyCustomRule"

    def alternatives(self, sch: Any, block: Any) -> list[Offer]:
        """Returns what the rule returns; see `Rule.alternatives`."""
        options = self._options(sch, block) or [sch]
        return [Offer(sch)] if options == [sch] else _told(sch, options)

    def _options(self, sch: Any, block: Any) -> list[Any]:
        if self._kind == "ApplyCustomRule" and self._lacks_custom_rule(sch, block):
            plain = sch.copy()
            plain.unannotate(block, NO_RULES)  # as TVM does, which warns of it once a schedule
            return [plain]
        # A rule of TVM's may fail on a valid module, and MetaSchedule then loses the whole space; here only the block
        # loses the rule, or what of it fails.
        options = _try(self.theirs, sch, block)
        if options and self._kind == "MultiLevelTilingWithIntrin" and not _takes_intrinsic(sch, options[0]):
            return []
        if options is None:
            options = [option for part in self._parts() for option in _try(part, sch, block) or []]
        return options

    def _lacks_custom_rule(self, sch: Any, block: Any) -> bool:
        """Tells whether a block asks for a rule of its own that TVM does not have, as topi's pooling does."""
        import tvm_ffi

        name = sch.get(block).annotations.get(NO_RULES)
        if name in (None, "None"):
            return False
        keys = self.kernel.target.keys
        return all(tvm_ffi.get_global_func(f"s_tir.meta_schedule.{k}.{name}", allow_missing=True) is None for k in keys)

    def _parts(self) -> list[Any]:
        """Returns rules that together offer what a failing rule should, one alternative or two each; none if unknown.

        Multi-level tiling takes an elementwise consumer for a cache to write through, also one that has a second
        producer and therefore cannot move. Without that idea it tiles.
        """
        from tvm.s_tir.meta_schedule import schedule_rule as sr

        rule = self.theirs
        if type(rule) is not sr.MultiLevelTiling or rule.tile_binds:
            return []
        cached = sr.ReuseType(req="must", levels=[1, 2], scope="global")  # as in TVM's CPU rules
        parts = [
            sr.MultiLevelTiling(rule.structure, max_innermost_factor=rule.max_innermost_factor, reuse_write=reuse)
            for reuse in (None, cached)
        ]
        for part in parts:
            part._initialize_with_tune_context(self._owner.context)
        return parts


def _try(rule: Any, sch: Any, block: Any) -> list[Any] | None:
    try:
        return list(rule.apply(sch.copy(), block))
    except TVM_ERRORS:
        return None


def _takes_intrinsic(base: Any, option: Any) -> bool:
    """Returns whether a block lays out its operands as the intrinsic does that a rule has tiled it for.

    The rule looks at the loops alone. The postprocessor would then leave the loops of the intrinsic as they are.
    """
    for inst in list(option.trace.insts)[len(base.trace.insts) :]:
        if inst.kind.name == "Annotate" and str(inst.attrs[0]) == _INTRINSIC:
            intrinsic = import_tvm().s_tir.TensorIntrin.get(inst.inputs[1])
            return _layouts(option.get(inst.inputs[0]).body) == _layouts(intrinsic.desc.body.block.body)
    return True


def _layouts(stmt: Any) -> list[tuple[int, ...]]:
    """Returns for each operand of the first block in `stmt` which of the block's loops its dimensions follow."""
    while not hasattr(stmt, "block"):
        stmt = stmt.body
    loops = {iter_var.var: index for index, iter_var in enumerate(stmt.block.iter_vars)}
    written = {region.source for region in stmt.block.writes}
    operands = [*stmt.block.writes, *(region for region in stmt.block.reads if region.source not in written)]
    used = [[import_tvm().tirx.analysis.undefined_vars(dim.min) for dim in op.region] for op in operands]
    return [tuple(loops[v] for dim in op for v in dim if v in loops) for op in used]


# -- what an alternative does, in words -------------------------------------------------------------------------------


def _told(base: Any, options: list[Any]) -> list[Offer]:
    """Returns alternatives with short, distinct labels: what of their instructions not all of them have."""
    skip = len(base.trace.insts)
    added = [list(option.trace.insts)[skip:] for option in options]
    words = [_words(option, insts) for option, insts in zip(options, added, strict=True)]
    shared = set(words[0]).intersection(*words)
    offers: list[Offer] = []
    for option, insts, own in zip(options, added, words, strict=True):
        told = [word for word in own if word not in shared]
        is_plain = not told
        if is_plain:
            told = ["direct" if any(inst.kind.name == "Split" for inst in insts) else AS_WRITTEN]
        label = " + ".join([*_intrinsics(insts), *told])
        offers.append(Offer(option, unique(label, [offer.label for offer in offers]), is_plain=is_plain))
    return offers


def _words(option: Any, instructions: list[Any]) -> list[str]:
    kinds = [inst.kind.name for inst in instructions]
    words: list[str] = []
    if "RFactor" in kinds:
        words.append(f"rfactor over the {_rfactor_side(instructions)} part")
    if "CacheRead" in kinds:
        words.append("operands cached")
    moved = next((inst for inst in instructions if inst.kind.name == "ReverseComputeAt"), None)
    if moved is not None:
        what = "result cached and written back" if "CacheWrite" in kinds else "consumer fused"
        words.append(f"{what} in loop {_loop_name(option, moved.inputs[1])}")
    elif "CacheWrite" in kinds:
        words.append("result cached")
    if not words and ("ComputeInline" in kinds or "ReverseComputeInline" in kinds):
        words.append("inlined")
    if not words and "Bind" in kinds:
        words.append("across threads")
    for inst in instructions:
        if inst.kind.name == "Annotate" and str(inst.attrs[0]) == "software_pipeline_stage":
            words.append(f"software pipeline of stages {' '.join(str(stage) for stage in inst.inputs[1])}")
    return words


def _intrinsics(instructions: list[Any]) -> list[str]:
    """Returns the tensor intrinsic of an alternative, the one that computes, if it has one."""
    names = (inst for inst in instructions if inst.kind.name == "Annotate")
    return [str(inst.inputs[1]) for inst in names if str(inst.attrs[0]) == _INTRINSIC][:1]


def _loop_name(sch: Any, loop: Any) -> str:
    try:
        return str(sch.get(loop).loop_var.name)
    except TVM_ERRORS:
        return "that is gone"


def _rfactor_side(instructions: list[Any]) -> str:
    loop = next(inst.inputs[0] for inst in instructions if inst.kind.name == "RFactor")
    for inst in instructions:
        if inst.kind.name == "Split" and loop in list(inst.outputs):
            return "outer" if inst.outputs[0] == loop else "inner"
    return "reduced"

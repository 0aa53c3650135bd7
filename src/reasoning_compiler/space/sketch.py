"""Sketches: program structures as MetaSchedule's rules generate them, one choice per block, made when asked for.

MetaSchedule's `PostOrderApply` multiplies the alternatives that its rules return for each block into one flat list
(attention with softmax: 81 sketches). Here each point at which a rule returns alternatives is a *site*, named after
its block and rule; a sketch is one alternative for every site. Walking the rules once with the wanted alternatives
makes that sketch and no other, so the cost is the number of blocks, not the product of their alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reasoning_compiler.codegen.intrinsics import mend_vnni_intrinsic
from reasoning_compiler.codegen.postprocs import with_own_postprocs
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.programs import ChoiceDomain
from reasoning_compiler.ir.marks import NO_RULES, PACKED, PADDED, STRUCTURE
from reasoning_compiler.ir.walk import blocks
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm, last_line

CONTRACTION = "contraction"
"""What the site is called at which `rules/packed_contraction.py` gives a block its choice."""

INSTRUCTION = "instruction"
"""What that of `rules/dot_products.py` is called."""

PACKING = "packing"
"""What that of `rules/operand_packing.py` is called."""

PADDING = "padding"
"""What that of `rules/padded_contraction.py` is called."""

_SITE_WORDS = {
    "MultiLevelTiling": "tiling",
    "MultiLevelTilingWithIntrin": "intrinsic tiling",
    "MultiLevelTilingWideVector": "wide-vector tiling",
    "MultiLevelTilingTensorCore": "tensor-core tiling",
    "AddRFactor": "reduction",
    "CrossThreadReduction": "cross-thread reduction",
    "AutoInline": "inlining",
    "PackedContraction": CONTRACTION,
    "DotProducts": INSTRUCTION,
    "OperandPacking": PACKING,
    "PaddedContraction": PADDING,
    "FusedAttention": "fusion",
}
_INTRINSIC = "meta_schedule.auto_tensorize"
_PLAIN = ("direct", "as written")
_ONLY_SITE = ("schedule", "by the rules")  # where the rules leave nothing open, and yet change the program


@dataclass(frozen=True)
class Sketch:
    """A program structure with open decisions.

    Args:
        structure: (site, alternative) pairs, in the order in which the rules meet the sites.
        alternatives: what each site offers, in the same order.
        trace: the schedule instructions; their sampling decisions are to be replaced.
    """

    structure: tuple[tuple[str, str], ...]
    alternatives: tuple[tuple[str, ChoiceDomain], ...]
    trace: Any  # tvm.s_tir.schedule.Trace


class _Fork:
    """Where the rules leave a choice, or, with one option and no site, where they have come to their end.

    Sketches with the same choices up to a fork share the way there.

    Args:
        step: the position of what offers the choice, see `SketchGenerator._go_on`.
        options: a schedule for each alternative.
        site: the choice's name.
        labels: of the alternatives.

    Attributes:
        next: by label, the fork after it, as far as anybody has gone there.
    """

    def __init__(self, step: int, options: list[Any], site: str = "", labels: tuple[str, ...] = ()) -> None:
        self.step, self.options, self.site, self.labels = step, options, site, labels
        self.next: dict[str, _Fork] = {}
        # Options share statements, and TVM would change those that nobody else holds in all of them.
        self._held = [list(blocks(option.mod["main"].body)) for option in options]


class SketchGenerator:
    """Makes the sketches of one module for one target, on demand.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        target: the TVM target, of any kind that MetaSchedule has rules for.
        rules: MetaSchedule schedule rules; None for the target's own.

    Raises:
        UsageError: MetaSchedule has no rules for this kind of target, or the target lacks an attribute.
    """

    def __init__(self, mod: Any, target: Any, *, rules: list[Any] | None = None) -> None:
        tvm = import_tvm()
        from tvm.s_tir import meta_schedule as ms

        mend_vnni_intrinsic()
        generator = ms.space_generator.PostOrderApply(sch_rules="from-target" if rules is None else rules)
        try:
            with target:  # some rules ask for the current target
                # The context hands target and module to the rules and postprocessors, so it has to outlive them.
                self._context = ms.TuneContext(
                    mod=mod, target=target, space_generator=generator, num_threads=1, rand_state=1
                )
        except TVM_ERRORS as error:
            kind = target.kind.name
            raise UsageError(f"MetaSchedule cannot schedule for this `{kind}` target: {last_line(error)}") from error
        self._tvm, self._ms = tvm, ms
        self.mod = self._context.mod
        self.postprocs = with_own_postprocs(list(self._context.space_generator.postprocs))
        self._rules = list(self._context.space_generator.sch_rules)
        self._rule_names = [type(rule).__name__ for rule in rules or self._rules]  # TVM forgets those of Python's
        self._blocks = _block_names(self.mod)
        self._made: dict[tuple[tuple[str, str], ...], Sketch] = {}

    def make(self, wanted: Mapping[str, str]) -> Sketch:
        """Returns the sketch with the wanted alternative at each site.

        A site that `wanted` leaves out, or whose wanted alternative is not on offer (it may depend on the sites
        before it), takes its plainest one; the result's `structure` says what was taken.
        """
        key = tuple(wanted.items())
        if key not in self._made:
            sketch = self._walk(wanted)
            self._made[key] = self._made.setdefault(sketch.structure, sketch)
        return self._made[key]

    def _walk(self, wanted: Mapping[str, str]) -> Sketch:
        alternatives: list[tuple[str, ChoiceDomain]] = []
        structure: list[tuple[str, str]] = []
        fork = self._first
        while fork.site:
            choice = wanted.get(fork.site)
            if choice not in fork.labels:
                plain = (label for label in fork.labels if label.split(" + ")[-1] in _PLAIN)
                choice = next(plain, fork.labels[0])
            alternatives.append((fork.site, ChoiceDomain(fork.labels)))
            structure.append((fork.site, choice))
            if choice not in fork.next:
                taken = [site for site, _ in structure]
                fork.next[choice] = self._go_on(fork.options[fork.labels.index(choice)], fork.step + 1, taken)
            fork = fork.next[choice]
        trace = fork.options[0].trace
        kinds = {inst.kind.name for inst in trace.insts}
        if not structure and kinds > {"GetSBlock"} and not any(kind.startswith("Sample") for kind in kinds):
            site, choice = _ONLY_SITE
            alternatives, structure = [(site, ChoiceDomain((choice,)))], [(site, choice)]
        return Sketch(tuple(structure), tuple(alternatives), trace)

    @cached_property
    def _first(self) -> _Fork:
        sch = self._tvm.s_tir.Schedule(self.mod, seed=1, debug_mask="none", error_render_level="fast")
        found = [sch.get_sblock(name, "main") for name in self._blocks]
        named = zip(self._rules, self._rule_names, strict=True)
        self._steps = [(rule, name, block) for rule, name in named for block in reversed(found)]
        return self._go_on(sch, 0, [])

    def _go_on(self, sch: Any, step: int, taken: list[str]) -> _Fork:
        """Returns the first fork from a step on, of those that each apply one rule to one block.

        Args:
            sch: what the steps before have made.
            step: its position.
            taken: names of the sites before.
        """
        for position, (rule, rule_name, block) in enumerate(self._steps[step:], step):
            name = _name_of(sch, block)
            if name is None or (rule_name != "ApplyCustomRule" and _has_custom_rule(sch, block)):
                continue
            options = self._apply(rule, sch, block)
            if len(options) == 1:
                sch = options[0]
                continue
            site = unique(f"{name} {_SITE_WORDS.get(rule_name, rule_name)}", taken)
            return _Fork(position, options, site, tuple(_labels(sch, options)))
        return _Fork(len(self._steps), [sch])

    def _apply(self, rule: Any, sch: Any, block: Any) -> list[Any]:
        kind = type(rule).__name__
        if kind == "_PyScheduleRule":
            return list(rule.apply(sch.copy(), block)) or [sch]
        if kind == "ApplyCustomRule" and self._lacks_custom_rule(sch, block):
            plain = sch.copy()
            plain.unannotate(block, NO_RULES)  # as TVM does, which warns of it once a schedule
            return [plain]
        # A rule of TVM's may fail on a valid module, and MetaSchedule then loses the whole space; here only the block
        # loses the rule, or what of it fails.
        options = self._try(rule, sch, block)
        if options and kind == "MultiLevelTilingWithIntrin" and not self._takes_intrinsic(sch, options[0]):
            return [sch]
        if options is None:
            options = [option for part in self._parts_of(rule) for option in self._try(part, sch, block) or []]
        return options or [sch]

    def _lacks_custom_rule(self, sch: Any, block: Any) -> bool:
        """Tells whether a block asks for a rule of its own that TVM does not have, as topi's pooling does."""
        import tvm_ffi

        name = sch.get(block).annotations.get(NO_RULES)
        if name in (None, "None"):
            return False
        keys = self._context.target.keys
        return all(tvm_ffi.get_global_func(f"s_tir.meta_schedule.{k}.{name}", allow_missing=True) is None for k in keys)

    def _try(self, rule: Any, sch: Any, block: Any) -> list[Any] | None:
        try:
            return list(rule.apply(sch.copy(), block))
        except TVM_ERRORS:
            return None

    def _takes_intrinsic(self, base: Any, option: Any) -> bool:
        """Returns whether a block lays out its operands as the intrinsic does that a rule has tiled it for.

        The rule looks at the loops alone. The postprocessor would then leave the loops of the intrinsic as they are.
        """
        for inst in list(option.trace.insts)[len(base.trace.insts) :]:
            if inst.kind.name == "Annotate" and str(inst.attrs[0]) == _INTRINSIC:
                intrinsic = self._tvm.s_tir.TensorIntrin.get(inst.inputs[1])
                return self._layouts(option.get(inst.inputs[0]).body) == self._layouts(intrinsic.desc.body.block.body)
        return True

    def _layouts(self, stmt: Any) -> list[tuple[int, ...]]:
        """Returns for each operand of the first block in `stmt` which of the block's loops its dimensions follow."""
        while not hasattr(stmt, "block"):
            stmt = stmt.body
        loops = {iter_var.var: index for index, iter_var in enumerate(stmt.block.iter_vars)}
        written = {region.source for region in stmt.block.writes}
        operands = [*stmt.block.writes, *(region for region in stmt.block.reads if region.source not in written)]
        used = [[self._tvm.tirx.analysis.undefined_vars(dim.min) for dim in op.region] for op in operands]
        return [tuple(loops[v] for dim in op for v in dim if v in loops) for op in used]

    def _parts_of(self, rule: Any) -> list[Any]:
        """Returns rules that together offer what a failing rule should, one alternative or two each; none if unknown.

        Multi-level tiling takes an elementwise consumer for a cache to write through, also one that has a second
        producer and therefore cannot move. Without that idea it tiles.
        """
        tiling = self._ms.schedule_rule.MultiLevelTiling
        if type(rule) is not tiling or rule.tile_binds:
            return []
        cached = self._ms.schedule_rule.ReuseType(req="must", levels=[1, 2], scope="global")  # as in TVM's CPU rules
        parts = [
            tiling(rule.structure, max_innermost_factor=rule.max_innermost_factor, reuse_write=reuse)
            for reuse in (None, cached)
        ]
        for part in parts:
            part._initialize_with_tune_context(self._context)
        return parts


def unique(name: str, taken: list[str]) -> str:
    """Returns the name, with a number after it if it is taken."""
    number = 2
    candidate = name
    while candidate in taken:
        candidate, number = f"{name} {number}", number + 1
    return candidate


def _block_names(mod: Any) -> list[str]:
    """Returns the names of all blocks in post order, the root last, as MetaSchedule visits them."""
    tvm = import_tvm()
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(mod["main"].body, (tvm.s_tir.SBlock, found.append), order="post")
    return [str(block.name_hint) for block in found]


def _name_of(sch: Any, block: Any) -> str | None:
    """Returns the block's name, or None if an earlier rule removed it (inlined it, say)."""
    try:
        return str(sch.get(block).name_hint)
    except TVM_ERRORS:
        return None


def _has_custom_rule(sch: Any, block: Any) -> bool:
    return NO_RULES in sch.get(block).annotations


# -- words for alternatives ---------------------------------------------------------------------------------------


def _labels(base: Any, options: list[Any]) -> list[str]:
    """Returns one short, distinct description per alternative: what of its instructions not all of them have."""
    skip = len(base.trace.insts)
    added = [list(option.trace.insts)[skip:] for option in options]
    words = [_words(option, insts) for option, insts in zip(options, added, strict=True)]
    shared = set(words[0]).intersection(*words)
    labels: list[str] = []
    for insts, own in zip(added, words, strict=True):
        told = [word for word in own if word not in shared]
        if not told:
            told = ["direct" if any(inst.kind.name == "Split" for inst in insts) else "as written"]
        labels.append(unique(" + ".join([*_intrinsics(insts), *told]), labels))
    return labels


def _words(option: Any, instructions: list[Any]) -> list[str]:
    kinds = [inst.kind.name for inst in instructions]
    notes = (inst for inst in instructions if inst.kind.name == "Annotate")
    told = [inst for inst in notes if str(inst.attrs[0]) in (PACKED, PADDED, STRUCTURE)]
    if told:
        return [str(inst.inputs[1]) for inst in told]
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

"""Sketches: program structures as MetaSchedule's rules generate them, one choice per block, made when asked for.

MetaSchedule's `PostOrderApply` multiplies the alternatives that its rules return for each block into one flat list
(attention with softmax: 81 sketches). Here each point at which a rule returns alternatives is a *site*, named after
its block and rule; a sketch is one alternative for every site. Walking the rules once with the wanted alternatives
makes that sketch and no other, so the cost is the number of blocks, not the product of their alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.records import ChoiceDomain

_SITE_WORDS = {
    "MultiLevelTiling": "tiling",
    "MultiLevelTilingWithIntrin": "intrinsic tiling",
    "MultiLevelTilingWideVector": "wide-vector tiling",
    "MultiLevelTilingTensorCore": "tensor-core tiling",
    "AddRFactor": "reduction",
    "CrossThreadReduction": "cross-thread reduction",
    "AutoInline": "inlining",
}
_PLAIN = ("direct", "as written")


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


class SketchGenerator:
    """Makes the sketches of one module for one target, on demand.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        target: the TVM target, of any kind that MetaSchedule has rules for.
        rules: MetaSchedule schedule rules; None for the target's own.
    """

    def __init__(self, mod: Any, target: Any, *, rules: list[Any] | None = None) -> None:
        tvm = import_tvm()
        from tvm.s_tir import meta_schedule as ms

        generator = ms.space_generator.PostOrderApply(sch_rules="from-target" if rules is None else rules)
        # The context hands target and module to the rules and postprocessors, so it has to outlive them.
        self._context = ms.TuneContext(
            mod=mod, target=target, space_generator=generator, num_threads=1, rand_state=1
        )
        self._tvm = tvm
        self.mod = self._context.mod
        self.rules = list(self._context.space_generator.sch_rules)
        self.postprocs = list(self._context.space_generator.postprocs)
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
        sch = self._tvm.s_tir.Schedule(self.mod, seed=1, debug_mask="none")
        blocks = [sch.get_sblock(name, "main") for name in self._blocks]
        alternatives: list[tuple[str, ChoiceDomain]] = []
        structure: list[tuple[str, str]] = []
        for rule in self.rules:
            rule_name = type(rule).__name__
            for block in reversed(blocks):
                name = _name_of(sch, block)
                if name is None or (rule_name != "ApplyCustomRule" and _has_custom_rule(sch, block)):
                    continue
                options = self._apply(rule, sch, block)
                if len(options) == 1:
                    sch = options[0]
                    continue
                labels = _labels(sch, options)
                site = _unique(f"{name} {_SITE_WORDS.get(rule_name, rule_name)}", [s for s, _ in structure])
                choice = wanted.get(site)
                if choice not in labels:
                    choice = next((label for label in labels if label in _PLAIN), labels[0])
                alternatives.append((site, ChoiceDomain(tuple(labels))))
                structure.append((site, choice))
                sch = options[labels.index(choice)]
        return Sketch(tuple(structure), tuple(alternatives), sch.trace)

    def _apply(self, rule: Any, sch: Any, block: Any) -> list[Any]:
        # A rule may fail on a valid module (MultiLevelTiling does where a consumer has two producers); MetaSchedule
        # then loses the whole space, here the block just goes without that rule.
        try:
            return list(rule.apply(sch.copy(), block)) or [sch]
        except self._tvm.s_tir.ScheduleError:
            return [sch]


def _block_names(mod: Any) -> list[str]:
    """Returns the names of all blocks in post order, the root last, as MetaSchedule visits them."""
    names: list[str] = []

    def visit(stmt: Any) -> None:
        kind = type(stmt).__name__
        if kind == "SBlockRealize":
            visit(stmt.block)
        elif kind == "SeqStmt":
            for part in stmt.seq:
                visit(part)
        elif kind == "IfThenElse":
            visit(stmt.then_case)
            if stmt.else_case is not None:
                visit(stmt.else_case)
        elif hasattr(stmt, "body"):
            visit(stmt.body)
            if kind == "SBlock":
                names.append(str(stmt.name_hint))

    visit(mod["main"].body)
    return names


def _name_of(sch: Any, block: Any) -> str | None:
    """Returns the block's name, or None if an earlier rule removed it (inlined it, say)."""
    try:
        return str(sch.get(block).name_hint)
    except (ValueError, RuntimeError, IndexError):
        return None


def _has_custom_rule(sch: Any, block: Any) -> bool:
    return "schedule_rule" in sch.get(block).annotations


def _unique(name: str, taken: list[str]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate, number = f"{name} {number}", number + 1
    return candidate


# -- words for alternatives ---------------------------------------------------------------------------------------


def _labels(base: Any, options: list[Any]) -> list[str]:
    """Returns one short, distinct description per alternative, from the instructions that each adds to `base`."""
    skip = len(base.trace.insts)
    labels: list[str] = []
    for option in options:
        labels.append(_unique(_describe(list(option.trace.insts)[skip:]), labels))
    return labels


def _describe(instructions: list[Any]) -> str:
    levels: dict[Any, int] = {}
    for inst in instructions:
        if inst.kind.name == "Split":
            levels.update({loop: level for level, loop in enumerate(inst.outputs)})
        elif inst.kind.name == "Fuse":
            levels[inst.outputs[0]] = min((levels[loop] for loop in inst.inputs if loop in levels), default=0)
    kinds = [inst.kind.name for inst in instructions]
    words: list[str] = []
    if "RFactor" in kinds:
        words.append(f"rfactor over the {_rfactor_side(instructions)} part")
    if "ComputeInline" in kinds or "ReverseComputeInline" in kinds:
        words.append("inlined")
    if "CacheRead" in kinds:
        words.append("operands cached")
    if "CacheWrite" in kinds:
        words.append("result cached")
    for inst in instructions:
        if inst.kind.name == "ReverseComputeAt":
            what = "written back" if "CacheWrite" in kinds else "consumer fused"
            words.append(f"{what} per tile of level {levels.get(inst.inputs[1], '?')}")
            break
    if "Split" in kinds and not words:
        words.append("direct")
    return ", ".join(words) or "as written"


def _rfactor_side(instructions: list[Any]) -> str:
    loop = next(inst.inputs[0] for inst in instructions if inst.kind.name == "RFactor")
    for inst in instructions:
        if inst.kind.name == "Split" and loop in list(inst.outputs):
            return "outer" if inst.outputs[0] == loop else "inner"
    return "reduced"

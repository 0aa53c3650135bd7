"""Sketches: program structures as the rules generate them, one choice per block and rule, made when asked for.

MetaSchedule's `PostOrderApply` multiplies the alternatives that its rules return for each block into one flat list
(attention with softmax: 81 sketches). Here each point at which a rule offers alternatives is a structure decision; a
sketch has one alternative for each of them. Walking the rules once with the wanted alternatives makes that sketch and
no other, so the cost is the number of blocks, not the product of their alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from reasoning_compiler.core.programs import Alternative, ChoiceDomain, Decision
from reasoning_compiler.ir.marks import NO_RULES
from reasoning_compiler.ir.walk import blocks
from reasoning_compiler.machine.toolchain import TVM_ERRORS, import_tvm
from reasoning_compiler.rules.rule import Offer, Rule, unique

_ONLY = Alternative("by the rules", is_plain=True)  # where the rules leave nothing open, and yet change the program


@dataclass(frozen=True)
class Sketch:
    """A program structure with open decisions.

    Args:
        sites: the structure decisions with the alternatives taken, in the order in which the rules meet them.
        trace: the schedule instructions; their sampling decisions are to be replaced.
        makers: the name of the rule that has made each of the instructions; empty for what looks blocks up.
    """

    sites: tuple[Decision, ...]
    trace: Any  # tvm.s_tir.schedule.Trace
    makers: tuple[str, ...]

    @property
    def structure(self) -> tuple[tuple[str, str], ...]:
        """The (decision, alternative) pairs."""
        return tuple((site.name, str(site.value)) for site in self.sites)


@dataclass(eq=False)
class _Fork:
    """Where a rule leaves a choice, or, with one option and no decision, where the rules have come to their end.

    Sketches with the same choices up to a fork share the way there.

    Args:
        step: the position of what offers the choice, see `SketchGenerator._go_on`.
        offers: the alternatives.
        makers: of the instructions of each, see `Sketch`.
        site: the structure decision, at its plainest; None at the end.
        next: by label, the fork after it, as far as anybody has gone there.
    """

    step: int
    offers: Sequence[Offer]
    makers: Sequence[tuple[str, ...]]
    site: Decision | None = None
    next: dict[str, _Fork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Options share statements, and TVM would change those that nobody else holds in all of them.
        self._held = [list(blocks(offer.schedule.mod["main"].body)) for offer in self.offers]


class SketchGenerator:
    """Makes the sketches of one module, on demand.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        rules: made for this module, in order.
    """

    def __init__(self, mod: Any, rules: Sequence[Rule]) -> None:
        self.mod, self.rules = mod, tuple(rules)
        self._made: dict[tuple[tuple[str, str], ...], Sketch] = {}

    def make(self, wanted: Mapping[str, str]) -> Sketch:
        """Returns the sketch with the wanted alternative for each structure decision.

        A decision that `wanted` leaves out, or whose wanted alternative is not on offer (it may depend on those
        before it), takes its plainest one; the result's `structure` says what was taken.
        """
        key = tuple(wanted.items())
        if key not in self._made:
            sketch = self._walk(wanted)
            self._made[key] = self._made.setdefault(sketch.structure, sketch)
        return self._made[key]

    def _walk(self, wanted: Mapping[str, str]) -> Sketch:
        sites: list[Decision] = []
        fork = self._first
        while fork.site is not None:
            labels = [offer.label for offer in fork.offers]
            choice = wanted.get(fork.site.name)
            taken = labels.index(choice) if choice in labels else labels.index(str(fork.site.value))
            sites.append(replace(fork.site, value=labels[taken]))
            if labels[taken] not in fork.next:
                names = [site.name for site in sites]
                schedule = fork.offers[taken].schedule
                fork.next[labels[taken]] = self._go_on(schedule, fork.step + 1, names, fork.makers[taken])
            fork = fork.next[labels[taken]]
        trace = fork.offers[0].schedule.trace
        kinds = {inst.kind.name for inst in trace.insts}
        if not sites and kinds > {"GetSBlock"} and not any(kind.startswith("Sample") for kind in kinds):
            domain = ChoiceDomain((_ONLY.label,), alternatives=(_ONLY,))
            sites = [Decision("schedule", "structure", domain, _ONLY.label)]
        return Sketch(tuple(sites), trace, fork.makers[0])

    @cached_property
    def _first(self) -> _Fork:
        tvm = import_tvm()
        from reasoning_compiler.ir.irregular import irregular, names_inside  # it imports TVM, which costs seconds

        sch = tvm.s_tir.Schedule(self.mod, seed=1, debug_mask="none", error_render_level="fast")
        closed = names_inside(irregular(self.mod["main"]))
        found = [sch.get_sblock(name, "main") for name in _block_names(self.mod) if name not in closed]
        self._steps = [(rule, block) for rule in self.rules for block in reversed(found)]
        return self._go_on(sch, 0, [], ("",) * len(sch.trace.insts))

    def _go_on(self, sch: Any, step: int, taken: list[str], makers: tuple[str, ...]) -> _Fork:
        """Returns the first fork from a step on, of those that each apply one rule to one block.

        Args:
            sch: what the steps before have made.
            step: its position.
            taken: names of the structure decisions before.
            makers: of the schedule's instructions.
        """
        for position, (rule, block) in enumerate(self._steps[step:], step):
            name = _name_of(sch, block)
            if name is None or (rule.heeds_marks and NO_RULES in sch.get(block).annotations):
                continue
            try:
                offers = rule.alternatives(sch.copy(), block)
            except (RuntimeError, IndexError):  # TVM cannot treat the block so; an IndexError is of one without loops
                continue
            made = [_until_now(makers, offer.schedule, rule.name) for offer in offers]
            if len(offers) > 1:
                site = _site(unique(f"{name} {rule.name}", taken), name, rule.name, offers)
                return _Fork(position, offers, made, site)
            sch, makers = offers[0].schedule, made[0]
        return _Fork(len(self._steps), [Offer(sch)], [makers])


def _until_now(makers: tuple[str, ...], sch: Any, rule: str) -> tuple[str, ...]:
    """Returns the makers of all of a schedule's instructions, of which a rule has made the last ones."""
    return (*makers, *[rule] * (len(sch.trace.insts) - len(makers)))


def _site(name: str, block: str, rule: str, offers: Sequence[Offer]) -> Decision:
    """Returns the structure decision between offers, at the plainest of them."""
    alternatives = tuple(Alternative(offer.label, rule, offer.parameters, offer.is_plain) for offer in offers)
    plainest = next((each for each in alternatives if each.is_plain), alternatives[0])
    domain = ChoiceDomain(tuple(each.label for each in alternatives), alternatives=alternatives)
    return Decision(name, "structure", domain, plainest.label, block=block, rule=rule, role=rule)


def _block_names(mod: Any) -> list[str]:
    """Returns the names of all blocks in post order, the root last, as MetaSchedule visits them."""
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(mod["main"].body, (import_tvm().s_tir.SBlock, found.append), order="post")
    return [str(block.name_hint) for block in found]


def _name_of(sch: Any, block: Any) -> str | None:
    """Returns the block's name, or None if an earlier rule removed it (inlined it, say)."""
    try:
        return str(sch.get(block).name_hint)
    except TVM_ERRORS:
        return None

"""What a rule is: one way to treat a block of a kernel, whole in one file or folder.

A rule says five things, and nobody else says any of them:

1. where it matches, and what it does to the schedule there: `Rule.offer`, or `Rule.settle` where nothing is to choose;
2. what the cost model counts: it reads the scheduled loops and the typed annotations of `ir/`, and where a rule ties
   several blocks together, `Rule.sizing` gives a formula in the vocabulary of `cost/`;
3. which values are worth starting from on a machine: the same `Rule.sizing`;
4. how it is said in words: the labels of its offers, and `Rule.words`;
5. when its turn is, among all rules: `Rule.phase`.

`discovery.py` finds rules: the modules beside it that have a `RULE`, and entry points of installed packages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, ClassVar

from reasoning_compiler.core.programs import Alternative, Decision, Value
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.ir.marks import NO_RULES
from reasoning_compiler.machine.targets import VectorUnit, target_vector_unit
from reasoning_compiler.machine.toolchain import TVM_ERRORS

AS_WRITTEN = "as written"
"""The label of the alternative that leaves a block to the rules after this one."""

_CORES_CACHES_BYTES = 1 << 20  # a usual second-level cache


class Phase(IntEnum):
    """When a rule has its turn. Within a phase, rules go in the order of their modules' names."""

    FUSE = 1
    """It makes one nest of several blocks, before anything is done to one of them."""

    INSTRUCTION = 2
    """It puts an instruction in the place of innermost loops, and tiles around it."""

    INLINE = 3
    """TVM's rules that come before tiling: they inline blocks, and split reductions."""

    PAD = 4
    """It changes the extents of loops that are going to be tiled."""

    PACK = 5
    """It copies or lays out what a block reads that is going to be tiled."""

    ACCUMULATE = 6
    """It tiles instead of TVM's own tiling."""

    TILE = 7
    """TVM's tiling, and its rules after that."""

    FINISH = 8
    """It decides something of the whole program, on the root block."""


@dataclass(frozen=True)
class Offer:
    """One way to go on with a schedule.

    Args:
        schedule: a `tvm.s_tir.Schedule`, changed.
        label: for people; also the name that journals know the alternative by.
        parameters: what the rule has chosen, as (name, value) pairs.
        is_plain: the block stays as it is, or as near to that as the rule leaves it.
    """

    schedule: Any
    label: str = AS_WRITTEN
    parameters: tuple[tuple[str, Value], ...] = ()
    is_plain: bool = False


@dataclass
class Kernel:
    """What rules know of the kernel and of its machine.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        target: the TVM target.
        stream_bytes: what fits into a core's caches; a larger constant is streamed from memory.
        rules: all rules of the space, in their order.
    """

    mod: Any
    target: Any
    stream_bytes: int = _CORES_CACHES_BYTES
    rules: Sequence[Rule] = ()

    @cached_property
    def unit(self) -> VectorUnit | None:
        """The vector unit of a CPU; None for other targets."""
        return target_vector_unit(self.target) if self.target.kind.name == "llvm" else None

    @cached_property
    def features(self) -> frozenset[str]:
        """The CPU's features by LLVM's names; none for other targets."""
        from tvm.target.codegen import llvm_get_cpu_features

        if self.unit is None:
            return frozenset()
        return frozenset(map(str, llvm_get_cpu_features(self.target)))

    @property
    def runs_linux(self) -> bool:
        """Whether the target's system is Linux."""
        return "linux" in str(self.target.attrs.get("mtriple") or sys.platform)

    def claimed(self, rule: Rule) -> frozenset[str]:
        """Returns the names of blocks that rules other than this one claim."""
        return frozenset(name for other in self.rules if other is not rule for name in other.claims)

    def finish(self, sch: Any) -> None:
        """Lets the rules of the last phase settle the root block, and closes it to all others."""
        root = sch.get_sblock("root", "main")
        for rule in self.rules:
            if rule.phase is Phase.FINISH:
                rule.settle(sch, root)
        sch.annotate(root, NO_RULES, "None")


@dataclass(frozen=True)
class Structure:
    """A structure as `Rule.sizing` sees it: an alternative of one block, everything else at its plainest.

    Args:
        site: the structure decision, with the alternative as its value.
        table: all decisions of the program.
    """

    site: Decision
    table: tuple[Decision, ...]

    @property
    def alternative(self) -> Alternative:
        """The alternative that was taken."""
        found = self.site.alternative
        assert found is not None
        return found

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions that the rule has left open for its block, in the order in which it asks for them."""
        mine = (d for d in self.table if (d.block, d.rule) == (self.site.block, self.site.rule))
        return tuple(d for d in mine if d.kind != "structure")


class Rule:
    """One way to treat a block. A subclass gives `name` and `phase`, and overrides what it has to say.

    Args:
        kernel: what is scheduled, and for what.

    Attributes:
        name: what the decision is called that it leaves at a block, after the block's name.
        phase: when its turn is.
        retiles: its alternatives change how the block is tiled, and are judged together with its tiles.
        heeds_marks: it leaves blocks alone that are marked with `NO_RULES`.
    """

    name: ClassVar[str] | str
    phase: ClassVar[Phase] | Phase
    retiles: ClassVar[bool] = False
    heeds_marks: ClassVar[bool] | bool = True

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    @property
    def claims(self) -> frozenset[str]:
        """The names of blocks that other rules need not treat, as this one does it better."""
        return frozenset()

    def settle(self, sch: Any, block: Any) -> None:
        """Changes a schedule in place, with nothing to choose: what it leaves open are sampled values.

        Args:
            sch: the schedule.
            block: the `SBlockRV`.
        """

    def offer(self, sch: Any, block: Any) -> Iterable[Offer]:
        """Returns what may be done to a block instead of leaving it as it is; nothing where the rule does not match.

        Args:
            sch: the schedule; an offer has a changed copy, see `attempted`.
            block: the `SBlockRV`, of any block of the function, the root included.
        """
        return ()

    def alternatives(self, sch: Any, block: Any) -> list[Offer]:
        """Returns all ways to go on with a schedule, the block as it is first. The schedule may be changed."""
        self.settle(sch, block)
        return [Offer(sch, is_plain=True), *self.offer(sch, block)]

    def sizing(self, structure: Structure) -> Sizing | None:
        """Returns the decisions that size an alternative of this rule's, with their cost.

        None where the cost model may look at the scheduled loops alone, decision by decision.
        """
        return None

    def words(self, alternative: Alternative, tiles: Mapping[str, int]) -> str:
        """Returns a sentence on why an alternative should be fast; empty where its tiles say everything.

        Args:
            alternative: of this rule's.
            tiles: the innermost factor of each of the block's tiled loops.
        """
        return ""


def attempted(sch: Any, change: Callable[..., None], *args: Any) -> Any | None:
    """Returns a changed copy of a schedule; None where something that only TVM sees keeps the block where it is.

    Args:
        sch: the schedule, which stays as it is.
        change: is given the copy, and what follows; may refuse by an error of the kinds in `TVM_ERRORS`.
        args: see `change`.
    """
    changed = sch.copy()
    try:
        change(changed, *args)
    except TVM_ERRORS:
        return None
    return changed


def unique(name: str, taken: Collection[str]) -> str:
    """Returns the name, with a number after it if it is taken."""
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name} {number}", number + 1
    return candidate

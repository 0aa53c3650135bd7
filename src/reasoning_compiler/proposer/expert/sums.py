"""Sums that run scalar: LLVM may not reorder floating-point additions, so it does not vectorize them by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.cost.analysis import Analysis, BlockAnalysis, analyze
from reasoning_compiler.proposer.expert.ideas import Idea
from reasoning_compiler.proposer.protocol import ProposerSpace
from reasoning_compiler.space.named import NamedBlock

_MIN_SHARE = 0.05  # of the estimated time
_MAX_LANES = 64  # that MetaSchedule vectorizes
_CHAINS = 4  # additions that wait for nothing, as many as one takes cycles
_MAX_IDEAS = 2  # to sum up in lanes, of one program
_WORTH_IT = 0.5  # as a logarithm; the analysis asks more cycles for an addition than some machines need


class SumsInLanes:
    """Ways to sum up in vector lanes what programs sum up one by one, where the analysis favours them.

    Args:
        space: the programs, and the nests behind them.
        machine: what programs are to run on.
    """

    def __init__(self, space: ProposerSpace, machine: Machine) -> None:
        self._space, self._machine = space, machine
        self._known: dict[Program, list[Idea]] = {}

    def of(self, program: Program) -> list[Idea]:
        """Returns those of a program, best first; none of one that has primitives already."""
        if not self._space.takes_primitives or program.primitives:
            return []
        if program not in self._known:
            self._known[program] = list(self._favoured(program))
        return self._known[program]

    def _favoured(self, program: Program) -> Iterator[Idea]:
        present = analyze(self._space.nests(program), self._machine)
        names = _scalar_sums(present)
        if not _may_gain(present, names):
            return
        ideas = []
        for summed, primitives in _in_lanes(names, self._space.named_blocks(program), self._machine):
            if not _may_gain(present, summed):
                continue
            try:
                changed = self._space.edit(program, Transformation((), primitives=primitives))
                secs = analyze(self._space.nests(changed), self._machine).secs
            except IllegalProgramError:
                continue
            names_text = ", ".join(summed)
            text = f"{names_text}: partial sums in vector lanes, instead of a scalar chain of additions."
            ideas.append(Idea((), text, math.log(present.secs / secs), primitives))
        ideas.sort(key=lambda idea: -idea.gain)
        yield from (idea for idea in ideas[:_MAX_IDEAS] if idea.gain > _WORTH_IT)


def _scalar_sums(analysis: Analysis) -> list[str]:
    """Returns the blocks whose reduction runs scalar and takes a noticeable part of the time, the longest first."""

    def is_one(block: BlockAnalysis) -> bool:
        return block.reduces and block.vector_lanes == 1 and block.secs >= _MIN_SHARE * analysis.secs

    slow = sorted(filter(is_one, analysis.blocks), key=lambda block: -block.secs)
    return [block.block.removesuffix("_update") for block in slow]


def _may_gain(present: Analysis, names: Sequence[str]) -> bool:
    """Tells whether primitives on blocks are worth trying: whether they were, did these blocks take no time at all.

    The other blocks count as they are. Trying takes as long as proposing another program.
    """
    parts = {name + part for name in names for part in ("", "_init", "_update")}
    others = sum(block.secs for block in present.blocks if block.block not in parts)
    return others < present.secs * math.exp(-_WORTH_IT)


def _in_lanes(
    names: Sequence[str], blocks: Sequence[NamedBlock], machine: Machine
) -> Iterator[tuple[list[str], tuple[Primitive, ...]]]:
    """Yields ways to sum up in vector lanes, each as blocks and primitives: of all blocks together, of each alone.

    Args:
        names: of the blocks, see `_scalar_sums`.
        blocks: what primitives may name.
        machine: whose vectors are to be filled.
    """
    known = {block.name: list(_partial_sums(block, machine)) for block in blocks if block.name in names}
    found = [(name, known[name]) for name in names if known.get(name)]
    for variant in (0, 1):
        if len(found) > 1:
            together = tuple(primitive for _, each in found for primitive in each[min(variant, len(each) - 1)])
            yield [name for name, _ in found], together
        yield from (([name], each[variant]) for name, each in found if variant < len(each))


def _partial_sums(block: NamedBlock, machine: Machine) -> Iterator[tuple[Primitive, ...]]:
    """Yields the primitives for one block: the partial sums made where they are used, or in loops of their own."""
    loops = [loop for loop in block.loops if loop.extent > 1]
    if not loops or not loops[-1].reduces or block.result_dimensions is None:
        return
    last = loops[-1]
    lanes = machine.vector_bytes // 4
    width = next((w for w in (_CHAINS * lanes, 2 * lanes, lanes) if w <= _MAX_LANES and last.extent % w == 0), 0)
    if not width or last.extent == width:
        return
    split = Primitive("split", (f"{block.name}.{last.name}", (last.extent // width, width)))
    apart = Primitive("rfactor", (f"{block.name}.{last.name}_1", block.result_dimensions))
    around = [loop for loop in loops if not loop.reduces]
    if around and loops.index(around[-1]) == len(around) - 1:
        inside = Primitive("compute_at", (f"{block.name}_rf", f"{block.name}.{around[-1].name}"))
        yield split, apart, inside
    yield split, apart

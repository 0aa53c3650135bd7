"""Blocks, loops and buffers of a schedule by the names that people see, and what several names can only mean."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.core.primitives import BUFFER_SIDES, Argument, split_loop
from reasoning_compiler.ir.walk import blocks, bound_variables

_NAMES_TOLD = 24


class Refused(ValueError):
    """An argument does not fit the schedule."""


@dataclass(frozen=True)
class NamedLoop:
    """A loop that primitives may name: its name, its iterations, and whether the block reduces over it."""

    name: str
    extent: int
    reduces: bool


@dataclass(frozen=True)
class NamedBlock:
    """A block that primitives may name.

    Args:
        name: the block's.
        loops: around it, outermost first; none whose name another one of them has.
        reads: names of the buffers that it reads and does not write.
        result_dimensions: of the buffer that it writes; None where it writes several.
        writes: the name of that buffer; empty where it writes several.
        dimensions: for each of `reads`, the names of its dimensions; empty for one that no iterator alone runs over.
    """

    name: str
    loops: tuple[NamedLoop, ...]
    reads: tuple[str, ...]
    result_dimensions: int | None = None
    writes: str = ""
    dimensions: tuple[tuple[str, ...], ...] = ()

    @property
    def iterations(self) -> int:
        """How often it runs, as far as that is known."""
        return math.prod(max(loop.extent, 1) for loop in self.loops)


def named_blocks(schedule: Any) -> tuple[NamedBlock, ...]:
    """Returns what primitives may name in a schedule, in program order."""
    found = blocks_of(schedule)
    counts = Counter(str(realize.block.name_hint) for realize, _ in found)
    named = []
    for realize, loops in found:
        name = str(realize.block.name_hint)
        if counts[name] > 1 or not loops:
            continue
        reducing = bound_variables(realize, spatial=False)
        names = Counter(str(loop.loop_var.name) for loop in loops)
        told = [loop for loop in loops if names[str(loop.loop_var.name)] == 1]
        named.append(
            NamedBlock(
                name,
                tuple(NamedLoop(str(x.loop_var.name), extent_of(x.extent), x.loop_var in reducing) for x in told),
                (reads := reads_of(realize.block)),
                len(realize.block.writes[0].source.shape) if len(realize.block.writes) == 1 else None,
                str(realize.block.writes[0].source.name) if len(realize.block.writes) == 1 else "",
                tuple(_dimensions_of(realize.block, buffer) for buffer in reads),
            )
        )
    return tuple(named)


class Named:
    """A schedule whose blocks, loops and buffers are found by name.

    Args:
        schedule: a `tvm.s_tir.Schedule`.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def block(self, name: str) -> Any:
        """Returns the `SBlockRV` of a block with loops."""
        names = [str(realize.block.name_hint) for realize, loops in blocks_of(self.schedule) if loops]
        if names.count(name) != 1:
            what = "several blocks" if name in names else "no block"
            raise Refused(f"there is {what} `{name}` here; there are {listed(names, name)}")
        return self.schedule.get_sblock(name, "main")

    def loops(self, names: Sequence[str]) -> tuple[list[Any], tuple[str, ...]]:
        """Returns the `LoopRV`s of loops around one block, in the order in which they are given, and their names.

        A loop may be named by the iterator that it alone runs, as the loop of `vk_0` by `k_0`; and without its block
        where only one block has a loop of that name.
        """
        block = next((own for own, _ in map(split_loop, names) if own), None) or self._block_around(names)
        found = list(self.schedule.get_loops(self.block(block)))
        there = [str(self.schedule.get(loop).loop_var.name) for loop in found]
        realize = next(r for r, _ in blocks_of(self.schedule) if str(r.block.name_hint) == block)
        taken = []
        for name in (split_loop(name)[1] for name in names):
            known = name if name in there else _loop_of_iterator(realize, name)
            if there.count(known) != 1:
                raise Refused(_no_loop(block, name, there))
            taken.append(there.index(known))
        return [found[i] for i in taken], tuple(f"{block}.{there[i]}" for i in taken)

    def loop(self, name: str) -> tuple[Any, str]:
        """Returns one loop and its name."""
        (found,), (known,) = self.loops([name])
        return found, known

    def extent(self, name: str, loop: Any, most: int) -> int:
        """Returns a loop's iterations. Raises Refused where they are not constant, or more than `most`."""
        extent = extent_of(self.schedule.get(loop).extent)
        if extent == 0:
            raise Refused(f"loop `{name}` has no constant number of iterations")
        if extent > most:
            raise Refused(f"loop `{name}` has {extent} iterations; at most {most} are allowed: split it first")
        return extent

    def reader(self, block: str, buffer: Argument, *, or_copy: bool = False) -> tuple[str, str]:
        """Returns the names of a block that reads a buffer, and of the buffer.

        Args:
            block: that reads it, or writes it: then another one that reads it is found.
            buffer: its name, the position among what the block reads, or a side and the position there.
            or_copy: whether the name of what was copied means the copy, where the block reads only that.
        """
        found = self.schedule.get(self.block(block))
        reads, writes = reads_of(found), sorted(writes_of(found))
        side, position = buffer if isinstance(buffer, tuple) else (BUFFER_SIDES[0], buffer)
        there = writes if side == BUFFER_SIDES[1] else reads
        if isinstance(position, int):
            if position >= len(there):
                raise Refused(f"`{block}` has no buffer {position} to {side}; there are {listed(there)}, from 0")
            name = there[position]
        else:
            copies = [own for own in reads if or_copy and own.startswith(f"{position}_")]
            name = copies[0] if position not in (*reads, *writes) and len(copies) == 1 else str(position)
        if name in reads:
            return block, name
        others = (r.block for r, loops in blocks_of(self.schedule) if loops and name in reads_of(r.block))
        other = next(others, None) if name in writes else None
        if other is None:
            raise Refused(f"`{block}` reads no buffer `{name}`; it reads {listed(reads, name)}")
        return str(other.name_hint), name

    def read_index(self, block: str, buffer: str) -> tuple[Any, int]:
        """Returns a block and the position of a buffer among all of its reads."""
        found = self.block(block)
        return found, [str(region.source.name) for region in self.schedule.get(found).reads].index(buffer)

    def _block_around(self, loops: Sequence[str]) -> str:
        around = [(str(r.block.name_hint), {str(x.loop_var.name) for x in own}) for r, own in blocks_of(self.schedule)]
        names = [block for block, own in around if own.issuperset(loops)]
        if len(names) != 1:
            told = listed([f"{block}.{loop}" for block, own in around for loop in sorted(own)], loops[0])
            raise Refused(f"`{loops[0]}` does not say of which block it is a loop; there are {told}")
        return names[0]


def _no_loop(block: str, name: str, there: Sequence[str]) -> str:
    what = "several loops" if name in there else "no loop"
    told = listed([f"{block}.{loop}" for loop in there], f"{block}.{name}")
    parts = [loop for loop in there if re.fullmatch(rf"{re.escape(name)}_\d+", loop)]
    step, fused = json.dumps(["fuse", [f"{block}.{loop}" for loop in parts]]), f"{block}.{'_'.join(parts)}_fused"
    again = f"; it was split, and {step} makes one loop of it again, `{fused}`" if len(parts) > 1 else ""
    return f"there is {what} `{block}.{name}` here; there are {told}{again}"


def _loop_of_iterator(realize: Any, name: str) -> str | None:
    """Returns the loop whose variable a block's iterator of that name is; None where there is none."""
    for iterator, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        if name in iterator_names(iterator.var) and type(value).__name__ == "Var":
            return str(value.name)
    return None


def iterator_names(variable: Any) -> tuple[str, ...]:
    """Returns what people call an iterator `v_i` or `vi`: also `i`."""
    name = str(variable.name)
    return tuple(dict.fromkeys((name, name.removeprefix("v").removeprefix("_"))))


def _dimensions_of(block: Any, buffer: str) -> tuple[str, ...]:
    index = [str(region.source.name) for region in block.reads].index(buffer)
    return tuple(names[-1] if names else "" for names in dimension_names(block, index))


def dimension_names(block: Any, index: int) -> list[tuple[str, ...]]:
    """Returns the names of the dimensions of a buffer that a block reads, by the iterators that run over them alone."""
    starts = [axis.min for axis in block.reads[index].region]
    variables = {iterator.var for iterator in block.iter_vars}
    return [iterator_names(start) if start in variables else () for start in starts]


def blocks_of(schedule: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Returns the blocks of a schedule but the root, each with the loops around it."""
    return [(r, loops) for r, loops in blocks(schedule.mod["main"].body) if str(r.block.name_hint) != "root"]


def reads_of(block: Any) -> tuple[str, ...]:
    """Returns the names of the buffers that a block reads and does not write."""
    written = writes_of(block)
    return tuple(dict.fromkeys(n for n in (str(region.source.name) for region in block.reads) if n not in written))


def writes_of(block: Any) -> set[str]:
    """Returns the names of the buffers that a block writes."""
    return {str(region.source.name) for region in block.writes}


def extent_of(expr: Any) -> int:
    """Returns a constant's value; 0 for what is not known."""
    return int(expr) if type(expr).__name__ == "IntImm" else 0


def listed(names: Sequence[str], wanted: str = "") -> str:
    """Returns names as a text, those most like the wanted one first."""
    nearest = sorted(names, key=lambda name: -difflib.SequenceMatcher(None, name, wanted).ratio()) if wanted else names
    told = ", ".join(f"`{name}`" for name in nearest[:_NAMES_TOLD])
    return told + (f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else "") or "none"

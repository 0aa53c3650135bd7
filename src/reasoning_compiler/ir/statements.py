"""Blocks that are one store in loops of their own, and the data flow between them. Names play no part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.ir.walk import REDUCTION, blocks, index_of, parts_in, variables
from reasoning_compiler.machine.toolchain import import_tvm


@dataclass(frozen=True, eq=False)
class Statement:
    """A block that is one store in loops of its own, with what it reads and how it is iterated.

    Args:
        block: the `SBlock`.
        variables: its iteration variables.
        extents: of each.
        reducing: positions of those that reduce.
        loops: for each variable the position of its loop, outermost first.
        loads: every load in the value, without those of what it writes.
    """

    block: Any
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    reducing: tuple[int, ...]
    loops: tuple[int, ...]
    loads: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The block's name."""
        return str(self.block.name_hint)

    @property
    def buffer(self) -> Any:
        """What it writes."""
        return self.block.body.buffer

    @property
    def indices(self) -> tuple[Any, ...]:
        """Where it stores."""
        return tuple(self.block.body.indices)

    @property
    def value(self) -> Any:
        """What it stores."""
        return self.block.body.value

    def position(self, variable: Any) -> int | None:
        """Returns which of the iteration variables an expression is; None if it is none of them."""
        return index_of(variable, self.variables)

    def positions(self, indices: Any) -> tuple[int, ...] | None:
        """Returns the iteration variable of each index; None if some index is no plain variable."""
        found = [self.position(index) for index in indices]
        return None if None in found else tuple(p for p in found if p is not None)

    def used(self, load: Any) -> set[int]:
        """Returns the positions of the iteration variables in a load's indices."""
        return {p for i in load.indices for v in variables(i) if (p := self.position(v)) is not None}

    def read_of(self, buffer: Any) -> int:
        """Returns which of the block's reads is of a buffer."""
        found = index_of(buffer, [region.source for region in self.block.reads])
        assert found is not None
        return found


def statements(body: Any) -> Iterator[Statement]:
    """Yields a function's statements in program order; blocks that are none are left out, as those updated in place."""
    tvm = import_tvm()
    for realize, loops in blocks(body):
        block = realize.block
        store = block.body
        if not isinstance(store, tvm.tirx.BufferStore) or len(block.writes) != 1:
            continue
        around = [loop.loop_var for loop in loops]
        places = [index_of(value, around) for value in realize.iter_values]
        extents = [getattr(iter_var.dom.extent, "value", None) for iter_var in block.iter_vars]
        if len(loops) != len(places) or None in places or len(set(places)) != len(places) or None in extents:
            continue
        loads = parts_in(store.value, tvm.ir.TensorLoad)
        reducing = tuple(i for i, v in enumerate(block.iter_vars) if int(v.iter_type) == REDUCTION)
        own = tuple(load for load in loads if not load.source.same_as(store.buffer))
        if len(own) == len(loads) or reducing:
            known = tuple(iter_var.var for iter_var in block.iter_vars), tuple(int(e) for e in extents if e is not None)
            yield Statement(block, *known, reducing, tuple(p for p in places if p is not None), own)


def readers(among: Sequence[Statement], buffer: Any) -> list[Statement]:
    """Returns the statements that read a buffer, what they write themselves not counted."""
    return [s for s in among if any(load.source.same_as(buffer) for load in s.loads)]


def elementwise_reader(among: Sequence[Statement], buffer: Any) -> Statement | None:
    """Returns the one statement that reads a buffer; None if it does not take it element by element, or others read."""
    reading = readers(among, buffer)
    plain = tuple(range(len(buffer.shape)))
    if len(reading) != 1 or reading[0].loops != plain:
        return None
    read = [load.indices for load in reading[0].loads if load.source.same_as(buffer)]
    return reading[0] if all(reading[0].positions(at) == plain for at in (*read, reading[0].indices)) else None


def maker(among: Sequence[Statement], buffer: Any) -> Statement | None:
    """Returns the statement that writes a buffer; None for an argument."""
    return next((s for s in among if s.buffer.same_as(buffer)), None)

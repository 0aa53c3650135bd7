"""Loop nests as data: what the analysis, the expert and the prior reason about. Knows nothing of TVM.

A nest is one block of a program with the loops around it, outermost first, and for each buffer that it touches how
far one step of each loop moves through each dimension of that buffer. From this follow footprints, strides and reuse.

Symbols used in docstrings: L loops, D dimensions of a buffer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from reasoning_compiler.ir.dots import Dot

LoopKind = Literal["serial", "parallel", "vectorized", "unrolled"]

PREFETCH = "reasoning_compiler.prefetch"
"""A block's annotation: how many bytes ahead the builder prefetches what the block streams from memory; 0 for none."""


@dataclass(frozen=True)
class Loop:
    """One loop: its name, iterations, how it runs, and whether it reduces."""

    name: str
    extent: int
    kind: LoopKind = "serial"
    reduces: bool = False
    id: int = 0  # equal for loops that two nests share


class Padding(NamedTuple):
    """Iterations that a loop has beyond those that count.

    Args:
        loop: its name before tiling.
        extent: the iterations that count.
        padded: all of them.
    """

    loop: str
    extent: int
    padded: int

    def __str__(self) -> str:
        return f"{self.loop} from {self.extent} to {self.padded}"

    @property
    def extra_work(self) -> float:
        """The share of work that does not count, of what does."""
        return self.padded / self.extent - 1


def read_paddings(annotation: str) -> tuple[Padding, ...]:
    """Returns the paddings in an annotation: a JSON list of them, each a list."""
    return tuple(Padding(*each) for each in json.loads(annotation))


@dataclass(frozen=True)
class Access:
    """How a block touches one buffer.

    Args:
        buffer: the buffer's name.
        shape: its D extents.
        item_bytes: bytes of one element.
        steps: D × L: by how many elements one iteration of a loop moves in a dimension. Fractions stand for
            integer divisions, as in the shared heads of grouped attention.
        region: D: elements touched by one iteration.
        writes: whether it is written.
        shared: how many loops, counted from the outermost, the buffer's makers and users have in common: inside them
            it is both made and used; 0 where it lives outside this nest. Of an argument, how many this nest has in
            common with one that touches it later, and to which its traffic is counted.
        external: an argument of the kernel, as opposed to an intermediate.
        in_registers: it is of scope "local": no memory, as long as registers last.
        selected: an index of it comes from memory. The iterations of a register tile count as selecting each something
            else: nobody knows before the run which do not, so each loads for itself.
    """

    buffer: str
    shape: tuple[int, ...]
    item_bytes: int
    steps: tuple[tuple[float, ...], ...]
    region: tuple[int, ...]
    writes: bool = False
    shared: int = 0
    external: bool = True
    in_registers: bool = False
    selected: bool = False

    def moved_by(self, loop: int) -> bool:
        """Tells whether the loop with that index moves through the buffer at all."""
        return any(dim[loop] for dim in self.steps)

    def stride(self, loop: int) -> float:
        """Returns the distance in elements between two iterations of the loop, in row-major order."""
        return self._strides[loop] if self.steps else 0.0

    @cached_property
    def paces(self) -> list[float]:
        """By how many elements of any dimension, at most, one iteration of each loop moves."""
        return [max(map(abs, steps)) for steps in zip(*self.steps, strict=True)]

    @cached_property
    def _strides(self) -> list[float]:
        strides, below = [0.0] * len(self.steps[0]), 1
        for dim, size in zip(reversed(self.steps), reversed(self.shape), strict=True):
            for loop, step in enumerate(dim):
                if step:
                    strides[loop] += step * below
            below *= size
        return strides


@dataclass(frozen=True)
class Nest:
    """One block and its loops.

    Args:
        block: the block's name.
        loops: outermost first.
        accesses: the buffers it touches; what it both reads and writes (an accumulator) stands once, as written.
        flops: floating-point operations per iteration; divisions and calls count as the several that they cost.
        scalar_calls: calls per iteration that do not vectorize (libm).
        unroll_limit: largest body that the compiler was told to unroll; 0 for none.
        tiling: the tiling structure, as "SSRSRS", or "" where the block is not tiled.
        prefetch_bytes: how far ahead its streams are prefetched; 0 for not at all.
        share: of the iterations that conditions around the block let it run in, in [0, 1].
        dtypes: of the two buffers whose product it sums up and of the sums; empty where it does anything else.
        dot: the instruction that does the work of the innermost loops, which then are not among `loops`, see `by_dots`.
        padded: its loops that have iterations more than there are results.
    """

    block: str
    loops: tuple[Loop, ...]
    accesses: tuple[Access, ...]
    flops: float
    scalar_calls: int = 0
    unroll_limit: int = 0
    tiling: str = ""
    prefetch_bytes: int = 0
    share: float = 1.0
    dtypes: tuple[str, ...] = ()
    dot: Dot | None = None
    padded: tuple[Padding, ...] = ()

    @cached_property
    def iterations(self) -> int:
        return round(math.prod(loop.extent for loop in self.loops) * self.share)

    @property
    def reduces(self) -> bool:
        return any(loop.reduces and loop.extent > 1 for loop in self.loops)

    @cached_property
    def output(self) -> Access | None:
        return next((a for a in self.accesses if a.writes), None)

    @property
    def innermost_reduction(self) -> int | None:
        """The index of the innermost loop that reduces, one of a single iteration aside; None without any."""
        return max((i for i, loop in enumerate(self.loops) if loop.reduces and loop.extent > 1), default=None)

    def streams(self, loop: int) -> tuple[Access, ...]:
        """Returns what is read of the kernel's arguments in vectors, in the order in which it lies in memory.

        Args:
            loop: the index of a loop; each of its iterations reads what lies behind that of the iteration before.
        """
        reads = (a for a in self.accesses if a.external and not a.writes and a.moved_by(len(self.loops) - 1))
        return tuple(
            a
            for a in reads
            if a.stride(loop) == self.footprint_elements(a, loop + 1) and any(map(a.moved_by, range(loop)))
        )

    def reads_again(self, access: Access) -> bool:
        """Tells whether the loops come back to any element of a buffer; those of a register tile share one load."""
        tile = (self.innermost_reduction or 0) + 1
        touched = self.footprint_elements(access, tile) * math.prod(loop.extent for loop in self.loops[:tile])
        return touched > self.footprint_elements(access, 0)

    def footprint_elements(self, access: Access, depth: int) -> int:
        """Returns how many elements one of `accesses` touches in the loops from `depth` inward; those outside stand."""
        return self._footprints[self._index(access)][depth]

    @cached_property
    def _footprints(self) -> list[list[int]]:
        """For each access its footprint from every depth, the innermost (nothing moves) last."""
        return [[math.prod(each) for each in self._by_depth(dims)] for dims in self._reached]

    def held_bytes(self, access: Access, granule: int) -> list[int]:
        """Returns the bytes of all lines of a cache, or pages, that one of `accesses` touches, from every depth inward.

        Args:
            access: one of `accesses`.
            granule: bytes of a line or page; rows that lie closer together share them.
        """
        at = self._index(access)
        if (at, granule) not in self._held:
            self._held[at, granule] = [_held(access, dims, granule) for dims in self._by_depth(self._reached[at])]
        return self._held[at, granule]

    @cached_property
    def _held(self) -> dict[tuple[int, int], list[int]]:
        return {}

    def _index(self, access: Access) -> int:
        return next(index for index, own in enumerate(self.accesses) if own is access)

    def _by_depth(self, dims: list[list[int]]) -> list[tuple[int, ...]]:
        return list(zip(*dims, strict=True)) or [()] * (len(self.loops) + 1)

    @cached_property
    def _reached(self) -> list[list[list[int]]]:
        """For each access and each of its dimensions how much of it is touched from every depth, the innermost last."""
        further = [loop.extent - 1 for loop in reversed(self.loops)]
        tile = len(self.loops) - 1 - (self.innermost_reduction or 0)
        found = []
        for access in self.accesses:
            dims = []
            for dim, size, region in zip(access.steps, access.shape, access.region, strict=True):
                reach = 0.0
                reached = [min(size, region)]
                for position, (step, times) in enumerate(zip(reversed(dim), further, strict=True)):
                    apart = access.selected and position < tile and step
                    reach += (1.0 if apart else abs(step)) * times
                    reached.append(min(size, int(reach) + region) if step else reached[-1])
                dims.append(reached[::-1])
            found.append(dims)
        return found

    def by_dots(self, dot: Dot) -> Nest:
        """Returns this nest without its innermost loops, those in whose place an instruction is put.

        What one instruction works on counts as one element: a vector of sums or of B, a group of A; or a tile of each.
        """
        extents, kept = dot.extents, len(self.loops) - len(dot.extents)
        accesses = []
        for access in self.accesses:
            inner = [zip(extents, dim[kept:], strict=True) for dim in access.steps]
            widths = [math.prod(extent for extent, step in loops if step) for loops in inner]
            steps = tuple(tuple(s / w for s in dim[:kept]) for dim, w in zip(access.steps, widths, strict=True))
            shape = tuple(-(-size // width) for size, width in zip(access.shape, widths, strict=True))
            item_bytes = access.item_bytes * math.prod(widths)
            accesses.append(replace(access, shape=shape, item_bytes=item_bytes, steps=steps))
        flops = self.flops * math.prod(extents)
        return replace(self, loops=self.loops[:kept], accesses=tuple(accesses), flops=flops, dot=dot)

    def reading_in_order(self, buffers: Collection[str]) -> Nest:
        """Returns this nest with these buffers laid out as it reads them: a dimension for each loop that moves."""
        accesses = []
        for access in self.accesses:
            if access.buffer in buffers:
                moving = [index for index in range(len(self.loops)) if access.moved_by(index)]
                shape = tuple(self.loops[index].extent for index in moving)
                steps = tuple(tuple(float(i == index) for i in range(len(self.loops))) for index in moving)
                access = replace(access, shape=shape, steps=steps, region=(1,) * len(moving))
            accesses.append(access)
        return replace(self, accesses=tuple(accesses))

    def tiled(self, structure: str, factors: Mapping[str, Sequence[int]], *, unroll_limit: int = 0) -> Nest:
        """Returns this nest with its loops split and reordered as MetaSchedule's multi-level tiling does.

        Args:
            structure: as "SSRSRS": which level of the spatial (S) or reducing (R) loops comes next.
            factors: by loop name, outermost first; loops that are not named stay whole and outside. `Access.shared`
                is taken over, and so must count loops of the tiled nest.
            unroll_limit: of the new nest.
        """
        order: list[tuple[int, int, int]] = []  # (loop, extent, stride in iterations of that loop)
        for index, loop in enumerate(self.loops):
            if loop.name not in factors:
                order.append((index, loop.extent, 1))
        level = {"S": 0, "R": 0}
        for letter in structure:
            at = level[letter]
            for index, loop in enumerate(self.loops):
                if loop.name in factors and loop.reduces == (letter == "R"):
                    split = factors[loop.name]
                    order.append((index, split[at], math.prod(split[at + 1 :])))
            level[letter] += 1
        seen: dict[int, int] = {}
        loops = []
        for index, extent, _ in order:
            number = seen.get(index, 0)
            seen[index] = number + 1
            loops.append(replace(self.loops[index], name=f"{self.loops[index].name}_{number}", extent=extent))
        accesses = tuple(
            replace(a, steps=tuple(tuple(dim[i] * stride for i, _, stride in order) for dim in a.steps))
            for a in self.accesses
        )
        return replace(self, loops=tuple(loops), accesses=accesses, unroll_limit=unroll_limit, tiling=structure)


def _held(access: Access, reached: Sequence[int], granule: int) -> int:
    """Returns the bytes of the granules in which so much of each dimension of a buffer lies."""
    apart, span, stride = 1, access.item_bytes, access.item_bytes
    for extent, size in zip(reversed(reached), reversed(access.shape), strict=True):
        if extent > 1:
            if stride <= granule or stride <= span:
                span += (extent - 1) * stride
            else:
                apart *= extent
        stride *= size
    return apart * (-(-span // granule) * granule)

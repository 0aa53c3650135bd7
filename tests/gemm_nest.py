"""A matrix product as a loop nest, a tile group and a space of programs, without TVM."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from journal_examples import MACHINE
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import (
    TILE,
    UNROLL,
    UNTUNED,
    ChoiceDomain,
    Decision,
    Program,
    TileDomain,
    Transformation,
)
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.nest import Access, Loop, Nest
from reasoning_compiler.proposer.random import draw

UNROLLS = (0, 16, 64, 512)


def gemm(m: int, n: int, k: int, *, b_is_transposed: bool = False, item_bytes: int = 4) -> Nest:
    """Returns C[i, j] += A[i, k] * B[k, j] (or B[j, k]) as written."""
    i, j, r = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    b = ((n, k), (j, r)) if b_is_transposed else ((k, n), (r, j))
    return Nest(
        "C",
        (Loop("i", m), Loop("j", n), Loop("k", k, reduces=True)),
        (
            Access("C", (m, n), item_bytes, (i, j), (1, 1), writes=True),
            Access("A", (m, k), item_bytes, (i, r), (1, 1)),
            Access("B", b[0], item_bytes, b[1], (1, 1)),
        ),
        flops=2.0,
    )


def group(m: int, n: int, k: int, *, max_jobs: int = 32, name: str = "C") -> TileGroup:
    """Returns the product's tile group, as MetaSchedule tiles for a CPU."""
    decisions = tuple(
        (axis, f"{name}.{axis} tile", TileDomain(extent, num, max_innermost=64))
        for axis, extent, num in (("i", m, 4), ("j", n, 4), ("k", k, 2))
    )
    return TileGroup(name, "SSRSRS", replace(gemm(m, n, k), block=name), decisions, max_jobs, 64)


def tiled(g: TileGroup, i: tuple[int, ...], j: tuple[int, ...], k: tuple[int, ...], unroll: int = 64) -> Nest:
    """Returns the group's nest with these factors."""
    return g.tiled({"i": i, "j": j, "k": k}, unroll_limit=unroll)


class GemmSpace:
    """The programs of one or more products: a structure and three tiles each, and one unroll limit.

    All but "packed" take half as much work again; "transposed" refuses tiles of more than 16 columns.
    """

    takes_primitives = False

    def __init__(self, *groups: TileGroup) -> None:
        self.tile_groups = groups
        self.edits = 0

    @property
    def sizings(self) -> tuple[TileGroup, ...]:
        return self.tile_groups

    @cached_property
    def start(self) -> Program:
        tiles = [(name, (d.extent, *[1] * (d.num_factors - 1))) for g in self.tile_groups for _, name, d in g.decisions]
        return Program(tuple((g.block, "plain") for g in self.tile_groups), (*tiles, ("unroll", 0)))

    def table(self, program: Program) -> tuple[Decision, ...]:
        values = (self.start if program.is_untuned else program).values
        structures = ChoiceDomain(("plain", "packed", "transposed"))
        return (
            *(Decision(g.block, "structure", structures, values[g.block], block=g.block) for g in self.tile_groups),
            *(
                Decision(n, "tile", d, values[n], block=g.block, loop=loop, role=TILE)
                for g in self.tile_groups
                for loop, n, d in g.decisions
                if n in values
            ),
            Decision(
                *("unroll", "choice", ChoiceDomain(UNROLLS, tuple(f"up to {u}" for u in UNROLLS)), values["unroll"]),
                role=UNROLL,
            ),
        )

    def edit(self, program: Program, transformation: Transformation) -> Program:
        self.edits += 1
        base = self.start if program.is_untuned else program
        values = dict(base.values)
        domains = {d.name: d.domain for d in self.table(base)}
        for name, value in transformation.edits:
            why = domains[name].why_not(value) if name in domains else "is unknown"
            if why:
                raise IllegalProgramError(f"`{name}` = {value} {why}")
            values[name] = value
        for g in self.tile_groups:
            if values[g.block] == "transposed" and values[f"{g.block}.j tile"][-1] > 16:
                raise IllegalProgramError(f"`{g.block}` cannot be transposed with so many columns")
        blocks = {g.block for g in self.tile_groups}
        return Program(
            tuple((n, str(v)) for n, v in values.items() if n in blocks),
            tuple((n, v) for n, v in values.items() if n not in blocks),
        )

    def sample(self, seed: int) -> Program:
        rng = np.random.default_rng(seed)
        while True:
            drawn = Transformation(tuple((d.name, draw(d.domain, rng)) for d in self.table(UNTUNED)))
            try:
                return self.edit(UNTUNED, drawn)
            except IllegalProgramError:
                continue

    def nests(self, program: Program) -> tuple[Nest, ...]:
        values = (self.start if program.is_untuned else program).values
        made = []
        for g in self.tile_groups:
            factors = {axis: values[name] for axis, name, _ in g.decisions}
            nest = g.tiled(factors, unroll_limit=int(values["unroll"]))
            made.append(nest if values[g.block] == "packed" else replace(nest, flops=3.0))
        return tuple(made)


def machine(**changes: object) -> Machine:
    """Returns a two-core AVX-512 machine, or one that differs from it."""
    return replace(MACHINE, **changes)  # type: ignore[arg-type]

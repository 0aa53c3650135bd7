"""Dot-product instructions in place of the loops that a schedule has marked for them.

    for k: for i: for j:                                               # a register tile, marked with `DOT`
        for lane: for term: C_local[i, 16 * j + lane] += A[i, 4 * k + term] * B_packed[k, j, lane, term]
    for k: for each i, for each j:
        C_local[i, 16 * j : +16] = vpdpbusd(C_local[i, 16 * j : +16], broadcast(A[i, 4 * k : +4]), B_packed[k, j])

Signed bytes times signed bytes have no instruction of AVX-512. There A_shift = A + 128 stands in for A, unsigned, and
C_shift, by the same instruction, sums up what that is too much: C = A_shift * B - 128 * ones * B. Unsigned bytes times
signed ones have none on Arm without i8mm. There A_shift = A - 128, signed: C = A_shift * B - (-128) * ones * B. The
bytes are the same both times: A with its first bit turned around, and 0x80.

LLVM seldom finds them in such loops by itself. Without this, as in a replay in plain TVM, the program is right as
well, and slower. Of integers the result is the same; of bfloat16 each lane sums up in float32, two products at a time.
In `vdpbf16ps`, numbers below the smallest normal one count as zero (Intel's manual, VDPBF16PS); so they do in `bfdot`,
which moreover rounds each of its steps to odd (Arm's manual, BFDOT, where FPCR.EBF is 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tvm

from reasoning_compiler.codegen.marked_tile import Place, Tile, points, variables_in
from reasoning_compiler.codegen.matrix_tiles import MatrixTile, ask_for_tiles, configured
from reasoning_compiler.ir.dots import DOT, Dot, dot_named
from reasoning_compiler.ir.walk import annotations_in, blocks, substituted, with_block, with_body, with_loops

_SHIFTS = -0x7F7F7F80  # 0x80808080, 128 in each of four unsigned bytes, -128 in signed ones
_FIRST_BIT = {"int8": -0x80, "uint8": 0x80}
_LINE_BYTES = 64
_BFLOAT16 = "reasoning_compiler_bfloat16_dot"
# TVM's LLVM types have no bfloat16.
_BFLOAT16_CODE = """
declare <{n} x float> @{intrinsic}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define <{n} x float> @{name}(<{n} x float> %sums, <{n} x i32> %a, <{n} x i32> %b) alwaysinline {{
  %x = bitcast <{n} x i32> %a to <{m} x bfloat>
  %y = bitcast <{n} x i32> %b to <{m} x bfloat>
  %r = call <{n} x float> @{intrinsic}(<{n} x float> %sums, <{m} x bfloat> %x, <{m} x bfloat> %y)
  ret <{n} x float> %r
}}
"""


def with_dot_products(func: Any) -> Any:
    """Returns a PrimFunc with instructions where its blocks are marked with `DOT`, the same where none is.

    A block whose operands do not lie as the instruction reads them, as where a weight could not be packed, keeps its
    loops.

    Args:
        func: scheduled, its weights packed.
    """
    if DOT not in annotations_in(func.body):
        return func
    made: dict[Any, Any] = {}
    allocated: list[Any] = []
    copies: list[Any] = []
    tasks: list[Any] = []
    for realize, loops in blocks(func.body):
        if DOT in realize.block.annotations:
            dot = dot_named(str(realize.block.annotations[DOT]))
            tile = (MatrixTile if dot.by_tiles else _VectorTile).of(dot, realize, loops)
            if tile is not None and dot.shifted:
                shifted = tvm.tirx.decl_buffer(tile.left[0].shape, "uint8", f"{tile.left[0].name}_shift")
                copies.append(_shift(tile.left[0], shifted))
                allocated.append(shifted)
                tile = replace(tile, left=(shifted, tile.left[1]))
            summed = tile.summed(allocated) if tile is not None else None
            if summed is not None:
                made[tile.reducing[0].loop_var] = summed
            if summed is not None and isinstance(tile, MatrixTile):
                tasks.append(tile.task)
    if not made:
        return func

    def change(loop: Any) -> Any:
        if loop.loop_var in made:
            return made[loop.loop_var]
        return with_body(loop, configured(loop.body)) if loop.loop_var in tasks else loop

    body = with_loops(func.body, change)
    before = [ask_for_tiles(), *copies] if tasks else copies
    inner = tvm.tirx.SeqStmt([*before, body.block.body]) if before else body.block.body
    return func.with_body(with_block(body, inner, allocated=allocated))


class _VectorTile(Tile):
    """A register tile whose sums are vectors."""

    def summed(self, allocated: list[Any]) -> Any:
        """Returns what takes the place of the reducing loops; adds the buffers that it needs to `allocated`."""
        places = points(self.loops)
        body = [self._store(self.sums, self._dot(self.sums, self._group(at), at), at) for at in places]
        before, after = [], []
        if self.dot.shifted:
            moving = [loop for loop in self.loops if loop.loop_var in variables_in(self.right[1])]
            columns, place = points(moving), tvm.tirx.const(0, "int32")
            extra = tvm.tirx.decl_buffer(
                (len(columns) * self.dot.lanes,), self.dot.sums, f"{self.sums[0].name}_shift", scope="local"
            )
            allocated.append(extra)
            for loop in moving:
                place = place * loop.extent + loop.loop_var
            shift = (extra, [place * self.dot.lanes])
            zeros = tvm.tirx.Broadcast(tvm.tirx.const(0, self.dot.sums), self.dot.lanes)
            shifts = tvm.tirx.Broadcast(tvm.tirx.const(_SHIFTS, "int32"), self.dot.lanes)
            before = [self._store(shift, zeros, at) for at in columns]
            body = [*(self._store(shift, self._dot(shift, shifts, at), at) for at in columns), *body]
            sums = (_vector(self.sums, self.dot.lanes, at) - _vector(shift, self.dot.lanes, at) for at in places)
            after = [self._store(self.sums, value, at) for value, at in zip(sums, places, strict=True)]
        inner = tvm.tirx.SeqStmt(body) if len(body) > 1 else body[0]
        inner = self.in_reducing_loops(inner, _bfloat16_code(self.dot) if self.dot.left == "bfloat16" else "")
        return tvm.tirx.SeqStmt([*before, inner, *after]) if before else inner

    def _group(self, at: Mapping[Any, Any]) -> Any:
        """Returns a vector of one group of A's terms, as 32-bit integers."""
        group = tvm.tirx.reinterpret("int32", _vector(self.left, self.dot.terms, at))
        return tvm.tirx.Broadcast(group, self.dot.lanes)

    def _dot(self, sums: Place, left: Any, at: Mapping[Any, Any]) -> Any:
        """Returns a vector of sums with the products of a vector of A's groups and one of B's."""
        dtype, present = f"{self.dot.sums}x{self.dot.lanes}", _vector(sums, self.dot.lanes, at)
        right = _vector(self.right, self.dot.lanes * self.dot.terms, at)
        if self.dot.left == "bfloat16":
            right = tvm.tirx.reinterpret(f"int32x{self.dot.lanes}", right)
            return tvm.tirx.call_pure_extern(dtype, _BFLOAT16, present, left, right)
        left = tvm.tirx.reinterpret(f"uint8x{self.dot.lanes * self.dot.terms}", left)
        return tvm.tirx.call_llvm_pure_intrin(dtype, self.dot.intrinsic, present, left, right)

    def _store(self, place: Place, value: Any, at: Mapping[Any, Any]) -> Any:
        return tvm.tirx.BufferStore(place[0], value, _indices(place[1], self.dot.lanes, at))


def _bfloat16_code(dot: Dot) -> str:
    lanes, numbers = dot.lanes, dot.lanes * dot.terms
    return _BFLOAT16_CODE.format(n=lanes, m=numbers, intrinsic=dot.intrinsic, name=_BFLOAT16)


def _shift(source: Any, target: Any) -> Any:
    """Returns loops that write a buffer of bytes with 128 added to each, or taken away: the first bit turned around."""
    shape = [int(extent) for extent in source.shape]
    width = math.gcd(shape[-1], _LINE_BYTES)
    extents = [*shape[:-1], shape[-1] // width]
    loops = [tvm.tirx.Var(f"ax{dim}", "int32") for dim in range(len(extents))]
    indices = [*loops[:-1], tvm.tirx.Ramp(loops[-1] * width, 1, width)]
    dtype = str(source.dtype)
    turned = tvm.tirx.BufferLoad(source, indices) ^ tvm.tirx.Broadcast(tvm.tirx.const(_FIRST_BIT[dtype], dtype), width)
    made = tvm.tirx.BufferStore(
        target, tvm.tirx.reinterpret(f"uint8x{width}", turned) if dtype != "uint8" else turned, indices
    )
    for dim in reversed(range(len(extents))):
        kind = tvm.tirx.ForKind.PARALLEL if dim == 0 and extents[0] > 1 else tvm.tirx.ForKind.SERIAL
        made = tvm.tirx.For(loops[dim], 0, extents[dim], kind, made)
    return made


def _vector(place: Place, lanes: int, at: Mapping[Any, Any]) -> Any:
    return tvm.tirx.BufferLoad(place[0], _indices(place[1], lanes, at))


def _indices(indices: list[Any], lanes: int, at: Mapping[Any, Any]) -> list[Any]:
    *outer, last = (substituted(index, at) for index in indices)
    return [*outer, tvm.tirx.Ramp(last, 1, lanes)]

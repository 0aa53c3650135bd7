"""Instructions that multiply tiles (Intel's AMX) in place of the loops that a schedule has marked for them.

    for i_0 (parallel):
        for k: for i: for j:                                       # a register tile of up to 2 x 2, marked with `DOT`
            for row: for g: for lane: for t: C_local[16 * i + row, 16 * j + lane] += A[...] * B_packed[..., g, lane, t]
    main: ask the system for tiles
    for i_0 (parallel):
        configure all eight registers as 16 rows of 64 bytes
        for i, j (unrolled): load C_local into a register
        for k: load tiles of A and B_packed, and for i, j (unrolled): multiply them into the sums
        for i, j (unrolled): store the sums to C_local
        release the registers

Where a row and the next one lie, addresses say, so that TVM may move and shrink buffers behind this.

Linux gives tiles to a process that has asked for them (arch_prctl, ARCH_REQ_XCOMP_PERM), to all threads that it has or
will have; see its Documentation/arch/x86/xstate.rst. So each call of the kernel asks, which is one system call, and
whoever loads a library need not know.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import tvm

from reasoning_compiler.codegen.marked_tile import Place, Tile, points, variables_in
from reasoning_compiler.ir.dots import TILE_REGISTERS, Dot
from reasoning_compiler.ir.walk import substituted

_NAME = "reasoning_compiler_tiles"
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILE_DATA = 158, 0x1023, 18
_ROWS = int.from_bytes(bytes([16] * 8), "little")
_ROW_BYTES = int.from_bytes(bytes([64, 0] * 4), "little")  # of four registers, 16 bits each
_CONFIGURATION = (1, 0, _ROW_BYTES, _ROW_BYTES, 0, 0, _ROWS, 0)  # first the palette (Intel's manual, LDTILECFG)
# TVM's own calls of intrinsics take no numbers of registers.
_CODE = """
@{name} = private unnamed_addr constant [8 x i64] [{configuration}]
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
declare void @{intrinsic}(i8, i8, i8)
define i32 @{name}_ask() alwaysinline {{
  %r = call i64 asm sideeffect "syscall", "={{rax}},{{rax}},{{rdi}},{{rsi}},~{{rcx}},~{{r11}},~{{memory}}"({request})
  ret i32 0
}}
define i32 @{name}_configure() alwaysinline {{
  call void @llvm.x86.ldtilecfg(ptr @{name})
  ret i32 0
}}
define i32 @{name}_release() alwaysinline {{
  call void @llvm.x86.tilerelease()
  ret i32 0
}}
"""
_MOVE = """
define i32 @{name}_{kind}_{register}(ptr %row, ptr %next) alwaysinline {{
  %from = ptrtoint ptr %row to i64
  %to = ptrtoint ptr %next to i64
  %stride = sub i64 %to, %from
  call void @llvm.x86.tile{kind}64(i8 {register}, ptr %row, i64 %stride)
  ret i32 0
}}
"""
_MULTIPLY = """
define i32 @{name}_{dot}_{sums}_{left}_{right}() alwaysinline {{
  call void @{intrinsic}(i8 {sums}, i8 {left}, i8 {right})
  ret i32 0
}}
"""
_LOAD, _STORE = "loadd", "stored"


class MatrixTile(Tile):
    """A register tile whose sums are tiles."""

    def summed(self, allocated: list[Any]) -> Any:
        """Returns what takes the place of the reducing loops; None where there are too few registers."""
        places = points(self.loops)
        sums = [self._moved(self.sums, self.inner[0], at) for at in places]
        operands: dict[Any, int] = {}
        step, code = [], []
        for register, at in enumerate(places):
            read = []
            for place, row in zip((self.left, self.right), self.inner, strict=True):
                moving = variables_in(place[1])
                key = (row, *(value for variable, value in at.items() if variable in moving))
                if key not in operands:
                    operands[key] = len(places) + len(operands)
                    step.append(_call(f"{_LOAD}_{operands[key]}", *self._moved(place, row, at)))
                read.append(operands[key])
            step.append(_call(f"{self.dot.name}_{register}_{read[0]}_{read[1]}"))
            names = {"name": _NAME, "dot": self.dot.name, "intrinsic": self.dot.intrinsic}
            code.append(_MULTIPLY.format(**names, sums=register, left=read[0], right=read[1]))
        if len(sums) + len(operands) > TILE_REGISTERS or not self.around:
            return None
        inner = self.in_reducing_loops(tvm.tirx.SeqStmt(step), _common_code(self.dot) + "".join(code))
        loads = [_call(f"{_LOAD}_{register}", *place) for register, place in enumerate(sums)]
        stores = [_call(f"{_STORE}_{register}", *place) for register, place in enumerate(sums)]
        return tvm.tirx.SeqStmt([*loads, inner, *stores])

    @property
    def task(self) -> Any:
        """The variable of the loop whose iterations configure the registers, each for itself: of the parallel one."""
        parallel = (loop for loop in self.around if int(loop.kind) == int(tvm.tirx.ForKind.PARALLEL))
        return next(parallel, self.around[0]).loop_var

    def _moved(self, place: Place, row: Any, at: Mapping[Any, int]) -> tuple[Any, Any]:
        """Returns the addresses of a tile's first and second rows; `row` is the variable that counts them."""
        addresses = []
        for number in range(2):
            values = dict.fromkeys(self.inner, 0) | dict(at) | {row: number}
            indices = [substituted(index, values) for index in place[1]]
            addresses.append(tvm.tirx.address_of(tvm.tirx.BufferLoad(place[0], indices)))
        return addresses[0], addresses[1]


def ask_for_tiles() -> Any:
    """Returns a statement that asks the system for them."""
    return _call("ask")


def configured(body: Any) -> Any:
    """Returns a statement with the registers configured before and released after it."""
    return tvm.tirx.SeqStmt([_call("configure"), body, _call("release")])


def _call(name: str, *arguments: Any) -> Any:
    return tvm.tirx.Evaluate(tvm.tirx.call_extern("int32", f"{_NAME}_{name}", *arguments))


def _common_code(dot: Dot) -> str:
    numbers = (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILE_DATA)
    common = _CODE.format(
        name=_NAME,
        configuration=", ".join(f"i64 {word}" for word in _CONFIGURATION),
        intrinsic=dot.intrinsic,
        request=", ".join(f"i64 {number}" for number in numbers),
    )
    moves = itertools.product((_LOAD, _STORE), range(TILE_REGISTERS))
    return common + "".join(_MOVE.format(name=_NAME, kind=kind, register=register) for kind, register in moves)

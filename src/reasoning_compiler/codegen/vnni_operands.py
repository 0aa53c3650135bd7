"""The operands of an 8-bit dot product of TVM's as LLVM 22 takes them.

LLVM 22 wants `vpdpbusd`'s operands as bytes. The tensor intrinsic of TVM 0.27, built with it, still gives 32-bit
integers, and every program with the intrinsic, which is all that MetaSchedule offers for such a product, fails to
build.
"""

from __future__ import annotations

from typing import Any

from reasoning_compiler.ir.walk import mapped
from reasoning_compiler.machine.toolchain import import_tvm

_FIRST_LLVM_WITH_BYTES = 22
_NAME = "llvm.x86.avx512.vpdpbusd.512"


def with_operands_as_bytes(func: Any) -> Any:
    """Returns a PrimFunc whose calls of `vpdpbusd` take bytes."""
    tvm = import_tvm()
    from tvm.target.codegen import llvm_lookup_intrinsic_id, llvm_version_major

    if llvm_version_major() < _FIRST_LLVM_WITH_BYTES:
        return func

    dot_product = llvm_lookup_intrinsic_id(_NAME)

    def with_bytes(call: Any) -> Any:
        if getattr(call.op, "name", "") != "tirx.call_llvm_pure_intrin" or int(call.args[0]) != dot_product:
            return call
        name, total, unsigned, signed = call.args
        if str(unsigned.ty.dtype) != "int32x16":
            return call
        operands = [tvm.tirx.reinterpret("uint8x64", unsigned), tvm.tirx.reinterpret("int8x64", signed)]
        return tvm.ir.Call(call.op, [name, total, *operands], ret_ty=call.ty)

    return func.with_body(mapped(func.body, tvm.ir.Call, with_bytes))

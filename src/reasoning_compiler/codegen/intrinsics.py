"""A tensor intrinsic of TVM's that its own LLVM no longer takes, mended."""

from __future__ import annotations

from typing import Any

from reasoning_compiler.machine.toolchain import import_tvm

_NAME = "dot_16x4_vnni"
_FIRST_LLVM_WITH_BYTES = 22


def mend_vnni_intrinsic() -> None:
    """Makes the 8-bit dot product of AVX512-VNNI build; may be called often.

    LLVM 22 wants `vpdpbusd`'s operands as bytes. TVM 0.27, built with it, still gives 32-bit integers, and every
    program with the intrinsic, which is all that MetaSchedule offers for such a product, fails to build.
    """
    tvm = import_tvm()
    import tvm_ffi
    from tvm.target.codegen import llvm_version_major

    intrinsic = tvm.s_tir.TensorIntrin.get(_NAME, allow_missing=True)
    if intrinsic is None or llvm_version_major() < _FIRST_LLVM_WITH_BYTES:
        return

    def with_bytes(call: Any) -> Any:
        if call.op.name != "tirx.call_llvm_pure_intrin":
            return call
        name, total, unsigned, signed = call.args
        if str(unsigned.ty.dtype) != "int32x16":
            return call
        operands = [tvm.tirx.reinterpret("uint8x64", unsigned), tvm.tirx.reinterpret("int8x64", signed)]
        return tvm.ir.Call(call.op, [name, total, *operands], ret_ty=call.ty)

    implementation = tvm_ffi.structural_map(intrinsic.impl, (tvm.ir.Call, with_bytes))
    tvm.s_tir.TensorIntrin.register(_NAME, intrinsic.desc, implementation, override=True)

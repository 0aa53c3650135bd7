"""TVM's lowering for CPUs, with buffers of scope "local" on the stack, where LLVM can hold them in registers.

TVM leaves a buffer on the stack only if it is of scope "global" and has less than 1024 bytes, which are 16 registers of
AVX-512; it asks the runtime for memory for all others, also for those of scope "local". LLVM then stores each sum in
every iteration of a loop in which anything else may touch memory, a prefetch for example.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi

_PIPELINE = "reasoning_compiler"
_STACK_BYTES = 8192  # far more than there are registers, far less than a thread's stack


def compile_for(mod: Any, target: Any) -> Any:
    """Returns the executable of a scheduled module, lowered as this module says where the target is a CPU.

    Args:
        mod: an IRModule.
        target: the `tvm.target.Target`.
    """
    if target.kind.name != "llvm":
        return tvm.compile(mod, target=target)
    tvm.tirx.compilation_pipeline.PIPELINE_MAP[_PIPELINE] = _pipeline
    return tvm.compile(mod, target=target, tir_pipeline=_PIPELINE)


def _pipeline() -> tuple[Any, Any, Any]:
    lowering, finish_host, finish_device = tvm.tirx.compilation_pipeline.PIPELINE_MAP["s_tir"]()

    @tvm.transform.module_pass(opt_level=0)
    def with_local_buffers_on_the_stack(mod: Any, _context: Any) -> Any:
        lowered = lowering(mod)
        functions = {
            name: func.with_body(tvm_ffi.structural_map(func.body, (tvm.tirx.AllocBuffer, _on_the_stack)))
            for name, func in lowered.functions.items()
        }
        return tvm.IRModule(functions, attrs=lowered.attrs)

    return with_local_buffers_on_the_stack, finish_host, finish_device


def _on_the_stack(allocation: Any) -> Any:
    buffer = allocation.buffer
    if buffer.scope() != "local" or not all(isinstance(extent, tvm.tirx.IntImm) for extent in buffer.shape):
        return allocation
    num_bytes = math.prod(map(int, buffer.shape)) * tvm.DataType(str(buffer.dtype)).itemsize
    if num_bytes > _STACK_BYTES:
        return allocation
    kept = {**allocation.annotations, "disable_lower_builtin": tvm.tirx.IntImm("int32", 1)}
    return tvm.tirx.AllocBuffer(buffer, kept)

"""Buffers of scope "local" on the stack, where LLVM can hold them in registers.

TVM leaves a buffer on the stack only if it is of scope "global" and has less than 1024 bytes, which are 16 registers of
AVX-512; it asks the runtime for memory for all others, also for those of scope "local". LLVM then stores each sum in
every iteration of a loop in which anything else may touch memory, a prefetch for example.
"""

from __future__ import annotations

import math
from typing import Any

from reasoning_compiler.ir.walk import mapped
from reasoning_compiler.machine.toolchain import import_tvm

_STACK_BYTES = 8192  # far more than there are registers, far less than a thread's stack


def with_stack_buffers(func: Any) -> Any:
    """Returns a lowered PrimFunc whose small local buffers are on the stack."""
    return func.with_body(mapped(func.body, import_tvm().tirx.AllocBuffer, _on_the_stack))


def _on_the_stack(allocation: Any) -> Any:
    tvm = import_tvm()
    buffer = allocation.buffer
    if buffer.scope() != "local" or not all(isinstance(extent, tvm.tirx.IntImm) for extent in buffer.shape):
        return allocation
    num_bytes = math.prod(map(int, buffer.shape)) * tvm.DataType(str(buffer.dtype)).itemsize
    if num_bytes > _STACK_BYTES:
        return allocation
    kept = {**allocation.annotations, "disable_lower_builtin": tvm.tirx.IntImm("int32", 1)}
    return tvm.tirx.AllocBuffer(buffer, kept)

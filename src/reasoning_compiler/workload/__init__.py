"""What is to be tuned: the named kernels, and a user's own. TVM is imported when the first workload is made."""

from __future__ import annotations

from reasoning_compiler.workload.catalogue import CATALOGUE, Entry, in_a_line, parse
from reasoning_compiler.workload.kernels import (
    deepseek_moe,
    flux_attention,
    flux_conv,
    gemm,
    llama3_attention,
    llama4_mlp,
    routed_experts,
)
from reasoning_compiler.workload.user import from_file, from_tvm
from reasoning_compiler.workload.workload import Workload, numpy_dtype

__all__ = [
    "CATALOGUE",
    "Entry",
    "Workload",
    "deepseek_moe",
    "flux_attention",
    "flux_conv",
    "from_file",
    "from_tvm",
    "gemm",
    "in_a_line",
    "llama3_attention",
    "llama4_mlp",
    "numpy_dtype",
    "parse",
    "routed_experts",
]

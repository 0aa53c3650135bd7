"""Everything between a scheduled module and machine code, as one versioned pipeline.

    compiled = codegen.compile(schedule.mod, target)                              # a library: `main` and its packers
    tvm.compile(mod, target, tir_pipeline=codegen.tir_pipeline())                 # in TVM's own build
    relax.build(mod, target, tir_pipeline=codegen.tir_pipeline())                 # in a whole model

A scheduled module, a target and `PIPELINE_VERSION` determine the code: what was measured can be built again from what
was saved. `pipeline.py` lists the passes in order.
"""

from __future__ import annotations

from reasoning_compiler.codegen.pipeline import (
    PIPELINE_VERSION,
    Compiled,
    compile,
    needed_passes,
    rewritten,
    tir_pipeline,
)

__all__ = ["PIPELINE_VERSION", "Compiled", "compile", "needed_passes", "rewritten", "tir_pipeline"]

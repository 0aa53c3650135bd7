"""The code generator: a scheduled module and a target in, machine code out, by the passes listed here, in order.

A schedule marks its blocks and loops with annotations (`ir/marks.py`); passes turn the marks into code. The passes
before TVM's lowering see blocks, those within it see loops and flat buffers. TVM's own are the CPU part of its pipeline
`s_tir`, listed here so that a version of this pipeline is always the same passes, whatever the pass context says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_compiler.codegen.linking import link
from reasoning_compiler.codegen.masked_loops import with_masked_blocks_skipped
from reasoning_compiler.codegen.packing import Packed, split_packing
from reasoning_compiler.codegen.padded_reads import without_padded_conditions
from reasoning_compiler.codegen.register_vectors import with_register_vectors
from reasoning_compiler.codegen.signature import Signature, arguments_of
from reasoning_compiler.codegen.stack_buffers import with_stack_buffers
from reasoning_compiler.codegen.vector_math import with_vector_math
from reasoning_compiler.codegen.vnni_operands import with_operands_as_bytes
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine.toolchain import import_tvm

PIPELINE_VERSION = 1
"""Goes up whenever the passes make other code of the same module and target."""

_NAME = f"reasoning_compiler.v{PIPELINE_VERSION}"

Rewrite = Callable[[Any], Any]
"""Returns a PrimFunc rewritten; one without this pass's marks it returns as it is."""

REWRITES: tuple[Rewrite, ...] = (without_padded_conditions, with_masked_blocks_skipped, with_vector_math)
"""What is computed, and how. The analysis reads a program after these: masked blocks skipped, `exp` as arithmetic."""


@dataclass(frozen=True)
class Compiled:
    """A scheduled module as machine code.

    Args:
        executable: TVM's `Executable`, with `main` and one function for each weight that is packed ahead of time.
        packed: the module that it was made of.
        signature: how `main` is called.
    """

    executable: Any  # tvm.runtime.Executable
    packed: Packed
    signature: Signature

    def link(self, library: Path) -> Path:
        """Returns the file that was written: a shared library or, for another machine, an object; see `link`.

        Raises:
            Refused: "build" where it cannot be linked.
            OSError: it cannot be written.
        """
        link(self.executable.mod, library, target=self.signature.target)
        return library if library.exists() else library.with_suffix(".o")


def compile(mod: Any, target: Any, *, arguments: Sequence[Argument] | None = None) -> Compiled:
    """Returns the machine code of a scheduled module; equal modules, targets and versions have equal code.

    The packing of constant weights becomes functions of their own (`packing.py`); then comes the pipeline.

    Args:
        mod: an IRModule with one PrimFunc `main`, scheduled, or as it was written.
        target: the `tvm.target.Target`, or its JSON text. For other kinds than `llvm`, TVM's own pipeline follows
            `REWRITES`.
        arguments: of `main` as its user passes them; None to take them from the module.
    """
    tvm = import_tvm()
    packed = split_packing(mod)
    made_for = tvm.target.Target(target)
    if made_for.kind.name == "llvm":
        executable = tvm.compile(packed.library, target=made_for, tir_pipeline=tir_pipeline())
    else:
        executable = tvm.compile(rewritten(packed.library), target=made_for)
    known = arguments_of(mod) if arguments is None else arguments
    return Compiled(executable, packed, Signature.of(packed, known, target=str(target), pipeline=PIPELINE_VERSION))


def tir_pipeline() -> str:
    """Returns the name of the pipeline, for the argument `tir_pipeline` of TVM's and Relax's own build functions.

    It changes no function's arguments: constant weights whose packing has not been split off are packed in each call.
    It is for targets of kind `llvm`; a build for another one raises `UsageError`.
    """
    tvm = import_tvm()
    import tvm_ffi

    tvm_ffi.register_error("UsageError", UsageError)  # else what a pass raises comes out as a RuntimeError
    tvm.tirx.compilation_pipeline.register_tir_pipeline(_NAME, _pipeline)
    return _NAME


def rewritten(mod: Any) -> Any:
    """Returns a scheduled module after `REWRITES`, as the analysis reads it."""
    functions = dict(mod.functions.items())
    for rewrite in REWRITES:
        functions = {name: rewrite(func) for name, func in functions.items()}
    return import_tvm().IRModule(functions, attrs=mod.attrs)


def needed_passes(mod: Any, target: Any) -> tuple[str, ...]:
    """Returns the names of the passes of ours that change a scheduled module: without them TVM builds other code of it.

    Args:
        mod: an IRModule with one PrimFunc `main`.
        target: the `tvm.target.Target`.
    """
    tvm = import_tvm()
    import tvm_ffi

    packed = split_packing(mod)
    found = [split_packing.__name__] if packed.packers else []
    before = tvm.tirx.transform.BindTarget(target.with_host(target))(packed.library)
    for each in _passes() if target.kind.name == "llvm" else REWRITES:
        after = _as_pass(each)(before)
        if not isinstance(each, tvm.transform.Pass) and not tvm_ffi.structural_equal(before, after):
            found.append(each.__name__)
        before = after
    return tuple(found)


def _pipeline() -> tuple[Any, Any, Any]:
    """Returns the passes, those that finish the host's code, and those that finish a device's: none."""
    tvm = import_tvm()
    tirx, sequential = tvm.tirx.transform, tvm.transform.Sequential
    finish = [tirx.LowerTVMBuiltin(), tirx.LowerIntrin()]
    return sequential([_as_pass(each) for each in _passes()]), lambda: sequential(finish), lambda: sequential([])


def _passes() -> list[Any]:
    """Returns the pipeline: functions are passes of ours, the others TVM's."""
    tvm = import_tvm()
    # They import TVM, which costs seconds.
    from reasoning_compiler.codegen.dot_products import with_dot_products
    from reasoning_compiler.codegen.independent_loops import with_independent_loops
    from reasoning_compiler.codegen.prefetching import with_prefetches

    tirx, s_tir = tvm.tirx.transform, tvm.s_tir.transform
    return [
        _checked,
        # What a schedule has marked, over blocks.
        *REWRITES,
        with_independent_loops,
        with_prefetches,
        with_dot_products,
        with_operands_as_bytes,
        # From blocks to loops over flat buffers.
        s_tir.CanonicalizeLoop(),
        s_tir.LowerInitBlock(),
        s_tir.PlanAndUpdateBufferAllocationLocation(),
        s_tir.ConvertBlocksToOpaque(),
        s_tir.CompactBufferAllocation(),
        s_tir.LowerMatchBuffer(),
        s_tir.StmtSimplify(),
        s_tir.AnnotateIrregularLoop(),
        s_tir.InjectSoftwarePipeline(),
        s_tir.LowerOpaqueBlock(),
        tirx.FlattenBuffer(),
        tirx.BF16ComputeLegalize(),
        tirx.NarrowDataType(32),
        s_tir.LoopPartition(),
        # From vectorized loops to vectors of one register each.
        with_register_vectors,
        tirx.ConvertSSA(),
        s_tir.StmtSimplify(),
        tirx.VectorizeLoop(),
        s_tir.InjectDoubleBuffer(),
        tirx.StorageRewrite(),
        s_tir.HoistIfThenElse(),
        tirx.UnrollLoop(),
        s_tir.RenormalizeSplitPattern(),
        tirx.StmtSimplify(),
        tirx.RemoveNoOp(),
        s_tir.RewriteUnsafeSelect(),
        tirx.CommonSubexprElim(),
        # Functions as TVM's runtime calls them.
        tirx.FP8ComputeLegalize(),
        tirx.VerifyMemory(),
        tirx.AnnotateEntryFunc(),
        tirx.SplitHostDevice(),
        tirx.MakePackedAPI(),
        tirx.FP8StorageLegalize(),
        tirx.BF16StorageLegalize(),
        with_stack_buffers,
    ]


def _checked(func: Any) -> Any:
    """Returns a PrimFunc for a CPU as it is.

    Raises:
        UsageError: it is for another target.
    """
    kind = func.attrs["target"].kind.name
    if kind != "llvm":
        raise UsageError(f"`target` is of kind `{kind}`; this `tir_pipeline` is for `llvm`: leave it out for others")
    return func


def _as_pass(each: Any) -> Any:
    """Returns a pass of TVM's as it is, and a function on PrimFuncs as a pass."""
    transform = import_tvm().transform
    if isinstance(each, transform.Pass):
        return each
    function_pass = import_tvm().tirx.transform.prim_func_pass
    return function_pass(lambda func, _mod, _context: each(func), opt_level=0, name=each.__name__)

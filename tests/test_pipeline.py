"""The code generator's pipeline: equal modules give equal code, in whatever build it runs and whatever was saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from measure_kernels import Gemm, scheduled, target, tvm
from reasoning_compiler import codegen
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.ir.marks import VECTOR_MATH
from reasoning_compiler.measure.workers.builder import Builder
from reasoning_compiler.measure.workers.store import Store
from test_register_vectors import AVX2, INSTRUCTION, MOVED, by_width, elementwise, product

pytestmark = pytest.mark.tvm

_BUILD = """
import sys
from pathlib import Path
from reasoning_compiler import codegen
from reasoning_compiler.machine import import_tvm
tvm = import_tvm()
for script, library in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
    codegen.compile(tvm.script.from_source(Path(script).read_text()), sys.argv[1]).link(Path(library))
"""


def sigmoids() -> Any:
    """Returns vectors of 28 lanes, marked for arithmetic in place of calls."""
    schedule, block = elementwise((8, 28), math=lambda x: tvm.tirx.sigmoid(x))
    schedule.vectorize(schedule.get_loops(block)[1])
    schedule.annotate(schedule.get_sblock("root"), VECTOR_MATH, 1)
    return schedule.mod


def modules() -> dict[str, Any]:
    return {"packed": scheduled(Gemm()), "tails": product(28).mod, "sigmoids": sigmoids(), "plain": Gemm().mod}


def assembly(executable: Any) -> str:
    return executable.mod.inspect_source("asm")


def linked(mod: Any, library: Path) -> bytes:
    return codegen.compile(mod, target()).link(library).read_bytes()


def test_equal_modules_have_equal_code_also_in_another_process_and_from_a_script(tmp_path: Path) -> None:
    made, arguments = {}, [str(target())]
    for name, mod in modules().items():
        made[name] = linked(mod, tmp_path / f"{name}.so")
        assert linked(mod, tmp_path / "again.so") == made[name]
        (tmp_path / f"{name}.py").write_text(mod.script())
        arguments += [str(tmp_path / f"{name}.py"), str(tmp_path / f"{name}-elsewhere.so")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", _BUILD, *arguments], env=env, check=True)
    assert {name: (tmp_path / f"{name}-elsewhere.so").read_bytes() for name in made} == made


def test_the_builder_makes_the_same_library(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for mod in modules().values():
        built = Builder(store).build(module=tvm.ir.save_json(mod), target=str(target()), arguments=None)
        assert store.path(built["code"]).read_bytes() == linked(mod, tmp_path / "own.so")
        assert built["signature"].pipeline == codegen.PIPELINE_VERSION


def test_tvms_own_build_makes_the_same_code() -> None:
    for mod in (product(28).mod, sigmoids()):
        ours = codegen.compile(mod, target()).executable
        theirs = tvm.compile(mod, target=target(), tir_pipeline=codegen.tir_pipeline())
        assert assembly(theirs) == assembly(ours)
        shapes = [tuple(map(int, param.shape)) for param in mod["main"].params]
        inputs = [np.random.default_rng(0).standard_normal(shape, dtype=np.float32) for shape in shapes]
        results = []
        for built in (ours, theirs):
            tensors = [tvm.runtime.tensor(array) for array in inputs]
            built["main"](*tensors)
            results.append(tensors[-1].numpy())
        np.testing.assert_array_equal(*results)


def test_a_relax_model_is_built_by_the_pipeline() -> None:
    relax, shapes = tvm.relax, {"a": (8, 64), "b": (64, 28), "bias": (28,)}
    params = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    builder, result = relax.BlockBuilder(), relax.TensorType((8, 28), "float32")
    with builder.function("main", params):
        scheduled_ = {"matmul": product(28), "double": elementwise((8, 28))[0]}
        funcs = {name: each.mod["main"].with_attr("global_symbol", name) for name, each in scheduled_.items()}
        matmul, double = (builder.add_func(func, name) for name, func in funcs.items())
        made = builder.emit(relax.call_tir(matmul, params[:2], result))
        builder.emit_func_output(builder.emit(relax.call_tir(double, [made, params[2]], result)))
    moved = {}
    for pipeline in (codegen.tir_pipeline(), "s_tir"):
        model = relax.build(builder.get(), tvm.target.Target(AVX2), tir_pipeline=pipeline)
        found = INSTRUCTION.findall(model.mod.imports[0].inspect_source("asm"))
        moved[pipeline] = by_width(found, MOVED["avx"]).total()
    assert moved["s_tir"] > 100 and moved[codegen.tir_pipeline()] <= 8, "without, vectors are put together from scalars"

    model = relax.build(builder.get(), target(), tir_pipeline=codegen.tir_pipeline())
    a, b, bias = (np.random.default_rng(0).standard_normal(shape, dtype=np.float32) for shape in shapes.values())
    out = relax.VirtualMachine(model, tvm.cpu())["main"](*map(tvm.runtime.tensor, (a, b, bias)))
    np.testing.assert_allclose(out.numpy(), (a @ b + bias) * 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["c", "cuda"])
def test_another_target_is_refused(kind: str) -> None:
    refused = tvm.target.Target({"kind": kind} | ({"arch": "sm_80"} if kind == "cuda" else {}))
    with pytest.raises(UsageError, match=rf"^`target` is of kind `{kind}`; .* for `llvm`: leave it out for others$"):
        tvm.compile(Gemm().mod, target=refused, tir_pipeline=codegen.tir_pipeline())


def test_the_passes_that_a_program_needs_are_those_that_make_other_code() -> None:
    target_ = tvm.target.Target(AVX2 | {"num-cores": 2})
    needed = {name: codegen.needed_passes(mod, target_) for name, mod in modules().items()}
    assert needed == {
        "packed": ("split_packing", "with_register_vectors"),
        "tails": ("with_register_vectors", "with_stack_buffers"),
        "sigmoids": ("with_vector_math", "with_register_vectors"),
        "plain": (),
    }
    for name, mod in modules().items():
        ours, plain = codegen.compile(mod, target_).executable, tvm.compile(mod, target=target_)
        assert (assembly(ours) == assembly(plain)) == (not needed[name])

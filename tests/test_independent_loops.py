"""Kernels that only the general rule treats: what becomes parallel, and that the values stay right."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from irregular_kernels import CASES, INPUTS
from reasoning_compiler import codegen
from reasoning_compiler.codegen.independent_loops import with_independent_loops
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.ir.irregular import irregular, names_inside
from reasoning_compiler.ir.walk import parts_in
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload.user import from_tvm

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 2, "mcpu": "x86-64-v3"})


def _space(name: str) -> Space:
    kernel = CASES[name][0]
    mod = from_tvm(kernel if isinstance(kernel, tvm.tirx.PrimFunc) else kernel()).mod
    return Space(mod, TARGET, rules=rules_for(mod, TARGET))


def _parallel(func: tvm.tirx.PrimFunc) -> list[str]:
    return [loop.loop_var.name for loop in parts_in(func, tvm.tirx.For) if int(loop.kind) == 1]


@pytest.mark.parametrize("name", CASES)
def test_independent_loops_become_parallel_and_the_others_stay(name: str) -> None:
    _, inputs, right, loops = CASES[name]
    space = _space(name)
    given = [INPUTS[each] for each in inputs]
    wanted = right(*given)
    for degree in (2, 1):
        program = space.edit(space.start, Transformation((("independent loops", degree),)))
        mod = space.schedule(program).mod
        before = _parallel(mod["main"])
        after = _parallel(with_independent_loops(mod["main"]))
        assert sorted(after) == sorted([*before, *loops])
        output = tvm.runtime.tensor(np.full_like(wanted, np.nan, dtype="float32"))
        codegen.compile(mod, TARGET).executable["main"](*map(tvm.runtime.tensor, given), output)
        np.testing.assert_allclose(output.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_what_tvm_schedules_is_left_to_it() -> None:
    a, b = (tvm.te.placeholder((16, 16), name=name) for name in "ab")
    axis = tvm.te.reduce_axis((0, 16), "k")
    product = tvm.te.compute((16, 16), lambda i, j: tvm.te.sum(a[i, axis] * b[axis, j], axis=axis))
    assert irregular(tvm.te.create_prim_func([a, b, product])) == []
    assert names_inside(irregular(CASES["running-sum"][0])) == {"next"}

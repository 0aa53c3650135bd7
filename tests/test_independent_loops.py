"""Kernels that TVM's rules do not schedule: which of their loops run in parallel, and what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from irregular_kernels import CASES, INPUTS
from reasoning_compiler import codegen
from reasoning_compiler.codegen.independent_loops import with_independent_loops
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.ir.walk import parts_in
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import from_tvm
from space_kernels import tvm

pytestmark = pytest.mark.tvm

DECISION = "independent loops"


def space_of(kernel: Any) -> Space:
    func = kernel() if callable(kernel) and not isinstance(kernel, tvm.tirx.PrimFunc) else kernel
    mod, target = from_tvm(func).mod, tvm_target(detect())
    return Space(mod, target, rules=rules_for(mod, target))


def parallel_loops(func: Any) -> list[str]:
    loops = parts_in(func.body, tvm.tirx.For)
    return [loop.loop_var.name for loop in loops if int(loop.kind) == int(tvm.tirx.ForKind.PARALLEL)]


def computed(executable: Any, mod: Any, inputs: list[np.ndarray]) -> np.ndarray:
    params = list(mod["main"].params)
    output = tvm.runtime.tensor(np.full([int(d) for d in params[-1].shape], np.nan, str(params[-1].dtype)))
    executable["main"](*map(tvm.runtime.tensor, inputs), output)
    return output.numpy()


@pytest.mark.parametrize("name", CASES)
def test_what_is_independent_runs_in_parallel_and_computes_the_right_values(name: str) -> None:
    kernel, names, right, expected = CASES[name]
    inputs = [INPUTS[each] for each in names]
    space = space_of(kernel)
    assert DECISION in [decision.name for decision in space.table(UNTUNED)]
    for degree in (0, 1, 2):
        mod = space.schedule(space.edit(UNTUNED, Transformation(((DECISION, degree),)))).mod
        compiled = codegen.compile(mod, tvm_target(detect()))
        np.testing.assert_allclose(computed(compiled.executable, mod, inputs), right(*inputs), rtol=1e-4, atol=1e-5)
        now_parallel = parallel_loops(with_independent_loops(mod["main"]))
        as_written = parallel_loops(mod["main"])
        assert sorted(now_parallel) == sorted([*as_written, *(expected if degree else [])])


def test_a_loop_that_carries_a_dependence_stays_serial_whatever_its_axis_is_marked_as() -> None:
    kernel, _, _, _ = CASES["running-sum-marked-spatial"]
    space = space_of(kernel)
    mod = space.schedule(space.edit(UNTUNED, Transformation(((DECISION, 2),)))).mod
    kinds = {
        loop.loop_var.name: int(loop.kind) for loop in parts_in(with_independent_loops(mod["main"]).body, tvm.tirx.For)
    }
    assert kinds["j"] == int(tvm.tirx.ForKind.SERIAL)

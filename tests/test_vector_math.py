"""Calls of the C library's functions as arithmetic: how exact they are, and that the decision means what it says."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from reasoning_compiler import codegen
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.machine import detect, quiet_logging, tvm_target
from reasoning_compiler.rules.discovery import rules_for
from reasoning_compiler.rules.metaschedule import space_generator
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import vector_math
from space_kernels import elementwise, make, make_inputs, softmax, te, tvm

pytestmark = pytest.mark.tvm


def computed(function: Callable[[Any], Any], values: np.ndarray) -> np.ndarray:
    x = te.placeholder(values.shape, name="x")
    y = te.compute(values.shape, lambda i: function(x[i]), name="y")
    result = tvm.runtime.tensor(np.zeros_like(values))
    func = te.create_prim_func([x, y]).with_attr("global_symbol", "main")
    tvm.compile(tvm.IRModule({"main": func}), target=tvm_target(detect()))["main"](tvm.runtime.tensor(values), result)
    return result.numpy()


@pytest.mark.parametrize(
    ("function", "exact", "low", "high", "tolerance"),
    [
        (vector_math.exp, np.exp, -87.3, 88.72, 5e-6),
        (vector_math.sigmoid, lambda x: 1 / (1 + np.exp(-x)), -87.0, 50.0, 5e-6),
        (vector_math.tanh, np.tanh, -12.0, 12.0, 5e-7),
        (vector_math.erf, np.vectorize(math.erf), -6.0, 6.0, 5e-7),
    ],
)
def test_the_relative_error_is_as_stated(function: Any, exact: Any, low: float, high: float, tolerance: float) -> None:
    values = np.concatenate([np.linspace(low, high, 50_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    right = exact(values.astype(np.float64))
    small = np.abs(right) == 0
    error = np.abs(computed(function, values) - right)[~small] / np.abs(right[~small])
    assert error.max() < tolerance


def test_exp_of_what_is_no_ordinary_number() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 88.73, 1e30, -88.1, -1e30, 0.0], np.float32)
    assert np.array_equal(
        computed(vector_math.exp, values), np.float32([np.nan, np.inf, 0, np.inf, np.inf, 0, 0, 1]), equal_nan=True
    )


def test_vector_math_is_a_decision_and_the_untuned_program_keeps_its_calls() -> None:
    for kernel in (softmax(16, 32), elementwise()):
        made = Space(kernel.mod, tvm_target(detect()), rules=rules_for(kernel.mod, tvm_target(detect())))
        inputs = make_inputs(kernel, 0)
        for value in (1, 0, 1):
            program = made.edit(UNTUNED, Transformation((("vector math", value),)))
            mod = codegen.rewritten(made.schedule(program).mod)
            assert ("T.exp(" in mod.script()) == (value == 0)
            assert all(nest.scalar_calls == 0 for nest in made.nests(program)) == (value == 1)
            output = tvm.runtime.tensor(np.zeros([int(d) for d in list(mod["main"].params)[-1].shape], np.float32))
            tvm.compile(mod, target=tvm_target(detect()))["main"](*map(tvm.runtime.tensor, inputs), output)
            np.testing.assert_allclose(output.numpy(), kernel.reference(*inputs), rtol=5e-6)
        assert "T.exp(" in made.schedule(UNTUNED).mod.script()


def test_kernels_without_such_calls_have_no_such_decision() -> None:
    x = te.placeholder((8, 8), "float64", name="x")
    kernel = make([x, te.compute((8, 8), lambda i, j: te.exp(x[i, j]), name="y")], np.exp)
    made = Space(kernel.mod, tvm_target(detect()), rules=rules_for(kernel.mod, tvm_target(detect())))
    assert "vector math" not in [d.name for d in made.table(UNTUNED)]


@pytest.mark.nightly
def test_tvms_search_gets_it_with_our_space() -> None:
    kernel, target = elementwise(), tvm_target(detect())
    generator = space_generator(kernel.mod, target, rules=rules_for(kernel.mod, target))
    measured = []

    @derived_object
    class Listener(ms.measure_callback.PyMeasureCallback):
        def apply(self, task_scheduler: Any, task_id: int, candidates: Any, builds: Any, runs: Any) -> None:
            measured.extend(candidate.sch for candidate in candidates)

    with tempfile.TemporaryDirectory() as work_dir, quiet_logging():
        ms.tune_tir(kernel.mod, target, work_dir, 16, space=generator, seed=1, measure_callbacks=[Listener()])
    scripts = [codegen.rewritten(sch.mod).script() for sch in measured]
    assert scripts and all(("T.exp(" in text) == ('vector_math": 0' in text) for text in scripts)
    assert any("T.exp(" not in text for text in scripts)

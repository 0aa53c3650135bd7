"""The workload room with TVM: every kernel unscheduled against its reference, a user's own kernels, design spaces."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest

from reasoning_compiler import workload as workloads
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.measure.verification.compare import Expected
from reasoning_compiler.measure.verification.expectations import by_functions
from reasoning_compiler.workload import (
    CATALOGUE,
    from_file,
    from_tvm,
    in_a_line,
    parse,
)
from reasoning_compiler.workload.input_sets import INPUT_SETS, SUMS_EXACTLY, make_input_set
from reasoning_compiler.workload.primfunc import blocks
from reasoning_compiler.workload.vector_math import MAX_EXPONENT, exp_below_88, sigmoid

pytestmark = pytest.mark.tvm

SMALL = {
    "llama3-attention": "seq_len=24,num_heads=4,num_kv_heads=2,head_dim=8",
    "flux-attention": "text_len=5,image_tokens=12,num_heads=3,head_dim=8",
    "deepseek-moe": "tokens=5,num_experts=3,hidden=24,width=16",
    "flux-conv": "height=6,width=5,in_channels=8,out_channels=12,batch=2",
    "llama4-mlp": "tokens=5,hidden=24,width=16",
    "routed-experts": "blocks=4,tokens=5,num_experts=3,hidden=24,width=16",
    "gemm": "m=9,n=20,k=33",
}
SPECS = [
    f"{name}[{settings},dtype={dtype}]"
    for name, settings in SMALL.items()
    for dtype in ("float32", "float16", "bfloat16")
] + [
    "gemm[m=9,n=20,k=33,dtype=int8]",
    "gemm[m=9,n=20,k=33,weight=false]",
    "deepseek-moe[tokens=5,hidden=24,width=16,part=matmul]",
    "deepseek-moe[tokens=5,hidden=24,width=16,part=matmul,dtype=bfloat16]",
    "deepseek-moe[tokens=2,hidden=24,width=16]",
    "flux-conv[height=6,width=5,in_channels=8,out_channels=12,layout=NCHW]",
    "flux-conv[height=6,width=5,in_channels=8,out_channels=12,kernel=1]",
    "llama3-attention[seq_len=1,num_heads=2,num_kv_heads=1,head_dim=4]",
    "llama3-attention[seq_len=200,num_heads=2,num_kv_heads=2,head_dim=64]",
]


def target(**more):
    return import_tvm().target.Target({"kind": "llvm", "num-cores": 2} | more)


def this_cpu():
    from tvm.target.codegen import llvm_get_system_cpu

    return target(mcpu=str(llvm_get_system_cpu()))


def compiled(mod):
    return import_tvm().compile(mod, target=target())


def run(library, arrays, arguments):
    """Returns the outputs of a compiled module."""
    tvm = import_tvm()
    inputs = iter(arrays)
    tensors = [
        tvm.runtime.tensor(np.zeros(a.shape, workloads.numpy_dtype(a.dtype)) if a.role == "output" else next(inputs))
        for a in arguments
    ]
    library["main"](*tensors)
    return [t.numpy() for t, a in zip(tensors, arguments, strict=True) if a.role == "output"]


# -- the named kernels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_the_unscheduled_kernel_computes_the_reference(spec):
    w = parse(spec)
    inputs = w.make_inputs(1)
    expected, tolerance = by_functions(w, inputs)
    outputs = run(compiled(w.mod), inputs, w.arguments)
    assert Expected.of(expected, tolerance).why_not(outputs) is None
    assert all(np.isfinite(e.astype(np.float64)).all() and np.abs(e).max() > 0 for e in expected)
    # A tolerance that lets a wrong kernel pass would be of no use: swap two rows of an input.
    swapped = [inputs[0][..., ::-1, :].copy(), *inputs[1:]]
    if inputs[0].shape[-2] > 1:
        assert Expected.of(*by_functions(w, swapped)).why_not(outputs) is not None


@pytest.mark.parametrize("spec", SPECS)
def test_the_unscheduled_kernel_computes_the_reference_of_every_input_set(spec):
    w = parse(spec)
    taken = [a for a in w.arguments if a.role != "output"]
    random = w.make_inputs(1)
    library = compiled(w.mod)
    for name in INPUT_SETS:
        made = make_input_set(name, taken, random, seed=1, longest_sum=64, ranges=w.index_ranges)
        inputs = [old if new is None else new for old, new in zip(random, made, strict=True)]
        kept = [a.role == "weight" for a in taken]
        assert [new is None for new in made] == kept or "int8" in spec or "routed" in spec
        expected, tolerance = by_functions(w, inputs, any_order=name == SUMS_EXACTLY)
        assert all(np.isfinite(e.astype(np.float64)).all() for e in expected), name
        outputs = run(library, inputs, w.arguments)
        why = Expected.of(expected, tolerance).why_not(outputs)
        assert why is None, (name, why)


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_term_left_out_of_the_sum_is_seen(name, dtype):
    """The hardest wrong result to see: the last input loses one element of its last row, as an off-by-one would."""
    w = parse(f"{name}[{SMALL[name]},dtype={dtype}]")
    inputs = w.make_inputs(2)
    outputs = run(compiled(w.mod), inputs, w.arguments)
    short = [*inputs[:-1], inputs[-1].copy()]
    short[-1][..., -1, :] = 0
    assert Expected.of(*by_functions(w, short)).why_not(outputs) is not None


def test_the_papers_published_shape():
    w = parse("deepseek-moe[part=matmul]")
    shapes = [(a.name, a.shape, a.role) for a in w.arguments]
    assert shapes == [
        ("A", (1, 16, 7168), "input"),
        ("B", (7168, 2048), "weight"),
        ("C", (1, 16, 2048), "output"),
    ]
    assert w.flops == 2 * 16 * 7168 * 2048
    with pytest.raises(UsageError, match="`num_experts` of `deepseek-moe` is 2"):
        workloads.deepseek_moe(part="matmul", num_experts=2)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_work_and_weights_of_the_defaults(entry):
    w = entry.make()
    weights = [i for i, a in enumerate(w.arguments) if a.role == "weight"]
    attrs = w.mod["main"].attrs
    assert [int(i) for i in attrs.get("layout_free_buffers", [])] == weights
    assert bool(weights) == ("attention" not in w.name)
    assert w.spec == w.name == entry.name
    # TVM's own count has softmax, activation and index arithmetic too, but is mostly the same multiply-adds; and those
    # of the masked half of causal attention, which are no work that has to be done.
    counted = import_tvm().s_tir.analysis.estimate_tir_flops(w.mod)
    times = 2 if w.name == "llama3-attention" else 1
    assert times * w.flops / 1.01 <= counted <= 1.25 * times * w.flops


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_a_full_size_is_made_without_arrays(entry):
    import_tvm()
    started = time.process_time()
    default, full_size = entry.make(), parse(entry.full_size)
    assert time.process_time() - started < 5.0
    assert full_size.flops >= default.flops > 0
    assert full_size.bytes >= default.bytes > 1e6
    assert in_a_line(full_size).endswith("B")


@pytest.mark.parametrize("spec", SPECS)
def test_a_workload_is_made_again_from_its_spec(spec):
    w = parse(spec)
    again = parse(w.spec)
    assert (again.key, again.spec, again.arguments, again.flops) == (w.key, w.spec, w.arguments, w.flops)
    assert len({parse(other).key for other in SPECS}) == len(SPECS)


def test_specs_in_every_form():
    assert parse("gemm[8,16,4]").spec == "gemm[m=8,n=16,k=4]"
    assert parse(" GEMM[ 8, 16, k = 4, weight=False ] ").spec == "gemm[m=8,n=16,k=4,weight=false]"
    assert parse("gemm[]").key == parse("gemm").key == workloads.gemm(512, 4096, 1024).key
    assert parse("llama3_attention[seq_len=8]").key == workloads.llama3_attention(seq_len=8).key
    assert workloads.gemm.__doc__.startswith("A matrix product")


def test_the_key_is_the_same_in_another_process():
    code = "from reasoning_compiler.workload import parse; print(parse('llama4-mlp[tokens=2]').key)"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert keys == {parse("llama4-mlp[tokens=2]").key}


def test_a_workload_survives_pickling():
    w = parse(f"flux-conv[{SMALL['flux-conv']}]")
    again = pickle.loads(pickle.dumps(w))
    assert again.key == w.key
    np.testing.assert_array_equal(again.reference(again.make_inputs(0))[0], w.reference(w.make_inputs(0))[0])


def test_scores_that_32_bits_cannot_index_are_refused():
    with pytest.raises(UsageError, match=r"`scores` has 2,147,483,648 elements.*take smaller sizes"):
        parse("llama3-attention[seq_len=8192]")


NUM_SKETCHES = {
    "llama3-attention": 81, "flux-attention": 81, "deepseek-moe": 12, "llama4-mlp": 12, "routed-experts": 12
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "num_sketches"),
    [(name, NUM_SKETCHES.get(name, 3))
     for name in CATALOGUE]
    + [("deepseek-moe[num_experts=8]", 12), ("deepseek-moe[part=matmul]", 3), ("flux-conv[layout=NCHW]", 3)]
    + [(f"{name}[dtype=bfloat16]", NUM_SKETCHES.get(name, 3))
       for name in ("llama3-attention", "llama4-mlp", "flux-conv", "gemm")]
    + [("gemm[dtype=int8]", 3)],
)  # fmt: skip
def test_metaschedule_generates_a_space(spec, num_sketches):
    tvm = import_tvm()
    context = tvm.s_tir.meta_schedule.TuneContext(
        mod=parse(spec).mod, target=target(), space_generator="post-order-apply", rand_state=1
    )
    assert len(context.generate_design_space()) == num_sketches


@pytest.mark.parametrize("spec", ["llama3-attention[seq_len=64]", "llama4-mlp[hidden=64,width=64]"])
def test_exp_is_not_inlined_into_the_matrix_product_by_rule(spec):
    context = import_tvm().s_tir.meta_schedule.TuneContext(
        mod=parse(spec).mod, target=target(), space_generator="post-order-apply", rand_state=1
    )
    for schedule in context.generate_design_space():
        assert "ComputeInline" not in {inst.kind.name for inst in schedule.trace.insts}


# -- vectorisable exp ---------------------------------------------------------------------------------------------


def elementwise(function, values, on):
    """Returns `function` of the values, computed in vectors of 16."""
    tvm = import_tvm()
    te = tvm.te
    x = te.placeholder(values.shape, "float32", name="x")
    y = te.compute(values.shape, lambda i: function(x[i]), name="y")
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([x, y])}))
    (loop,) = schedule.get_loops("y")
    schedule.vectorize(schedule.split(loop, [None, 16])[1])
    out = tvm.runtime.tensor(np.zeros_like(values))
    tvm.compile(schedule.mod, target=on)["main"](tvm.runtime.tensor(values), out)
    return out.numpy()


SOFTMAX_RANGE = np.concatenate([-np.linspace(0, 87.3, 1 << 18), -np.logspace(-8, 0, 1 << 14)]).astype(np.float32)


def fuses_multiply_and_add():
    from tvm.target.codegen import llvm_get_cpu_features

    with this_cpu():
        return bool({"fma", "neon"} & {str(feature) for feature in llvm_get_cpu_features()})


def test_exp_is_accurate_over_the_range_of_softmax():
    right = np.exp(SOFTMAX_RANGE.astype(np.float64))
    error = np.abs(elementwise(exp_below_88, SOFTMAX_RANGE, this_cpu()) - right) / right
    near = SOFTMAX_RANGE > -10
    assert error[near].max() < (2.5e-7 if fuses_multiply_and_add() else 1e-6)
    assert error.max() < (4e-7 if fuses_multiply_and_add() else 5e-6)


def test_exp_is_accurate_without_fused_multiply_add_too():
    right = np.exp(SOFTMAX_RANGE.astype(np.float64))
    assert (np.abs(elementwise(exp_below_88, SOFTMAX_RANGE, target()) - right) / right).max() < 5e-6


def test_exp_at_its_ends():
    lowest = np.finfo(np.float32).min
    values = np.zeros(16, dtype=np.float32)
    values[:10] = [0.0, -0.0, -87.8, -88.3, -89, -1e9, lowest, -np.inf, np.nan, MAX_EXPONENT]
    result = elementwise(exp_below_88, values, this_cpu())
    assert (result[:2] == 1.0).all()
    assert (result[2:8] == 0.0).all()  # what masked scores become
    assert np.isnan(result[8])
    assert result[9] == pytest.approx(np.exp(88.0), rel=1e-6)


def test_sigmoid_is_accurate_and_saturates():
    values = np.concatenate([np.linspace(-87, 200, 1 << 16), [-1e30, 1e30] * 8]).astype(np.float32)
    result = elementwise(sigmoid, values, this_cpu())
    right = 1.0 / (1.0 + np.exp(-values[:-16].astype(np.float64)))
    assert (np.abs(result[:-16] - right) / right).max() < (5e-7 if fuses_multiply_and_add() else 5e-6)
    assert (result[-16::2] < 1e-37).all() and (result[-15::2] == 1.0).all()


def test_exp_keeps_masked_scores_out_of_the_sum():
    w = parse("llama3-attention[seq_len=16,num_heads=1,num_kv_heads=1,head_dim=4]")
    q, k, v = w.make_inputs(0)
    v[:, 1:] = np.nan  # the first row may see the first key alone
    (out,) = run(compiled(w.mod), [q, k, np.nan_to_num(v, nan=1e30)], w.arguments)
    np.testing.assert_array_equal(out[0, 0], v[0, 0])


# -- a user's own -------------------------------------------------------------------------------------------------

HEAD = """\
from tvm import te
from tvm.script import ir as I, tirx as T
"""
ADD = """\
@T.prim_func(s_tir=True)
def add(A: T.Buffer((16, 8), "float32"), B: T.Buffer((16, 8), "float32"), C: T.Buffer((16, 8), "float32")):
    for i, j in T.grid(16, 8):
        with T.sblock("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = A[vi, vj] + B[vi, vj]
"""
MAKE = """\
def make(n=8):
    a, b = te.placeholder((n, n), name="A"), te.placeholder((n, n), name="B")
    k = te.reduce_axis((0, n), "k")
    c = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c]).with_attr("layout_free_buffers", [1])
"""
TWO = """\
@I.ir_module
class Two:
    @T.prim_func(s_tir=True)
    def first(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
        for i in range(16):
            with T.sblock("B"):
                vi = T.axis.remap("S", [i])
                B[vi] = A[vi] + 1.0
    @T.prim_func(s_tir=True)
    def second(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
        for i in range(16):
            with T.sblock("B"):
                vi = T.axis.remap("S", [i])
                B[vi] = A[vi] + 2.0
"""


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a Python file and returns its path."""

    def write(body: str, *, head: str = HEAD):
        path = tmp_path / "kernels.py"
        path.write_text(head + textwrap.dedent(body), encoding="utf-8")
        return path

    return write


def test_a_users_function(write):
    path = write(MAKE)
    w = parse(f"{path}:make")
    assert [(a.name, a.shape, a.dtype, a.role) for a in w.arguments] == [
        ("A", (8, 8), "float32", "input"),
        ("B", (8, 8), "float32", "weight"),
        ("C", (8, 8), "float32", "output"),
    ]
    assert (w.name, w.spec, w.flops, w.reference) == ("make", f"{path}:make", 2 * 8**3, None)
    a, b = w.make_inputs(0)
    np.testing.assert_allclose(run(compiled(w.mod), [a, b], w.arguments)[0], a @ b, rtol=1e-4, atol=1e-5)
    assert parse(w.spec).key == w.key


def test_a_users_tvmscript_and_its_renaming(write):
    w = parse(f"{write(ADD)}:add")
    assert [a.role for a in w.arguments] == ["input", "input", "output"]
    assert [var.name_hint for var in w.mod.functions] == ["main"]
    a, b = w.make_inputs(0)
    np.testing.assert_array_equal(run(compiled(w.mod), [a, b], w.arguments)[0], a + b)


def test_a_users_workload_brings_its_reference(write):
    path = write(
        """
        from dataclasses import replace
        from reasoning_compiler.workload import from_tvm
        def mine():
            return replace(from_tvm(make(), name="mine"), reference=lambda inputs: [inputs[0] @ inputs[1]])
        """.replace("\n        ", "\n")
        + MAKE
    )
    w = parse(f"{path}:mine")
    assert (w.name, w.spec) == ("mine", f"{path}:mine")
    assert len(w.reference(w.make_inputs(0))) == 1


def test_the_file_is_found_beside_its_own_modules(write, tmp_path):
    (tmp_path / "sizes_of_mine.py").write_text("N = 4\n")
    path = write(MAKE + "from sizes_of_mine import N\ndef small():\n    return make(N)\n")
    assert parse(f"{path}:small").arguments[0].shape == (4, 4)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("body", "name", "says"),
    [
        ("def f(:\n", "f", "does not parse: line 3: "),
        ("import no_such_module_at_all\n", "f", "does not run: line 3: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\n", "f", "does not run: line 3: SystemExit: 3"),
        (ADD.replace("B[vi, vj]", "D[vi, vj]"), "add", "does not run: line 8: Undefined variable: D"),
        (ADD + MAKE, "mul", "has no function `mul`; it has add, make"),
        ("_x = 1\n", "mul", "it defines no PrimFunc, IRModule or function"),
        (ADD, "", "needs the name of a function, as"),
        ("def f(n): pass\n", "f", "`f` needs arguments (n)"),
        ("def f(): return 1 / 0\n", "f", "does not run: line 3: ZeroDivisionError: division by zero"),
        ("def f(): return 3\n", "f", "`f` is of the type int, not a PrimFunc"),
        ("f = 3\n", "f", "`f` is of the type int, not a PrimFunc"),
        (TWO, "Two", "must hold one PrimFunc, but holds 2 (first, second)"),
    ],
)
def test_wrong_files(write, body, name, says):
    path = write(body)
    with pytest.raises(UsageError) as error:
        from_file(f"{path}:{name}" if name else str(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        parse(f"{tmp_path}/none.py:f")


def script(signature: str, body: str) -> str:
    return f"@T.prim_func(s_tir=True)\ndef f({signature}):\n{textwrap.indent(body, '    ')}"


ONE_LOOP = 'for i in range(16):\n    with T.sblock("B"):\n        v = T.axis.remap("S", [i])\n        '
BUFFERS = 'A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")'


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            script(
                "a: T.handle, b: T.handle",
                'n = T.int32()\nA = T.match_buffer(a, (n,))\nB = T.match_buffer(b, (n,))\n'
                + ONE_LOOP.replace("16", "n") + "B[v] = A[v]\n",
            ),
            "`f` has a dynamic shape: `A` is (n); fix every dimension",
        ),
        (script(f"{BUFFERS}, s: T.float32", ONE_LOOP + "B[v] = A[v] * s\n"), "the argument `s` is no buffer"),
        (
            script('A: T.Buffer((16,), "float32")', 'B = T.sblock_alloc_buffer((16,))\n' + ONE_LOOP + "B[v] = A[v]\n"),
            "has no output",
        ),
        (
            script('A: T.Buffer((16,), "float32")', ONE_LOOP + "A[v] = A[v] + 1.0\n"),
            "adds to what its argument `A` holds",
        ),
    ],
    ids=["dynamic", "scalar", "no-output", "in-place"],
)  # fmt: skip
def test_programs_that_cannot_be_tuned(write, source, says):
    path = write(source)
    with pytest.raises(UsageError) as error:
        from_file(f"{path}:f")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_object_has_no_spec_and_keeps_its_name():
    w = from_tvm(parse("gemm[8,8,8]").mod)
    assert (w.name, w.spec, w.reference) == ("main", "", None)
    assert w.key == parse("gemm[8,8,8]").key
    assert from_tvm(w.mod["main"], name="mine").name == "mine"
    with pytest.raises(UsageError, match="not a PrimFunc"):
        from_tvm(3)


def test_arguments_of_the_same_name_are_told_apart():
    te = import_tvm().te
    a, b = te.placeholder((4,)), te.placeholder((4,))
    w = from_tvm(te.create_prim_func([a, b, te.compute((4,), lambda i: a[i] + b[i], name="c")]))
    assert [argument.name for argument in w.arguments] == ["placeholder", "placeholder_1", "c"]


def test_flops_are_unknown_where_tvm_cannot_tell(monkeypatch):
    def fail(mod):
        raise RuntimeError("no such node")

    mod = parse("gemm[8,8,8]").mod
    monkeypatch.setattr(import_tvm().s_tir.analysis, "estimate_tir_flops", fail)
    assert from_tvm(mod).flops is None
    assert replace(from_tvm(mod), flops=3).flops == 3


def test_flops_are_unknown_where_a_loops_length_depends_on_the_place():
    tvm = import_tvm()
    from tvm import topi

    x = tvm.te.placeholder((1, 8, 33, 57), name="x")
    pooled = from_tvm(tvm.te.create_prim_func([x, topi.nn.adaptive_pool(x, (12, 30), "avg")]))
    assert pooled.flops is None
    even = tvm.te.placeholder((1, 8, 36, 60), name="x")
    assert from_tvm(tvm.te.create_prim_func([even, topi.nn.adaptive_pool(even, (12, 30), "avg")])).flops > 0


@pytest.mark.parametrize(
    ("shape", "says"), [((64, 0), r"`a` is \(64, 0\), and its dimension 1"), ((0, 64), "dimension 0")]
)
def test_an_empty_dimension_is_named(shape, says):
    te = import_tvm().te
    a = te.placeholder(shape, name="a")
    k = te.reduce_axis((0, shape[1]), name="k")
    summed = te.compute((shape[0],), lambda i: te.sum(a[i, k], axis=k), name="s")
    with pytest.raises(UsageError, match=says):
        from_tvm(te.create_prim_func([a, summed]), name="empty")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("for i in range(16):\n    B[i] = A[i]\n", ["kernel"]),
        ("for i in range(16):\n    B[i] = A[i]\nfor i in range(15):\n    B[i + 1] = B[i] + A[i]\n", ["kernel"]),
        ('with T.sblock("B"):\n    v = T.axis.spatial(16, 0)\n    B[v] = A[v]\n', ["B"]),
        (f"{ONE_LOOP}B[v] = A[v]\n{ONE_LOOP}B[v] = B[v] + A[v]\n", ["B", "B_1"]),
    ],
    ids=["no-blocks", "no-blocks-twice", "one-iteration", "one-name-twice"],
)
def test_a_kernel_is_brought_into_normal_form(write, body, names):
    workload = from_file(f"{write(script(BUFFERS, body))}:f")
    assert [argument.role for argument in workload.arguments] == ["input", "output"]
    assert [block.name for block in blocks(workload.mod["main"])] == names


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("from tvm.script import tir as T\n", "line 3: `from tvm.script import tir as T` is TVM's older dialect"),
        (script(BUFFERS, ONE_LOOP + "B[v] = A[v]\n").replace("sblock", "block"), "in TVM 0.27 it is `T.sblock`"),
        (
            script(BUFFERS, ONE_LOOP + "B[v] = A[v]\n").replace("(s_tir=True)", ""),
            "`@T.prim_func` is TVM's older dialect; in TVM 0.27 it is `@T.prim_func(s_tir=True)`",
        ),
    ],
    ids=["import", "block", "prim_func"],
)
def test_the_older_dialect_is_named(write, source, says):
    with pytest.raises(UsageError) as error:
        from_file(f"{write(source)}:f")
    assert says in str(error.value)

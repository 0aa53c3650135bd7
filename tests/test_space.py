"""The space against MetaSchedule's own: the same sketches, decisions that mean what they say, right results."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasoning_compiler import codegen
from reasoning_compiler.codegen.packing import split_packing
from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import (
    UNTUNED,
    Alternative,
    ChoiceDomain,
    Decision,
    Program,
    TileDomain,
    Transformation,
)
from reasoning_compiler.machine import quiet_logging
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.rules.discovery import coarse_rules, own_rules_of_tvm
from reasoning_compiler.rules.rule import Kernel as Scheduled
from reasoning_compiler.rules.rule import Offer, Phase, Rule
from reasoning_compiler.space.placing import legal_locations
from reasoning_compiler.space.replay import Replayer
from reasoning_compiler.space.sketch import Sketch, SketchGenerator
from reasoning_compiler.space.space import Space
from space_kernels import (
    KERNELS,
    Kernel,
    gemm,
    gemm_vnni,
    late_division,
    make_inputs,
    tvm,
)

pytestmark = pytest.mark.tvm

_GPU = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}
TARGETS = {
    "avx512": {"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 2},
    "vnni": {"kind": "llvm", "mcpu": "cascadelake", "num-cores": 2},
    "avx2": {"kind": "llvm", "mcpu": "core-avx2", "num-cores": 2},
    "aarch64": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 2},
    "cuda": {"kind": "cuda", "arch": "sm_70", **_GPU},
    "cuda with pipelines": {"kind": "cuda", "arch": "sm_80", **_GPU},
}
CPUS = [name for name in TARGETS if "cuda" not in name]
MORE_KERNELS = KERNELS | {
    "two producers": late_division,
    "float16 gemm": lambda: gemm(64, 64, 64, dtype="float16"),
    "bfloat16 gemm": lambda: gemm(dtype="bfloat16"),
    "int8 gemm": lambda: gemm(dtype="int8"),
    "vnni gemm": gemm_vnni,
}


def target(name: str = "avx512") -> Any:
    return tvm.target.Target(TARGETS[name])


@cache
def kernel(name: str) -> Kernel:
    return MORE_KERNELS[name]()


@cache
def space(kernel_name: str, target_name: str = "avx512") -> Space:
    return Space(kernel(kernel_name).mod, target(target_name))


def generator_of(mod: Any, target: Any) -> SketchGenerator:
    return SketchGenerator(mod, own_rules_of_tvm(mod, target))


def sketches(mod: Any, target: Any) -> list[Sketch]:
    """Returns the sketches of every combination of alternatives."""
    generator = generator_of(mod, target)
    found: dict[Any, Sketch] = {}
    todo: list[dict[str, str]] = [{}]
    while todo:
        sketch = generator.make(todo.pop())
        if sketch.structure not in found:
            found[sketch.structure] = sketch
            todo += [{**dict(sketch.structure), s.name: str(v)} for s in sketch.sites for v in s.domain.values]
    return list(found.values())


def without_decisions(trace: Any) -> str:
    return json.dumps(trace.as_json()[0], default=str)


def same_module(a: Any, b: Any) -> bool:
    import tvm_ffi

    return tvm_ffi.structural_equal(a, b)


# -- the same space as MetaSchedule's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel_name", "target_name"),
    [(k, t) for k in KERNELS for t in TARGETS if k != "attention" or "cuda" not in t],  # on CUDA MetaSchedule throws
)
def test_the_product_of_alternatives_is_metaschedules_flat_space(kernel_name: str, target_name: str) -> None:
    from tvm.s_tir import meta_schedule as ms

    mod = kernel(kernel_name).mod
    with quiet_logging():
        context = ms.TuneContext(
            mod=mod, target=target(target_name), space_generator="post-order-apply", num_threads=1, rand_state=1
        )
        flat = Counter(without_decisions(sch.trace) for sch in context.generate_design_space())

    ours = Counter(without_decisions(sketch.trace) for sketch in sketches(mod, target(target_name)))

    assert ours == flat
    if kernel_name == "attention":
        assert ours.total() == 81


@pytest.mark.parametrize(
    ("kernel_name", "target_name", "num_sketches"),
    [("two producers", "avx512", 27), ("two producers", "aarch64", 27), ("attention", "cuda", 2)],
)
def test_where_metaschedules_generator_throws_there_still_is_a_space(
    kernel_name: str, target_name: str, num_sketches: int
) -> None:
    from tvm.s_tir import meta_schedule as ms

    mod = kernel(kernel_name).mod
    context = ms.TuneContext(
        mod=mod, target=target(target_name), space_generator="post-order-apply", num_threads=1, rand_state=1
    )
    with pytest.raises((RuntimeError, IndexError)):
        context.generate_design_space()

    assert len(sketches(mod, target(target_name))) == num_sketches


def test_a_contraction_before_a_consumer_with_two_producers_is_tiled() -> None:
    names = [d.name for d in space("two producers").table(UNTUNED)]
    assert {"N tiling", "N.i tile", "N.t tile", "S tiling"} <= set(names)


def test_an_intrinsic_that_does_not_fit_the_layout_gives_way_to_plain_tiling() -> None:
    # MetaSchedule tiles for `sdot` after a look at the loops, and then leaves 4x4 scalar loops in their place.
    assert space("int8 gemm", "aarch64").start.structure == (("C tiling", "direct"),)
    transposed = Space(gemm(dtype="int8", transposed=True).mod, target("aarch64"))
    assert transposed.start.structure == (("C intrinsic tiling", "dot_4x4_i8i8s32_sdot + direct"),)


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "vulkan", "max_shared_memory_per_block": 32768},
        {"kind": "hexagon", "num-cores": 4},
        {"kind": "llvm", "mtriple": "riscv64-unknown-linux-gnu", "mattr": ["+v", "+m"], "mcpu": "generic-rv64",
         "mabi": "lp64d", "num-cores": 4},
    ],
    ids=["vulkan", "hexagon", "riscv"],
)  # fmt: skip
def test_other_kinds_of_target_have_a_space(config: dict[str, Any]) -> None:
    made = Space(kernel("gemm").mod, tvm.target.Target(config))
    assert made.schedule(made.sample(1)).mod is not None
    check(made, made.sample(2))


@pytest.mark.parametrize("config", [{"kind": "c"}, {"kind": "llvm", "mcpu": "core-avx2"}, {"kind": "vulkan"}])
def test_a_target_without_rules_or_attributes_is_a_usage_error(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"cannot schedule for this `{config['kind']}` target"):
        Space(kernel("gemm").mod, tvm.target.Target(config))


def test_a_kernel_that_the_rules_leave_alone_has_one_program() -> None:
    @tvm.script.tirx.prim_func(s_tir=True)
    def scalar(X: tvm.script.tirx.Buffer((1,), "float32"), Y: tvm.script.tirx.Buffer((1,), "float32")) -> None:
        with tvm.script.tirx.sblock("Y"):
            Y[0] = X[0]

    mod = tvm.IRModule({"main": scalar.with_attr("global_symbol", "main")})
    space = Space(mod, tvm.target.Target({"kind": "cuda", "arch": "sm_70", **_GPU}), rules=[])
    assert space.start.is_untuned
    assert space.table(UNTUNED) == ()


def test_rules_may_be_given() -> None:
    mod = kernel("gemm").mod
    rules = [rule for rule in coarse_rules(mod, target(), "SRS") if rule.name == "tiling"]
    table = Space(mod, target(), rules=rules).table(UNTUNED)
    assert [(d.name, d.domain) for d in table if d.kind == "tile"] == [
        ("C.i tile", TileDomain(32, 2, 64, wider_is_legal=True)),
        ("C.j tile", TileDomain(32, 2, 64, wider_is_legal=True)),
    ]


def test_decisions_know_their_block_rule_and_role_and_alternatives_what_they_stand_for() -> None:
    class Rows(Rule):
        name, phase = "rows", Phase.TILE

        def offer(self, sch: Any, block: Any) -> list[Offer]:
            if sch.get(block).name_hint != "C":
                return []
            other = sch.copy()
            rows = other.get_loops(block)[0]
            other.parallel(other.split(rows, [None, other.sample_categorical([2, 4, 8], [0.2, 0.3, 0.5])])[0])
            return [Offer(other, "rows apart", (("loop", "i"),))]

    class Wrong(Rows):
        def offer(self, sch: Any, block: Any) -> list[Offer]:
            raise KeyError("the author's")

    mod = kernel("gemm").mod
    given = Scheduled(mod, target())
    made = Space(mod, target(), rules=[Rows(given), *own_rules_of_tvm(mod, target())[-1:]])
    program = made.edit(UNTUNED, Transformation((("C rows", "rows apart"), ("C.i factor", 4))))
    site, factor = made.table(program)
    assert (site.name, site.value, site.block, site.rule) == ("C rows", "rows apart", "C", "rows")
    assert site.alternative == Alternative("rows apart", "rows", (("loop", "i"),))
    assert (factor.name, factor.value) == ("C.i factor", 4)
    assert (factor.block, factor.loop, factor.rule, factor.role) == ("C", "i", "rows", "factor")
    assert "T.parallel(8)" in made.schedule(program).mod.script()
    with pytest.raises(KeyError, match="the author"):
        Space(mod, target(), rules=[Wrong(given)])


def test_making_and_using_a_space_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for kernel_name, target_name in (("vnni gemm", "vnni"), ("int8 gemm", "aarch64"), ("pooling", "avx512")):
        made = Space(kernel(kernel_name).mod, target(target_name))
        made.schedule(made.sample(1))
    assert capfd.readouterr() == ("", "")


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("kernel_name", MORE_KERNELS)
def test_names_are_unique_and_readable_and_labels_distinct(kernel_name: str, target_name: str) -> None:
    table = space(kernel_name, target_name).table(UNTUNED)
    names = [d.name for d in table]
    assert len(set(names)) == len(names)
    for decision in table:
        assert re.fullmatch(
            r"schedule|unroll|\w+ (tiling|intrinsic tiling|tensor-core tiling|reduction|cross-thread reduction)"
            r"|\w+\.\w+ tile|\w+ at|[\w.]+ fetch vector|\w+ threads",
            decision.name,
        ), decision.name
        if isinstance(decision.domain, ChoiceDomain):
            shown = decision.domain.labels or decision.domain.values
            assert len(set(shown)) == len(shown)


def test_decisions_read_as_people_write_them() -> None:
    told = [f"{d.name}: {d.domain}" for d in space("conv2d").table(UNTUNED)]
    assert told == [
        "conv2d_nhwc tiling: one of direct, result cached and written back in loop ff_0, "
        "result cached and written back in loop ff_1",
        "conv2d_nhwc.nn tile: 4 factors, product 1, innermost ≤ 64",
        "conv2d_nhwc.yy tile: 4 factors, product 8, innermost ≤ 64",
        "conv2d_nhwc.xx tile: 4 factors, product 8, innermost ≤ 64",
        "conv2d_nhwc.ff tile: 4 factors, product 16, innermost ≤ 64",
        "conv2d_nhwc.ry tile: 2 factors, product 3, innermost ≤ 64",
        "conv2d_nhwc.rx tile: 2 factors, product 3, innermost ≤ 64",
        "conv2d_nhwc.rc tile: 2 factors, product 16, innermost ≤ 64",
        "unroll: one of 0, 16, 64, 512",
        "pad_temp at: one of -2 (inlined), -1 (root), 1 (in loop yy_0), 2 (in loop xx_0), 3 (in loop ff_0), "
        "8 (in loop ry_0), 9 (in loop rx_0), 10 (in loop rc_0)",
    ]


@pytest.mark.parametrize(
    ("kernel_name", "site", "labels"),
    [
        ("gemm", "C tiling", ("direct", "software pipeline of stages 0 0 2", "software pipeline of stages 0 0 3")),
        (
            "float16 gemm",
            "C tensor-core tiling",
            ("wmma_sync_16x16x16_f16f16f32_trans + direct", "wmma_sync_16x16x16_f16f16f32 + direct"),
        ),
        ("softmax", "T_softmax_expsum cross-thread reduction", ("across threads", "as written")),
    ],
)
def test_structure_on_a_gpu_is_told_apart(kernel_name: str, site: str, labels: tuple[str, ...]) -> None:
    table = {d.name: d for d in space(kernel_name, "cuda with pipelines").table(UNTUNED)}
    domain = table[site].domain
    assert isinstance(domain, ChoiceDomain) and domain.values == labels
    assert [alternative.label for alternative in domain.alternatives] == list(labels)


def test_names_of_decisions_on_a_gpu() -> None:
    names = [d.name for d in space("gemm", "cuda").table(UNTUNED)]
    assert names == ["C.i tile", "C.j tile", "C.k tile", "A_shared fetch vector", "B_shared fetch vector", "unroll"]
    # MetaSchedule samples threads for the second reduction, too, and then uses those of the first.
    both = Transformation(
        (
            ("T_softmax_expsum cross-thread reduction", "across threads"),
            ("T_softmax_maxelem cross-thread reduction", "across threads"),
        )
    )
    made = space("softmax", "cuda")
    assert [d.name for d in made.table(made.edit(UNTUNED, both))][2:] == ["T_softmax_norm threads", "unroll"]


_DESCRIBE = """
import json, sys
from space_kernels import attention, tvm
from reasoning_compiler.space.space import Space
space = Space(attention().mod, tvm.target.Target(json.loads(sys.argv[1])))
programs = [space.start, *(space.sample(seed) for seed in range(3))]
print(json.dumps([[p.key, p.to_json(), [(d.name, str(d.domain)) for d in space.table(p)]] for p in programs]))
"""


def test_names_domains_and_keys_are_the_same_in_every_process() -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    told = [
        subprocess.run(
            [sys.executable, "-c", _DESCRIBE, json.dumps(TARGETS["avx512"])],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    keys = [key for key, _, _ in json.loads(told[0])]
    assert keys == [p.key for p in (space("attention").start, *(space("attention").sample(s) for s in range(3)))]


# -- programs -----------------------------------------------------------------------------------------------------


def check(made: Space, program: Program) -> None:
    """Checks what must hold of every program that the space hands out."""
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program
    assert hash(program) == hash(Program.from_json(program.to_json()))
    table = made.table(program)
    assert {d.name: d.value for d in table} == program.values
    assert all(d.domain.why_not(d.value) is None for d in table)
    assert all(d.kind != "structure" for d in table[len(program.structure) :])
    everything = Transformation(tuple(program.values.items()))
    assert made.edit(program, everything) == program
    assert made.edit(UNTUNED, everything) == program
    assert made.edit(program, Transformation(())) == program
    assert made.raw_schedule(program).trace is not None
    assert made.schedule(program) is made.schedule(program)


@pytest.mark.parametrize(
    ("kernel_name", "target_name"),
    [
        *itertools.product(("gemm", "conv2d", "softmax", "two producers"), ("avx512",)),
        ("attention", "avx2"),
        ("layer norm", "aarch64"),
        ("vnni gemm", "vnni"),
        ("elementwise", "avx512"),
        ("softmax", "cuda"),
        ("gemm", "cuda with pipelines"),
    ],
)
def test_random_edits_lead_to_canonical_programs_or_are_refused(kernel_name: str, target_name: str) -> None:
    made = space(kernel_name, target_name)
    num_edits = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        program = made.sample(seed) if seed else made.start
        for _ in range(10):
            transformation = mutate(made.table(program), rng)
            if transformation is None:
                assert kernel_name == "elementwise"
                break
            why = made.why_not(program, transformation)
            if why is not None:
                assert "VerifyGPUCode" in why, why  # on a CPU, everything in the table is legal
                continue
            program = made.edit(program, transformation)
            ((name, value),) = transformation.edits
            assert program.values[name] == value
            num_edits += 1
        check(made, program)
    assert num_edits > 5 or kernel_name == "elementwise"


@pytest.mark.parametrize("kernel_name", ["conv2d", "softmax", "attention", "two producers"])
def test_a_replayed_program_is_the_same_schedule(kernel_name: str) -> None:
    made, fresh = space(kernel_name), Space(kernel(kernel_name).mod, target())
    for seed in range(4):
        program = made.sample(seed)
        assert same_module(fresh.schedule(program).mod, made.schedule(program).mod)
        replayed = tvm.s_tir.Schedule(made.mod)
        made.schedule(program).trace.apply_to_schedule(replayed, remove_postproc=False)
        assert same_module(replayed.mod, made.schedule(program).mod)
        raw = tvm.s_tir.Schedule(made.mod)
        made.schedule(program).trace.apply_to_schedule(raw, remove_postproc=True)
        assert same_module(raw.mod, made.raw_schedule(program).mod)
        from_json = tvm.s_tir.Schedule(made.mod)
        tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), from_json)
        assert same_module(from_json.mod, made.raw_schedule(program).mod)


@pytest.mark.parametrize("kernel_name", ["conv2d", "depthwise", "softmax", "layer norm", "attention", "two producers"])
def test_exactly_the_locations_of_the_table_are_taken(kernel_name: str) -> None:
    made = space(kernel_name)
    for seed in range(2):
        program = made.sample(seed) if seed else made.start
        located = [d for d in made.table(program) if d.kind == "location"]
        assert located
        for decision in located:
            for location in range(-3, 20):
                transformation = Transformation(((decision.name, location),))
                if location in decision.domain.values:
                    assert made.edit(program, transformation).values[decision.name] == location
                elif (why := made.why_not(program, transformation)) is None:  # a loop of one iteration
                    taken = made.edit(program, transformation).values[decision.name]
                    assert taken == max(v for v in decision.domain.values if v < location)
                else:
                    assert why == f"`{decision.name}` = {location} is not {decision.domain}"


@pytest.mark.parametrize("kernel_name", ["conv2d", "depthwise", "softmax", "layer norm", "attention", "two producers"])
def test_legal_locations_are_those_of_tvm(kernel_name: str) -> None:
    made = space(kernel_name)
    compared = 0
    for seed in range(6):
        program = made.sample(seed)
        trace = generator_of(kernel(kernel_name).mod, target()).make(dict(program.structure)).trace
        schedule = tvm.s_tir.Schedule(made.mod, seed=seed + 1)

        def compare(inst: Any, inputs: Any, attrs: Any, decision: Any, schedule: Any = schedule) -> Any:
            nonlocal compared
            if inst.kind.name == "SampleComputeLocation":
                trial = schedule.copy()
                theirs = []
                for location in range(-2, 20):
                    trial.sample_compute_location(inputs[0], decision=location)
                    if int(trial.trace.get_decision(trial.trace.insts[-1])) == location:
                        theirs.append(location)
                assert legal_locations(schedule, inputs[0]).values == tuple(theirs)
                compared += len(theirs)
            return None  # so that TVM draws

        trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=compare)
    assert compared > 10


def test_every_value_of_every_small_domain_is_taken() -> None:
    made = Space(gemm(8, 4, 6).mod, target())
    for decision in made.table(UNTUNED):
        values = list(all_values(decision))
        assert len(values) == {"C.i tile": 20, "C.j tile": 10, "C.k tile": 4, "C tiling": 3, "unroll": 4}[decision.name]
        for value in values:
            program = made.edit(UNTUNED, Transformation(((decision.name, value),)))
            assert program.values[decision.name] == value
            assert program == made.start or program.key != made.start.key


def all_values(decision: Decision) -> Iterator[Any]:
    if isinstance(decision.domain, ChoiceDomain):
        yield from decision.domain.values
        return
    extent = decision.domain.extent
    factors = [f for f in range(1, extent + 1) if extent % f == 0]
    for value in itertools.product(factors, repeat=decision.domain.num_factors):
        if decision.domain.why_not(value) is None:
            yield value


def test_what_two_structures_share_is_carried_over() -> None:
    made = space("conv2d")
    edits = (("conv2d_nhwc.ff tile", (1, 2, 1, 8)), ("unroll", 64), ("pad_temp at", 2))
    program = made.edit(UNTUNED, Transformation(edits))
    cached = "result cached and written back in loop ff_1"
    changed = made.edit(program, Transformation((("conv2d_nhwc tiling", cached),)))
    assert changed.structure == (("conv2d_nhwc tiling", cached),)
    assert {name: changed.values[name] for name, _ in edits} == dict(edits)


def test_a_location_that_an_edit_makes_illegal_moves_outwards() -> None:
    made = space("conv2d")
    program = made.edit(UNTUNED, Transformation((("pad_temp at", 2),)))
    flattened = made.edit(program, Transformation((("conv2d_nhwc.xx tile", (1, 8, 1, 1)),)))
    assert flattened.values["pad_temp at"] == 1  # loop 2, `xx_0`, has one iteration now
    asked = Transformation((("conv2d_nhwc.xx tile", (1, 8, 1, 1)), ("pad_temp at", 2)))
    assert made.edit(program, asked) == flattened, "inside of a loop of one iteration is inside of the next one around"


def test_locations_go_by_the_names_of_loops() -> None:
    made = space("conv2d")
    for location, names in ((1, ("yy_0", "conv2d_nhwc.yy_0", "in loop yy_0")), (-1, ("root",)), (-2, ("inlined",))):
        program = made.edit(UNTUNED, Transformation((("pad_temp at", location),)))
        for name in names:
            assert made.edit(UNTUNED, Transformation((("pad_temp at", name),))) == program
    with pytest.raises(IllegalProgramError, match=r"`pad_temp at` = 'zz_0' is not one of -2 \(inlined\), -1 \(root\)"):
        made.edit(UNTUNED, Transformation((("pad_temp at", "zz_0"),)))


def test_tile_groups_know_the_targets_limits() -> None:
    for name, jobs, vector in (("avx2", 32, 64), ("aarch64", 16, 32)):
        (group,) = space("gemm", name).tile_groups
        assert (group.block, group.max_jobs, group.max_vector) == ("C", jobs, vector)
        assert [d[:2] for d in group.decisions] == [("i", "C.i tile"), ("j", "C.j tile"), ("k", "C.k tile")]


def test_an_elementwise_kernel_has_one_program_that_is_not_the_untuned_one() -> None:
    made = space("elementwise")
    assert made.start == made.sample(3) != UNTUNED
    assert "T.parallel" in made.schedule(made.start).mod.script()


# -- refusals -----------------------------------------------------------------------------------------------------

_ILLEGAL: list[tuple[tuple[Any, ...], str]] = [
    ((("C.z tile", (1, 2)),), r"no decision `C.z tile` here; there are `C tiling`, `C.i tile`, .*`unroll`"),
    ((("C tiling", "sideways"),), r"`C tiling` = 'sideways' is not one of direct, result cached"),
    ((("C tiling", 3),), "`C tiling` = 3 is not one of"),
    ((("C tiling", None),), "`C tiling` = None is not one of"),
    ((("C.i tile", (32, 1, 1)),), r"`C.i tile` = \[32, 1, 1\] has 3 factors instead of 4"),
    ((("C.i tile", (32, 2, 1, 1)),), "has the product 64 instead of 32"),
    ((("C.i tile", (-32, -1, 1, 1)),), "has a factor below 1"),
    ((("C.i tile", (2**80, 1, 1, 1)),), "has the product 1208925819614629174706176 instead of 32"),
    ((("C.i tile", "32x1x1x1"),), "is not a list of 4 integers"),
    ((("C.i tile", [[32], 1, 1, 1]),), "is not a list of 4 integers"),
    ((("C.i tile", (32.0, 1, 1, 1)),), "is not a list of 4 integers"),
    ((("C.i tile", (32, True, 1, 1)),), "is not a list of 4 integers"),
    ((("C.i tile", 32),), "is not a list of 4 integers"),
    ((("C.i tile", None),), "is not a list of 4 integers"),
    ((("unroll", 17),), "`unroll` = 17 is not one of 0, 16, 64, 512"),
    ((("unroll", "16"),), "`unroll` = '16' is not one of"),
    ((("unroll", 16.0),), "`unroll` = 16.0 is not one of"),
    ((("unroll", np.int64(16)),), "is not one of"),
    ((("unroll", False),), "`unroll` = False is not one of"),
    ((("unroll", {"a": 1}),), "is not one of"),
    ((("unroll", 16), ("unroll", 64)), "`unroll` is given twice"),
    (((None, 16),), "`None` is no decision's name"),
    ((("unroll", 17), ("C.i tile", ())), r"`C.i tile` = \[\] has 0 factors.*; `unroll` = 17 is not one of"),
]


@pytest.mark.parametrize(("edits", "message"), _ILLEGAL)
def test_an_illegal_edit_says_why(edits: tuple[Any, ...], message: str) -> None:
    with pytest.raises(IllegalProgramError, match=message):
        space("gemm").edit(UNTUNED, Transformation(edits))


@pytest.mark.parametrize("location", ["somewhere", None, True, 2**70, 2**40, -3, 99, 1.0, (1,), [1]])
def test_an_illegal_location_says_which_are_legal(location: Any) -> None:
    with pytest.raises(IllegalProgramError, match=r"`pad_temp at` = .* is not one of -2 \(inlined\), -1 \(root\), 1 "):
        space("conv2d").edit(UNTUNED, Transformation((("pad_temp at", location),)))


@pytest.mark.parametrize("value", [True, 16.0])
def test_what_only_equals_a_known_programs_value_is_refused(value: Any) -> None:
    made = space("gemm")
    known = made.edit(made.start, Transformation((("unroll", int(value)),))) if value == 16 else None
    other = Transformation((("unroll", value),))
    with pytest.raises(IllegalProgramError):
        made.edit(known or made.start, other)


def test_a_known_program_is_not_applied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Space(kernel("gemm").mod, target())
    there = made.edit(made.start, Transformation((("unroll", 16),)))
    tables = made.table(made.start), made.table(there)
    found = made.nests(there)
    monkeypatch.setattr(Replayer, "take", None)
    assert made.edit(made.start, Transformation((("unroll", 16),))) == there
    assert made.edit(there, Transformation((("unroll", 0),))) == made.start
    assert (made.table(made.start), made.table(there)) == tables
    assert made.nests(there) is found
    monkeypatch.undo()
    fresh = Space(kernel("gemm").mod, target())
    assert (fresh.table(fresh.start), fresh.table(there)) == tables


@pytest.mark.parametrize("kernel_name", ["two producers", "gemm+relu"])
def test_what_is_kept_of_a_program_stays_as_it_is_whatever_is_made_of_it(kernel_name: str) -> None:
    made = space(kernel_name)
    program = made.sample(3)
    before = made.raw_schedule(program).mod.script()
    for named in made.named_blocks(program):
        for loop in named.loops:
            for name in ("unroll", "parallel"):
                made.why_not(program, Transformation((), primitives=(Primitive(name, (f"{named.name}.{loop.name}",)),)))
    assert made.raw_schedule(program).mod.script() == before
    assert same_module(
        made.raw_schedule(program).mod, Space(kernel(kernel_name).mod, target()).raw_schedule(program).mod
    )


@pytest.mark.parametrize("kernel_name", ["gemm", "gemm+relu", "pooling"])
def test_sketches_are_the_same_in_whatever_order_they_are_made(kernel_name: str) -> None:
    made = sketches(kernel(kernel_name).mod, target())
    for sketch in reversed(made):
        alone = generator_of(kernel(kernel_name).mod, target()).make(dict(sketch.structure))
        assert alone.structure == sketch.structure and alone.sites == sketch.sites
        assert str(alone.trace) == str(sketch.trace), "decisions included"


def test_lists_are_as_good_as_tuples() -> None:
    made = space("gemm")
    listed = made.edit(UNTUNED, Transformation((("C.i tile", [4, 2, 2, 2]),)))  # type: ignore[arg-type]
    assert listed == made.edit(UNTUNED, Transformation((("C.i tile", (4, 2, 2, 2)),)))


def test_a_program_of_another_workload_is_refused() -> None:
    foreign = [
        space("softmax").start,
        Space(gemm(64, 32, 32).mod, target()).start,
        space("gemm", "cuda").sample(1),
        Program((("C tiling", "direct"),), ()),
        Program((("C tiling", "direct"),), (("C.i tile", "no"), ("C.j tile", None), ("unroll", (1, 2)))),
        Program(space("gemm").start.structure, tuple(reversed(space("gemm").start.decisions))),
        Program(space("gemm").start.structure, (*space("gemm").start.decisions, ("more", 1))),
    ]
    for program in foreign:
        for use in (space("gemm").schedule, space("gemm").raw_schedule, space("gemm").table, space("gemm").nests):
            with pytest.raises(IllegalProgramError, match=r"does not belong to|do not fit"):
                use(program)


@pytest.mark.parametrize(
    ("kernel_name", "target_name"), [("attention", "avx512"), ("vnni gemm", "vnni"), ("softmax", "cuda")]
)
def test_no_other_exception_escapes_from_garbage(kernel_name: str, target_name: str) -> None:
    made = space(kernel_name, target_name)
    rng = np.random.default_rng(0)
    names = [d.name for d in made.table(UNTUNED)] + ["", "nonsense", "block at", "C tiling"]
    tiles = [(1, 2, 4, 8), (16, 1, 1, 1), (0, 0, 0, 0), (2**63, 1), (-1, -16, 1, 1), ((1,),), (), (1, None)]
    words: list[Any] = ["direct", "as written", "", "-1", None, True, 1.5, float("nan"), b"x", {}, set(), object()]
    numbers = [*range(-4, 12), 16, 64, 2**31, -(2**63), 2**64, 10**30]
    values = [*tiles, *words, *numbers]
    programs = [made.start, UNTUNED, made.sample(5)]
    refused = 0
    for _ in range(100):
        picked = rng.choice(len(names), size=int(rng.integers(1, 4)), replace=False)
        edits = tuple((names[i], values[int(rng.integers(len(values)))]) for i in picked)
        program = programs[int(rng.integers(3))]
        why = made.why_not(program, Transformation(edits))
        refused += why is not None
        assert why is None or (why and "\n" not in why)
        broken = Program(program.structure, tuple((n, dict(edits).get(n, v)) for n, v in program.decisions))
        for use in (made.table, made.schedule):
            try:
                use(broken)
            except IllegalProgramError:
                continue
            except TypeError as error:
                assert "unhashable" in str(error)  # such a program is none: it never came from JSON
    assert refused > 30


def test_a_program_too_large_for_the_gpu_is_refused() -> None:
    made = space("gemm", "cuda")
    with pytest.raises(IllegalProgramError, match="VerifyGPUCode refuses the schedule for this target"):
        made.edit(UNTUNED, Transformation((("C.i tile", (1, 1, 1, 1, 32)), ("C.j tile", (1, 1, 1, 1, 32)))))


@pytest.mark.parametrize("kernel_name", ["gemm", "conv2d", "softmax", "reduction"])
def test_the_start_program_is_legal_on_a_gpu(kernel_name: str) -> None:
    made = space(kernel_name, "cuda")
    assert made.schedule(made.start) is not None


# -- results ------------------------------------------------------------------------------------------------------


@cache
def this_machine() -> Any:
    from tvm.target.codegen import llvm_get_system_cpu

    return tvm.target.Target({"kind": "llvm", "mcpu": str(llvm_get_system_cpu()), "num-cores": 2})


def run(mod: Any, inputs: list[np.ndarray]) -> np.ndarray:
    """Returns what a scheduled kernel computes, its weights packed beforehand as they would be when deployed."""
    packed = split_packing(mod)
    library = tvm.compile(packed.library, target=this_machine(), tir_pipeline=codegen.tir_pipeline())
    arguments = [tvm.runtime.tensor(array) for array in inputs]
    for index, packer in packed.packers.items():
        laid_out = _empty(packer.params[1])
        library[str(packer.attrs["global_symbol"])](arguments[index], laid_out)
        arguments[index] = laid_out
    output = _empty(mod["main"].params[-1])
    library["main"](*arguments, output)
    return output.numpy()


def _empty(buffer: Any) -> Any:
    return tvm.runtime.empty([int(d) for d in buffer.shape], str(buffer.dtype))


def assert_right(name: str, mod: Any) -> None:
    inputs = make_inputs(kernel(name), seed=0)
    expected = kernel(name).reference(*inputs).astype("float64")
    np.testing.assert_allclose(run(mod, inputs).astype("float64"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "kernel_name",
    ["gemm", "gemm+relu", "conv2d", "depthwise", "softmax", "two producers", "reduction", "elementwise", "pooling",
     "float16 gemm", "bfloat16 gemm", "int8 gemm", "attention"],
)  # fmt: skip
def test_sketches_and_random_programs_compute_the_right_result(kernel_name: str) -> None:
    made = Space(kernel(kernel_name).mod, this_machine())
    rng = np.random.default_rng(0)
    found = sketches(kernel(kernel_name).mod, this_machine())
    for i in rng.permutation(len(found))[:10]:
        program = made.edit(UNTUNED, Transformation(found[i].structure))
        assert_right(kernel_name, made.schedule(program).mod)
    for seed in range(6 if kernel_name == "attention" else 2):
        assert_right(kernel_name, made.schedule(made.sample(seed)).mod)


def test_a_sum_inside_another_blocks_reduction_loop_starts_at_zero_each_time() -> None:
    # MetaSchedule initialises it in front of that loop, once.
    made = Space(kernel("attention").mod, this_machine())
    program = made.edit(UNTUNED, Transformation((("T_softmax_expsum at", 6),)))
    assert "in loop t_0" in str({d.name: d for d in made.table(program)}["T_softmax_expsum at"].domain)
    assert_right("attention", made.schedule(program).mod)


def test_what_would_still_be_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The guard behind that repair: without the repair it has something to refuse.
    name = "reasoning_compiler.codegen.postprocess._initialise_inside_foreign_loops"
    monkeypatch.setattr(name, lambda schedule: None)
    made = Space(kernel("attention").mod, this_machine())
    with pytest.raises(IllegalProgramError, match="`T_softmax_expsum` would be summed again in each iteration"):
        made.edit(UNTUNED, Transformation((("T_softmax_expsum at", 6),)))


def has_vnni() -> bool:
    from tvm.target.codegen import target_has_features

    return bool(target_has_features("avx512vnni", this_machine()))


@pytest.mark.parametrize("target_name", ["vnni", "avx512"])
def test_a_tensor_intrinsic_is_offered_and_builds_whatever_the_tiles(target_name: str) -> None:
    made = space("vnni gemm", target_name)
    intrinsic = {"vnni": "vpdpbusd", "avx512": "pmaddubs"}[target_name]
    (structure,) = made.start.structure
    assert structure == ("C intrinsic tiling", f"dot_16x4_{target_name} + direct")
    # MetaSchedule vectorizes the loop around the intrinsic where it has more than one iteration.
    wide = made.edit(UNTUNED, Transformation((("C.j_0 tile", (1, 1, 1, 2)),)))
    for program in (made.start, wide):
        mod = made.schedule(program).mod
        assert intrinsic in mod.script()
        codegen.compile(mod, target(target_name))


@pytest.mark.skipif(not has_vnni(), reason="this CPU has no AVX512-VNNI")
def test_programs_with_a_tensor_intrinsic_compute_the_right_result() -> None:
    made = Space(kernel("vnni gemm").mod, this_machine())
    for program in (made.start, *(made.sample(seed) for seed in range(4))):
        assert_right("vnni gemm", made.schedule(program).mod)


def test_a_rule_that_tvm_cannot_apply_leaves_the_block_as_it_is() -> None:
    class Refused(Rule):
        name, phase = "refused", Phase.TILE

        def offer(self, sch: Any, block: Any) -> list[Offer]:
            sch.cache_write(block, 7, "global")  # there is no such buffer: a ScheduleError
            return [Offer(sch)]

    mod = kernel("gemm").mod
    usual = own_rules_of_tvm(mod, target())
    made = Space(mod, target(), rules=[Refused(Scheduled(mod, target())), *usual])
    assert made.start == Space(mod, target(), rules=usual).start

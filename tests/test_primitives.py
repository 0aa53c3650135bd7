"""Primitives on real schedules: they keep the meaning, replay anywhere, or are refused with a line."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journal_examples import MACHINE
from reasoning_compiler.core.crash_markers import CrashMarker
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.primitives import MAX_PRIMITIVES, SIGNATURES, Primitive
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.experiment.tabular_file import read_benchmark
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.space.named import NamedBlock
from reasoning_compiler.space.space import Space
from space_kernels import gemm, layer_norm, tvm
from test_space import MORE_KERNELS, assert_right, kernel, same_module, this_machine

pytestmark = pytest.mark.tvm

TILED = (("C.i tile", (4, 2, 1, 4)), ("C.j tile", (2, 1, 1, 16)), ("C.k tile", (8, 4)))


@cache
def space(kernel_name: str) -> Space:
    return Space(kernel(kernel_name).mod, this_machine())


def then(*primitives: Any, edits: Any = ()) -> Transformation:
    return Transformation(tuple(edits), primitives=tuple(Primitive(name, tuple(args)) for name, *args in primitives))


def tiled(*primitives: Any) -> Program:
    """Returns the tiled product with a relu behind it, with primitives."""
    return space("gemm+relu").edit(UNTUNED, then(*primitives, edits=TILED))


def script(program: Program) -> str:
    return str(space("gemm+relu").schedule(program).mod.script())


def loops(program: Program, block: str) -> list[tuple[str, str, int]]:
    nests = space("gemm+relu").nests(program)
    return [(x.name, x.kind, x.extent) for x in next(n for n in nests if n.block == block).loops]


# -- the meaning is kept --------------------------------------------------------------------------------------------


def drawn(blocks: tuple[NamedBlock, ...], rng: np.random.Generator) -> Primitive:
    """Returns a primitive that might fit, with arguments of the right kind."""

    def pick(items: Any) -> Any:
        return items[int(rng.integers(len(items)))]

    block = pick(blocks)
    other = pick(blocks)
    loop = f"{block.name}.{pick(block.loops).name}"
    some = tuple(f"{block.name}.{x.name}" for x in rng.permutation(np.array(block.loops, dtype=object))[:3])
    start = int(rng.integers(len(block.loops)))
    consecutive = tuple(f"{block.name}.{x.name}" for x in block.loops[start : start + 2])
    arguments = {
        "split": (loop, (None, pick((2, 3, 4, 16)))),
        "fuse": (consecutive,),
        "reorder": (some,),
        "vectorize": (loop,),
        "unroll": (loop,),
        "parallel": (loop,),
        "compute_at": (other.name, loop),
        "reverse_compute_at": (other.name, loop),
        "cache_read": (block.name, pick(block.reads or ("none",)), pick(("global", "local"))),
        "cache_write": (block.name, pick(("global", "local"))),
        "transform_layout": (block.name, pick(block.reads or ("none",)), pick((("1", "0"), ("0/4", "1", "0%4")))),
        "decompose_reduction": (block.name, loop),
        "rfactor": (loop, pick((0, 1))),
        "pad_einsum": (block.name, tuple(pick((1, 6, 16)) for _ in range(3))),
    }
    assert arguments.keys() == SIGNATURES.keys()
    name = pick(tuple(arguments))
    return Primitive(name, arguments[name])


@pytest.mark.parametrize("kernel_name", ["gemm+relu", "conv2d", "softmax", "layer norm", "reduction"])
def test_random_primitives_keep_the_meaning_and_replay_anywhere(kernel_name: str) -> None:
    made = space(kernel_name)
    accepted: list[str] = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        program = made.sample(seed)
        for _ in range(32):
            primitive = drawn(tuple(b for b in made.named_blocks(program) if b.loops), rng)
            try:
                program = made.edit(program, Transformation((), primitives=(primitive,)))
            except IllegalProgramError as error:
                assert str(error) and "\n" not in str(error) and len(str(error)) < 1500
            else:
                accepted.append(primitive.name)
        again = Program.from_json(json.loads(json.dumps(program.to_json())))
        assert again == program and again.key == program.key and hash(again) == hash(program)
        fresh = Space(kernel(kernel_name).mod, this_machine())
        assert same_module(fresh.schedule(again).mod, made.schedule(program).mod)
        raw = tvm.s_tir.Schedule(made.mod)
        tvm.s_tir.Trace.apply_json_to_schedule(made.raw_schedule(program).trace.as_json(), raw)
        assert same_module(raw.mod, made.raw_schedule(program).mod)
        whole = tvm.s_tir.Schedule(made.mod)
        made.schedule(program).trace.apply_to_schedule(whole, remove_postproc=False)
        assert same_module(whole.mod, made.schedule(program).mod)
        assert_right(kernel_name, made.schedule(program).mod)
        untouched = MORE_KERNELS[kernel_name]().mod
        assert same_module(made.schedule(UNTUNED).mod, Space(untouched, this_machine()).mod), "others share its loops"
        moved = mutate(made.table(program), rng)  # decisions can still be edited
        if moved is not None and made.why_not(program, moved) is None:
            assert_right(kernel_name, made.schedule(made.edit(program, moved)).mod)
    assert len(accepted) > 20 and len(set(accepted)) > 5, accepted


def test_a_block_goes_nowhere_where_it_would_make_less() -> None:
    # TVM would move the padding into the copy's loops, and its border would never be written.
    copied = then(["cache_read", "pad_temp", "X"], ["reverse_compute_at", "pad_temp", "X_global.ax3"])
    with pytest.raises(IllegalProgramError, match="`pad_temp` would no longer make all of its result"):
        space("conv2d").edit(UNTUNED, copied)


def test_what_schedules_share_is_left_alone() -> None:
    # The start program's schedule has a root of its own and shares all loops: TVM would split those of all schedules.
    made = Space(MORE_KERNELS["softmax"]().mod, this_machine())
    names = [loop.name for block in made.named_blocks(made.start) for loop in block.loops]
    for _ in range(2):
        made.edit(made.start, then(["split", "T_softmax_maxelem.k", (None, 8)]))
        assert [loop.name for block in made.named_blocks(made.start) for loop in block.loops] == names


def test_every_primitive_can_be_taken() -> None:
    programs = [
        tiled(["split", "C.k_1", (None, 2)], ["unroll", "C.k_1_1"], ["reorder", ("C.j_3", "C.i_3")]),
        tiled(["fuse", ("C.i_0", "C.j_0")], ["parallel", "C.i_0_j_0_fused"], ["vectorize", "C.j_3"]),
        tiled(["cache_write", "C", "local"], ["reverse_compute_at", "C_local", "C.i_1"]),
        tiled(
            ["cache_read", "C", "A"], ["compute_at", "A_global", "C.k_0"], ["transform_layout", "C", "A_global", (1, 0)]
        ),
        tiled(["parallel", "C.i_0"], ["vectorize", "C.j_3"], ["decompose_reduction", "C", "C.k_0"]),
        tiled(["rfactor", "C.k_1"]),
        tiled(["pad_einsum", "C", (1, 48, 1)]),
    ]
    assert {p.name for program in programs for p in program.primitives} == set(SIGNATURES)
    for program in programs:
        assert_right("gemm+relu", space("gemm+relu").schedule(program).mod)


def test_a_tile_that_does_not_divide_is_guarded() -> None:
    edits = (("C.k tile", (1, 32)),)
    program = space("gemm+relu").edit(UNTUNED, then(["split", "C.k_1", (None, 5)], edits=edits))
    assert program.primitives == (Primitive("split", ("C.k_1", (7, 5))),)
    assert_right("gemm+relu", space("gemm+relu").schedule(program).mod)


# -- what was decided stays ------------------------------------------------------------------------------------------


def test_postprocessors_leave_alone_what_was_decided() -> None:
    parallel = loops(tiled(["parallel", "C.j_0"]), "C_update")
    assert [(name, extent) for name, kind, extent in parallel if kind == "parallel"] == [("j_0", 2)]
    vectorized = loops(tiled(["split", "C.j_3", (None, 8)], ["vectorize", "C.j_3_1"]), "C_update")
    assert [(name, extent) for name, kind, extent in vectorized if kind == "vectorized"] == [("j_3_1", 8)]
    assert any(kind == "parallel" for _, kind, _ in vectorized), "nobody has decided about that"
    assert ("i_3", "unrolled", 4) in loops(tiled(["unroll", "C.i_3"]), "C_update")


def test_without_primitives_programs_are_what_they_were() -> None:
    program = tiled()
    assert "primitives" not in program.to_json()
    assert program.key == Program(program.structure, program.decisions).key
    assert "parallel" in {kind for _, kind, _ in loops(program, "C_update")}


def test_primitives_that_still_fit_are_carried_over() -> None:
    base = tiled(["split", "C.k_1", (None, 2)], ["unroll", "C.k_1_1"])
    assert [str(p) for p in base.primitives] == ["split(C.k_1, [2, 2])", "unroll(C.k_1_1)"]
    made = space("gemm+relu")
    unrolled = made.edit(base, Transformation((("unroll", 16),)))
    assert unrolled.primitives == base.primitives and unrolled.values["unroll"] == 16
    retiled = made.edit(base, Transformation((("C.k tile", (2, 16)),)))
    assert retiled.primitives == (), "2×2 no longer splits 16 iterations, and then there is nothing to unroll"
    more = made.edit(base, then(["reorder", ("C.j_3", "C.i_3")]))
    assert more.primitives[:2] == base.primitives and len(more.primitives) == 3


def test_what_could_not_be_built_is_refused() -> None:
    with pytest.raises(IllegalProgramError, match="`C` would have a vectorized loop, `j_3`, inside another one, `i_3`"):
        tiled(["vectorize", "C.i_3"], ["vectorize", "C.j_3"])
    with pytest.raises(IllegalProgramError, match="vectorized loop `i_3` around `A_global` would have several"):
        tiled(["vectorize", "C.i_3"], ["cache_read", "C", "A"], ["compute_at", "A_global", "C.i_3"])
    with pytest.raises(IllegalProgramError, match=r"loop `C.j_2` has one iteration"):
        tiled(["vectorize", "C.j_2"])


# -- spellings -------------------------------------------------------------------------------------------------------

PACKED = (["cache_read", "C", "A", "global"], ["transform_layout", "C", "A_global", ("1/8", "0", "1%8")])


@pytest.mark.parametrize(
    "said",
    [
        (["cache_read", "C", 0], ["transform_layout", "C", 0, ("k/8", "i", "k%8")]),
        (["cache_read", "C", ("read", 0)], ["transform_layout", "C", ("read", 0), ("1//8", 0, "v_k % 8")]),
        (["cache_read", "C", "A"], ["transform_layout", "C", "A", "lambda m, n: (n // 8, m, n % 8)"]),
        (["cache_read", "C", "A"], ["transform_layout", "A_global", ("write", 0), "[k / 8, i, k % 8]"]),
        (["cache_read", "C", "A"], ["transform_layout", "A_global", "A_global", ("1/8", "0", "1%8")]),
    ],
)
def test_what_several_spellings_can_only_mean_is_taken(said: tuple[list[Any], ...]) -> None:
    assert tiled(*said) == tiled(*PACKED)


def test_loops_may_go_without_their_block_and_by_their_iterators() -> None:
    assert tiled(["reorder", ("j_2", "C.k_1")]) == tiled(["reorder", ("C.j_2", "C.k_1")])
    made = space("softmax")
    parts = (["split", "T_softmax_expsum.k", (None, 8)], ["rfactor", "T_softmax_expsum.k_1"])
    split = made.edit(UNTUNED, then(*parts))
    moved = then(["compute_at", "T_softmax_expsum_rf", "T_softmax_expsum.i0"])
    program = made.edit(split, moved)
    (block,) = (b for b in made.named_blocks(program) if b.name == "T_softmax_expsum_rf")
    assert "k_0" not in [loop.name for loop in block.loops]
    unrolled = made.edit(program, then(["unroll", "T_softmax_expsum_rf.k_1"]))
    assert unrolled.primitives[-1].arguments[0] in [f"{block.name}.{loop.name}" for loop in block.loops]


def test_what_is_said_again_is_not_done_again() -> None:
    base = tiled(*PACKED)
    other = (["cache_read", "C", "A"], ["transform_layout", "C", "A", "lambda m, n: (n // 8, m, n % 8)"])
    unroll = ["unroll", "C.k_1"]
    wanted = space("gemm+relu").edit(base, then(unroll))
    for again in (PACKED, other):
        assert space("gemm+relu").edit(base, then(*again, unroll)) == wanted
    assert space("gemm+relu").edit(base, then(unroll, PACKED[0])) == wanted


def test_a_reduction_under_a_condition_is_summed_up_in_parts_and_stays_where_it_is() -> None:
    # TVM refuses to split its initialisation off, and would forget the condition where it moves the block.
    made = space("softmax")
    extent = next(loop.extent for loop in made.named_blocks(made.start)[0].loops if loop.reduces)
    factor = next(f for f in (8, 12, 20) if extent % f)
    parts = (["split", "T_softmax_expsum.k", (None, factor)], ["rfactor", "T_softmax_expsum.k_1", 1])
    assert_right("softmax", made.schedule(made.edit(UNTUNED, then(*parts))).mod)
    moved = ["compute_at", "T_softmax_expsum_rf", "T_softmax_expsum.i0"]
    with pytest.raises(IllegalProgramError, match=r"would lose the condition `k_0 .* come"):
        made.edit(UNTUNED, then(*parts, moved))


def test_a_refusal_says_the_step_that_helps() -> None:
    base = tiled(["split", "C.k_1", (2, 2)])
    with pytest.raises(IllegalProgramError, match=r'it was split, and \["fuse", \["C.k_1_0", "C.k_1_1"\]\] makes one'):
        space("gemm+relu").edit(base, then(["unroll", "C.k_1"]))
    made = space("softmax")
    with pytest.raises(IllegalProgramError) as caught:
        made.edit(UNTUNED, then(["compute_at", "T_softmax_maxelem", "T_softmax_norm.i0"]))
    step = json.loads(str(caught.value).partition("move it first, ")[2])
    assert step[0] == "compute_at" and step[2] == "T_softmax_norm.i0"


# -- refusals --------------------------------------------------------------------------------------------------------

_ILLEGAL: list[tuple[list[Any], str]] = [
    (["melt", "C.k_1"], r"no primitive `melt`; there are split, fuse, "),
    (["split", "C.k_1"], r"`split` takes 2 arguments, not 1: split\(loop, factors\)"),
    (["split", "C.z", (2, 2)], r"no loop `C.z` here; there are `C.i_0`, `C.j_0`"),
    (["split", "X.k_1", (2, 2)], r"no block `X` here; there are `C`, `D`"),
    (["split", "k", (2, 2)], r"`k` does not say of which block it is a loop; there are `C.k_[01]`, `C.k_[01]`"),
    (["split", "C.k_1", (3, 3)], r"factors 3×3 = 9 do not split the 4 iterations of `C.k_1`; their product is to be 4"),
    (["split", "C.k_1", (None, None)], "leaves more than one open"),
    (["split", "C.k_1", (0, 4)], "has a factor that is none"),
    (["split", "C.k_1", (True, 4)], "has a factor that is none"),
    (["split", "C.k_1", 4], "is no list"),
    (["fuse", ("C.i_0", "D.i")], "names loops of several blocks"),
    (["fuse", ("C.i_0", "C.i_0")], "names a loop twice"),
    (["fuse", ("C.i_0", "C.k_0")], r"fuse\(\[C.i_0, C.k_0\]\) cannot be applied: "),
    (["vectorize", "C.k_1"], r"vectorize\(C.k_1\) cannot be applied: "),
    (["parallel", "C.k_0"], r"parallel\(C.k_0\) cannot be applied: "),
    (["unroll", "D.i"], r"`D.i` has 512 iterations; at most 256 are allowed: split it first"),
    (["compute_at", "D", "C.i_0"], r"compute_at\(D, C.i_0\) cannot be applied: "),
    (["cache_read", "C", "D"], r"`C` reads no buffer `D`; it reads `A`, `B`"),
    (["cache_read", "C", "A", "shared"], r'which is none of them; it has to be `"global"` or `"local"`'),
    (["transform_layout", "C", "A", (1, 0)], "an argument of the kernel, is fixed; copy it with `cache_read` first"),
    (["transform_layout", "D", "C", ("0/5", "1", "0%5")], r"dimension 0 \(512 elements\) once, or as 0/F and 0%F"),
    (["transform_layout", "D", "C", ("0",)], "has to have dimension 1"),
    (["transform_layout", "D", "C", ("__import__('os')",)], r"`__import__\('os'\)` is no dimension"),
    (["rfactor", "C.i_1"], r"rfactor\(C.i_1, 0\) cannot be applied: "),
    (["rfactor", "C.k_1", 9], r"`axis` of `rfactor` is 9; the partial results have positions 0 to 2 for it"),
    (["pad_einsum", "C", (1, 1)], r"`C` has 3 iterators \(v_i, v_j, v_k\), not 2"),
    (["decompose_reduction", "D", "D.j"], "cannot be applied: "),
]


@pytest.fixture(scope="module")
def tall() -> Program:
    return tall_space().edit(UNTUNED, Transformation((("C.k tile", (8, 4)),)))


@cache
def tall_space() -> Space:
    return Space(gemm(512, 32, 32, relu=True).mod, this_machine())


@pytest.mark.parametrize(("primitive", "message"), _ILLEGAL, ids=lambda part: str(part)[:40])
def test_an_illegal_primitive_says_why(tall: Program, primitive: list[Any], message: str) -> None:
    with pytest.raises(IllegalProgramError, match=message) as caught:
        tall_space().edit(tall, then(primitive))
    assert "\n" not in str(caught.value)


def test_their_number_is_limited() -> None:
    base = tiled(*(["unroll", loop] for loop in ("C.k_1", "C.i_3")))
    with pytest.raises(IllegalProgramError, match="at most 16 primitives; 2 are there, and 15 would follow"):
        space("gemm+relu").edit(base, then(*(["unroll", "C.i_2"] for _ in range(MAX_PRIMITIVES - 1))))


def test_names_stay_unique() -> None:
    with pytest.raises(IllegalProgramError, match="there would be 2 blocks `A_global`"):
        tiled(["cache_read", "C", "A"], ["cache_read", "C", "A_global"], ["cache_read", "A_global", "A"])


def test_nothing_else_escapes_from_garbage(tall: Program) -> None:
    rng = np.random.default_rng(0)
    junk: list[Any] = [None, True, -1, 0, 3, 2**70, 1.5, "", " ", "C", "C.", ".k", "C.k_1", "A", "é\n", b"x", object()]
    junk += [(), (1,), ("C.i_0", "C.j_0"), (None, 2), (2**40, 2), ((1,),), {}, ("0", "1"), ("1/0",), ("99", "0")]
    names = [*SIGNATURES, "", "eval", "compute_inline"]
    refused = 0
    for _ in range(400):
        name = names[int(rng.integers(len(names)))]
        args = tuple(junk[int(rng.integers(len(junk)))] for _ in range(int(rng.integers(4))))
        why = tall_space().why_not(tall, Transformation((), primitives=(Primitive(name, args),)))
        refused += why is not None
        assert why is None or (why and "\n" not in why)
    assert refused > 350


def test_a_journal_of_primitives_for_another_kernel_is_refused() -> None:
    foreign = Program(*_parts(space("gemm+relu").start), (Primitive("unroll", ("Z.i",)),))
    for use in (space("gemm+relu").schedule, space("gemm+relu").nests):
        with pytest.raises(IllegalProgramError, match="no block `Z` here"):
            use(foreign)


def _parts(program: Program) -> tuple[Any, Any]:
    return program.structure, program.decisions


# -- who uses them -------------------------------------------------------------------------------------------------


def test_what_tvm_has_crashed_over_is_not_tried_again() -> None:
    change = (Primitive("unroll", ("C.k_1",)),)
    marker = CrashMarker(space("gemm+relu").start, primitives=change)
    assert CrashMarker.from_json(json.loads(marker.text)) == marker and marker.changes
    made = Space(kernel("gemm+relu").mod, this_machine(), fatal=[marker])
    with pytest.raises(IllegalProgramError, match="TVM crashes when this is applied"):
        made.edit(UNTUNED, Transformation((), primitives=change))
    made.edit(UNTUNED, then(["unroll", "C.i_2"]))


def test_a_recording_refuses_them(tmp_path: Any) -> None:
    landscape = read_benchmark(Path(__file__).parent / "landscapes" / "gemm.landscape.gz")
    with pytest.raises(IllegalProgramError, match=r"unroll\(C.k_1\) needs hardware"):
        landscape.edit(UNTUNED, then(["unroll", "C.k_1"]))


def test_the_expert_sums_up_in_lanes_where_the_analysis_favours_it() -> None:
    wide = Space(layer_norm(256, 512).mod, this_machine())
    proposal = Expert(wide, MACHINE).propose(
        Context((Step(0, None, UNTUNED),), wide.table(UNTUNED)), 3, np.random.default_rng(0)
    )
    sums = [t for t in proposal.transformations if t.primitives]
    assert sums and {"split", "rfactor"} <= {p.name for p in sums[0].primitives}
    before, after = (
        analyze(wide.nests(wide.edit(UNTUNED, t)), MACHINE).secs for t in (proposal.transformations[0], sums[0])
    )
    assert after < 0.9 * before and "lanes" in sums[0].reasoning
    product = Expert(space("gemm+relu"), MACHINE).propose(
        Context((Step(0, None, UNTUNED),), space("gemm+relu").table(UNTUNED)), 8, np.random.default_rng(0)
    )
    assert not any(t.primitives for t in product.transformations), "its sums are in lanes already"


def test_sums_that_take_little_of_the_time_are_not_tried_in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Space(layer_norm(256, 512).mod, this_machine())
    monkeypatch.setattr("reasoning_compiler.proposer.expert.sums._WORTH_IT", 10.0)  # e^10 times as fast: none can be
    monkeypatch.setattr(wide, "edit", lambda program, change: pytest.fail("it was tried"))
    assert SumsInLanes(wide, MACHINE).of(wide.start) == []

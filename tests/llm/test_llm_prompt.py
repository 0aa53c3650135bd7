from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conv_context import ANALYSIS, BLOCKS, KERNEL, MACHINE, PROGRAM_TEXT, START, conv_context, program, root_context

from reasoning_compiler.core.machines import Peak
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.primitives import KIND_MEANINGS, SIGNATURES, Primitive
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.proposer.llm.calls import estimate_tokens
from reasoning_compiler.proposer.llm.language import worked_example
from reasoning_compiler.proposer.llm.node import ProgramFacts, changes_text, node_text
from reasoning_compiler.proposer.llm.prompt import build_prompt, repair_text, tiling_notes
from reasoning_compiler.proposer.llm.shorten import compact, shorten
from reasoning_compiler.proposer.protocol import SAME_PROGRAM, Rejection

BRINGS = {
    ("conv2d", "cached"): (("copy tile", (64, 1)), ("copy at", -1)),
    ("conv2d", "cached-outer"): (),
}


def prompt(context=None, **kwargs) -> tuple[str, str]:
    context = context or conv_context()
    given = {"analysis": ANALYSIS, "brings": BRINGS, "blocks": BLOCKS} | kwargs
    system, user = build_prompt(context, 2, ProgramFacts(**given), kernel=KERNEL, machine=MACHINE)
    return system.text, user.text


def test_golden_prompt(golden) -> None:
    system, user = prompt()
    golden("llm_prompt_node.txt", f"{system}\n\n=== USER ===\n{user}\n")


def test_golden_prompt_of_the_untuned_program(golden) -> None:
    golden("llm_prompt_root.txt", prompt(root_context(), analysis="")[1] + "\n")


def test_golden_repair(golden) -> None:
    one = {2: "There is no decision `a`: did you mean `a tile`?"}
    both = one | {0: "The answer does not end in JSON."}
    golden("llm_prompt_repair.txt", repair_text(both, 1) + "\n\n" + repair_text(one, 2) + "\n")


def test_a_bound_is_shown_as_one() -> None:
    context = conv_context()
    bound = Measurement((0.09,), cut=True, censored=True)
    text = prompt(replace(context, lineage=(replace(context.lineage[0], measurement=bound), *context.lineage[1:])))[1]
    assert "> 90 ms measured, stopped early" in text


def test_steps_are_numbered_and_loops_and_buffers_are_those_after_them() -> None:
    context = conv_context()
    node = context.lineage[0]
    unrolled = (Primitive("split", ("conv2d.rc_0", (4, 4))), Primitive("unroll", ("conv2d.rc_0_1",)))
    changed = replace(node, program=replace(node.program, primitives=unrolled))
    text = prompt(replace(context, lineage=(changed, *context.lineage[1:])))[1]
    assert "steps after them, which stay: 1. split(conv2d.rc_0, [4, 4]); 2. unroll(conv2d.rc_0_1)" in text
    assert "LOOPS of this program after its 2 steps" in text
    assert "conv2d (reads pad, w; writes conv2d): h_0 16, h_1 4, w_1 4, co_1 8, rh_0* 3, rc_0* 16, co_3 64" in text
    assert "; then split(conv2d.rc_0, [4, 4]), unroll(conv2d.rc_0_1)" in text, "as what made it of its parent"
    assert "without steps 1, 2" in text, "as what others do not have"
    assert "LOOPS of this program without any step" in prompt()[1] and "LOOPS" not in prompt(blocks=())[1]


def test_every_primitive_is_documented_and_there_is_an_example() -> None:
    system = prompt()[0]
    assert all(f"\n{signature}" in system for signature in SIGNATURES.values())
    assert all(meaning in system for meaning in KIND_MEANINGS.values())
    assert '"then": [["cache_read", "conv2d", "pad", "global"], ["transform_layout", "conv2d", "pad_global"' in system
    plain = build_prompt(
        conv_context(), 2, ProgramFacts(), kernel=replace(KERNEL, takes_primitives=False), machine=MACHINE
    )[0].text
    assert "PRIMITIVES" not in plain


def test_the_example_is_one_that_the_kernel_takes() -> None:
    packed = worked_example(BLOCKS, lambda steps: True)
    assert [step.name for step in packed] == ["cache_read", "transform_layout", "reorder"]
    assert packed[1].arguments == ("conv2d", "w_global", ("rw", "rc", "co", "rh"))
    plain = worked_example(BLOCKS, lambda steps: steps[0].name == "split")
    assert [str(step) for step in plain] == ["split(conv2d.co_3, [null, 2])", "unroll(conv2d.co_3_1)"]
    assert worked_example(BLOCKS, lambda steps: False) == ()


def test_programs_that_wait_and_proposals_that_were_refused_are_listed() -> None:
    context = conv_context()
    waiting = replace(context.best, node=40, measurement=None, predicted_secs=0.09)
    refused = (Transformation((("unroll", 16),), primitives=(Primitive("unroll", ("conv2d.co_3",)),)), "too long")
    text = node_text(replace(context, unmeasured=(waiting, context.node)), 2, refused=(refused, refused))
    section = text.partition("NOT YET MEASURED")[2].partition("\n\n")[0]
    assert "node 40: " in section and "-> 90 ms predicted" in section and f"node {context.node.node}:" not in section
    assert text.count("unroll=16; then unroll(conv2d.co_3): too long") == 1


def test_the_first_part_is_the_same_for_every_node() -> None:
    """Providers cache a prompt's beginning."""
    assert prompt()[0] == prompt(root_context(), analysis="")[0]


@pytest.mark.parametrize(("depth", "shown"), [(0, [5]), (1, [5, 1]), (2, [5, 1, 0]), (5, [5, 1, 0])])
def test_context_depth_counts_ancestors(depth: int, shown: list[int]) -> None:
    text = node_text(conv_context(), 2, context_depth=depth)
    lineage = text.split("HOW IT CAME ABOUT, newest first\n")[1].split("\n\n")[0]
    assert [int(line.split()[1]) for line in lineage.splitlines()] == shown


def test_ancestors_that_are_too_far_up_are_results_like_others() -> None:
    others = node_text(conv_context(), 2, context_depth=0).split("OTHER RESULTS")[1]
    assert "node 1:" in others and "node 1:" not in node_text(conv_context(), 2).split("OTHER RESULTS")[1]


def test_predictions_that_nobody_trusts_are_not_shown() -> None:
    context = conv_context()
    silent = tuple(replace(step, predicted_secs=None) for step in context.lineage)
    assert "predicted" not in node_text(replace(context, lineage=silent), 1)


def test_decisions_without_a_choice_are_left_out() -> None:
    assert "conv2d.n tile" not in prompt()[1]


def test_a_limit_is_said_once_where_all_tiles_have_it() -> None:
    assert prompt()[1].count("innermost ≤ 64") == 1
    context = conv_context()
    table = tuple(
        replace(d, domain=replace(d.domain, max_innermost=32)) if d.name == "conv2d.rc tile" else d
        for d in context.table
    )
    text = node_text(replace(context, table=table), 1)
    assert "co tile: 4 factors, product 512, innermost ≤ 64" in text
    assert "rc tile: 2 factors, product 512, innermost ≤ 32" in text
    assert "h tile: 4 factors, product 64; now" in text, "its extent keeps the limit"


def test_refusals_of_known_programs_are_not_told_twice() -> None:
    context = conv_context()
    known = Rejection(Transformation((("unroll", 0),)), f"{SAME_PROGRAM} node 3")
    text = node_text(replace(context, rejected=(*context.rejected, known)), 1)
    assert SAME_PROGRAM not in text and "REFUSED FOR THIS PROGRAM" in text
    assert "REFUSED" not in node_text(replace(context, rejected=(known,)), 1)


def test_the_best_program_is_named_when_it_is_this_one() -> None:
    context = conv_context()
    assert "This program is the best so far." in node_text(replace(context, best=context.node), 1)


def test_differences_name_what_comes_and_goes() -> None:
    bare = replace(program(START), decisions=program(START).decisions[:-1])
    assert changes_text(bare, program(START)) == "pad at: absent → -1"
    assert changes_text(program(START), bare) == "pad at: -1 → absent"


@pytest.mark.parametrize("max_tokens", [1500, 2000, 3000])
def test_a_prompt_keeps_its_limit_and_its_decisions(max_tokens: int) -> None:
    context = conv_context()
    many = tuple(replace(context.best, node=100 + i) for i in range(60))
    crowded = replace(context, measured=context.measured + many, children=many[:30])
    kernel = replace(KERNEL, program_text=PROGRAM_TEXT + PROGRAM_TEXT * 20, notes="")
    system, user = build_prompt(
        crowded, 2, ProgramFacts("long " * 2000), kernel=kernel, machine=MACHINE, max_tokens=max_tokens
    )
    assert all(d.name in user.text for d in context.table if d.name != "conv2d.n tile")
    assert "Propose 2 different" in user.text
    assert estimate_tokens(system.text) + estimate_tokens(user.text) <= max_tokens * 1.1


def test_compact_programs_say_the_same_in_fewer_tokens() -> None:
    text = compact(PROGRAM_TEXT)
    assert estimate_tokens(text) < 0.6 * estimate_tokens(PROGRAM_TEXT)
    assert "# spatial n, h, w_1, co; reduction rh, rw, rc" in text
    assert "conv2d[n, h, w_1, co] + pad[n, h + rh, w_1 + rw, rc] * w[rh, rw, rc, co]" in text
    assert "T." not in text and "noalias" not in text
    assert "x: float32[1, 64, 64, 512]" in text
    number = compact("a[i] = T.max(a[i], T.float32(-340282346638528859811704183484516925440.0)) * T.float32(0.5)")
    assert number == "a[i] = max(a[i], -3.40282e+38) * 0.5"


def test_an_expression_without_end_is_told_by_what_it_is_made_of() -> None:
    polynomial = " * ".join(["T.max(x[v_i, v_j], m[v_i])"] * 20)
    assert compact(f"e[v_i, v_j] = {polynomial}") == "e[v_i, v_j] = 39 operations on x[v_i, v_j], m[v_i]"
    assert len(compact("call(" + "a, " * 400 + ")")) <= 300


def test_long_programs_keep_the_heaviest_nests_and_fold_repeated_ones() -> None:
    def nest(name: str, extent: int) -> str:
        return (
            f"    for i, j in T.grid({extent}, 64):\n"
            f'        with T.sblock("{name}"):\n'
            '            v_i, v_j = T.axis.remap("SS", [i, j])\n'
            f"            {name}[v_i, v_j] = T.exp({name}_in[v_i, v_j])\n"
        )

    text = (
        "def main(x: T.handle):\n"
        + nest("big", 4096)
        + "".join(nest(f"add_{i}", 8) for i in range(9))
        + nest("mid", 512)
    )
    short = shorten(text, 150)
    assert estimate_tokens(short) <= 150
    assert "big[i, j] = exp" in short
    assert "# add_1: like add_0, left out" in short
    assert "iterations, left out" in short
    assert shorten(text, 10_000) == compact(text)
    assert estimate_tokens(shorten("x = 1\n" * 10_000, 200)) <= 201


def test_notes_tell_the_order_of_tiled_loops_and_the_limits_once() -> None:
    def loop(name: str, reduces: bool = False) -> SimpleNamespace:
        return SimpleNamespace(name=name, reduces=reduces)

    nest = SimpleNamespace(loops=(loop("i"), loop("j"), loop("k", True)))
    one = SimpleNamespace(block="C", structure="SSRSRS", nest=nest, max_jobs=32, max_vector=64, needs=())
    two = SimpleNamespace(block="D", structure="SRS", nest=nest, max_jobs=32, max_vector=64, needs=())
    assert tiling_notes([one, two]).splitlines() == [
        "Loops of C when tiled, outermost first: i_0 j_0 | i_1 j_1 | k_0 | i_2 j_2 | k_1 | i_3 j_3.",
        "Loops of D when tiled, outermost first: i_0 j_0 | k_0 | i_1 j_1.",
        "x_0 is the first factor of x's tile, and so on.",
        "The outermost spatial loops run in parallel, up to 32 jobs; the innermost loop is vectorized, up to 64 long.",
    ]
    assert tiling_notes([]) == ""


def test_structures_are_quoted() -> None:
    """Their names hold commas."""
    assert '"tiled" (tiled, accumulates in the output) | "cached"' in prompt()[1]


def test_an_untuned_node_without_a_measurement_says_so() -> None:
    text = node_text(replace(root_context(), lineage=(Step(0, None, UNTUNED),)), 1)
    assert "the untuned program -> not measured yet" in text


def test_shares_of_the_peak_are_of_the_instruction_that_takes_the_types() -> None:
    peak = Peak(4 * MACHINE.peak_flops, "vpdpbusd")
    system, user = build_prompt(conv_context(), 2, ProgramFacts(), kernel=replace(KERNEL, peak=peak), machine=MACHINE)
    usual_system, usual = build_prompt(conv_context(), 2, ProgramFacts(), kernel=KERNEL, machine=MACHINE)
    assert "ms at peak by vpdpbusd" in system.text and "vpdpbusd" not in usual_system.text
    shares, before = (re.findall(r", (\d+)% of peak", each.text) for each in (user, usual))
    assert before and [round(int(share) / 4) for share in before] == pytest.approx([int(x) for x in shares], abs=1)

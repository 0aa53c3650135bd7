from __future__ import annotations

import json
import math
import random
import time
from typing import Any, get_args

import pytest
from conv_context import START, conv_context, table

from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import ChoiceDomain, Decision, TileDomain
from reasoning_compiler.proposer.llm.answer import MAX_ANSWER_CHARS, Answer, RejectionKind, parse_answer
from reasoning_compiler.proposer.llm.loose_json import find_containers
from reasoning_compiler.proposer.llm.values import coerce

TABLE = conv_context().table
H, W, CO, UNROLL = "conv2d.h tile", "conv2d.w tile", "conv2d.co tile", "unroll"
GOOD = {"transformations": [{"edits": {H: [16, 1, 4, 1], UNROLL: 16}, "expect": "better reuse"}]}


def parse(text: str) -> Answer:
    return parse_answer(text, TABLE)


def edits(text: str) -> list[dict[str, Any]]:
    answer = parse(text)
    assert all(item.kind is None for item in answer.items), answer.items
    return [dict(item.transformation.edits) for item in answer.items if item.transformation]


def kind_and_why(text: str) -> tuple[str | None, str]:
    (item,) = parse(text).items
    assert item.transformation is None
    return item.kind, item.why


EXPECTED = [{H: (16, 1, 4, 1), UNROLL: 16}]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps(GOOD), id="plain"),
        pytest.param(f"Let me think.\n```json\n{json.dumps(GOOD, indent=2)}\n```\nGood luck!", id="fenced"),
        pytest.param("The tile [4, 4, 1, 1] is small, {see} above.\n" + json.dumps(GOOD), id="brackets in the prose"),
        pytest.param(json.dumps(GOOD).replace("}]}", "},]}").replace("16}", "16,}"), id="trailing commas"),
        pytest.param(str(GOOD), id="python"),
        pytest.param(str(GOOD).replace("[16, 1, 4, 1]", "(16, 1, 4, 1)"), id="python tuple"),
        pytest.param(json.dumps(GOOD).replace('"edits"', "// why\n/* so */ # there\n edits"), id="comments, bare key"),
        pytest.param(json.dumps(GOOD["transformations"]), id="bare list"),
        pytest.param(json.dumps(GOOD["transformations"][0]), id="bare item"),
        pytest.param(json.dumps({H: [16, 1, 4, 1], UNROLL: 16, "why": "x"}), id="decisions as keys"),
        pytest.param(
            json.dumps([{"edits": [{"decision": H, "value": [16, 1, 4, 1]}, {"name": UNROLL, "to": 16}]}]),
            id="edits as objects",
        ),
        pytest.param(json.dumps([{"edits": [[H, [16, 1, 4, 1]], [UNROLL, 16]]}]), id="edits as pairs"),
        pytest.param(
            json.dumps([{"edits": {H: {"from": [16, 4, 1, 1], "to": [16, 1, 4, 1]}, UNROLL: 16}}]),
            id="old and new",
        ),
        pytest.param(json.dumps([{"changes": {"CONV2D.H  Tile": "[16, 1, 4, 1]", " Unroll": "16"}}]), id="names"),
        pytest.param(json.dumps([{"edits": {H: "16x1x4x1", UNROLL: 16.0}}]), id="values as text"),
        pytest.param(json.dumps([{"edits": {H: [16.0, "1", 4, 1], UNROLL: [16]}}]), id="odd numbers"),
        pytest.param(json.dumps([{"edits": {H: "[16,4,1,1] -> [16,1,4,1]", UNROLL: "64 → 16"}}]), id="arrows"),
        pytest.param(
            json.dumps({"transformations": [{"edits": {CO: [1, 1, 1, 1]}}]}) + " No:\n" + json.dumps(GOOD),
            id="the last answer counts",
        ),
        pytest.param(json.dumps(GOOD) + '\nDone. {"status": "ok"} [1, 2]', id="chatter after it"),
        pytest.param(json.dumps(GOOD)[:-3] + ', {"edits": {"conv2d.w ti', id="cut off in the second"),
        pytest.param("<think>{" + json.dumps(GOOD)[:40] + "</think>" + json.dumps(GOOD), id="a draft before it"),
    ],
)
def test_reads_what_models_write(text: str) -> None:
    assert edits(text) == EXPECTED


def test_reads_one_object_a_line() -> None:
    lines = [json.dumps({"edits": {UNROLL: u}}) for u in (0, 16, 512)]
    assert edits("First:\n" + "\n".join(lines)) == [{UNROLL: 0}, {UNROLL: 16}, {UNROLL: 512}]


def test_reads_all_decisions_in_the_tables_order() -> None:
    values = [list(d.value) if isinstance(d.value, tuple) else d.value for d in TABLE]
    values[-2] = 512
    assert edits(json.dumps([{"decisions": values}])) == [{UNROLL: 512}]


def test_keeps_reasoning_and_expectation() -> None:
    answer = parse("The weights thrash.\n\n```json\n" + json.dumps(GOOD) + "\n```")
    assert answer.reasoning == "The weights thrash."
    assert answer.items[0].transformation.expectation == "better reuse"
    inside = parse(json.dumps({"reasoning": "L2 is full.", **GOOD}))
    assert inside.reasoning == "L2 is full."


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", "empty", "empty"),
        (" \n ", "empty", "empty"),
        ("Use larger tiles, and unroll more.", "no_answer", "JSON"),
        ("I'm sorry, but I can't help with that.", "refusal", "declines"),
        ('{"transformations": []}', "wrong_shape", "empty"),
        ('{"transformations": ["bigger tiles"]}', "wrong_shape", "form"),
        ('{"transformations": [{"edits": {"conv2d.h tile": [16, 1', "truncated", "cut off"),
        (json.dumps([{"edits": {"conv2d.x tile": [1]}}]), "unknown_decision", "did you mean"),
        (json.dumps([{"edits": {H: [16, 1, 4]}}]), "outside_domain", "3 factors instead of 4"),
        (json.dumps([{"edits": {H: [16, 1, 4, 2]}}]), "outside_domain", "product 128 instead of 64"),
        (json.dumps([{"edits": {CO: [1, 1, 4, 128]}}]), "outside_domain", "above 64"),
        (json.dumps([{"edits": {UNROLL: 32}}]), "outside_domain", "no value of it; allowed: one of 0, 16, 64, 512"),
        (json.dumps([{"edits": {UNROLL: True}}]), "wrong_type", "cannot be True"),
        (json.dumps([{"edits": {UNROLL: None}}]), "wrong_type", "cannot be None"),
        (json.dumps([{"edits": {H: {"a": 1}}}]), "wrong_type", "cannot be"),
        ('[{"edits": {"unroll": NaN}}]', "wrong_type", "cannot be nan"),
        ('[{"edits": {"unroll": 1e999}}]', "wrong_type", "cannot be inf"),
        ('[{"edits": {"conv2d.h tile": [1e300, 1, 1, 1]}}]', "wrong_type", "cannot be"),
        (f'[{{"edits": {{"unroll": {"9" * 5000}}}}}]', "wrong_type", "cannot be inf"),
        (json.dumps([{"edits": {UNROLL: 64, H: [16, 4, 1, 1]}}]), "no_change", "present value"),
        (json.dumps([{"edits": {}}]), "no_change", "present value"),
    ],
)
def test_says_why_not(text: str, kind: str, words: str) -> None:
    found, why = kind_and_why(text)
    assert (found, words in why) == (kind, True), why


def test_nothing_is_executed(tmp_path) -> None:
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    for text in (code, f"[{{'edits': {{'unroll': {code}}}}}]", f'[{{"edits": {{"unroll": "{code}"}}}}]', f"$({code})"):
        assert all(item.kind is not None for item in parse(text).items)
    assert not trap.exists()


def test_a_new_structure_leaves_other_decisions_to_the_space() -> None:
    """Its decisions are not those of the table, so only the space can judge them."""
    answer = edits(json.dumps([{"edits": {"conv2d": "cached", "conv2d_local at": 3, H: [8, 8]}}]))
    assert answer == [{"conv2d": "cached", "conv2d_local at": 3, H: (8, 8)}]
    kind, _ = kind_and_why(json.dumps([{"edits": {"conv2d": "tiled", "conv2d_local at": 3}}]))
    assert kind == "unknown_decision"


def test_a_location_beside_other_edits_is_left_to_the_space() -> None:
    """Which locations there are depends on the tiles."""
    assert edits(json.dumps([{"edits": {"pad at": 6, UNROLL: 16}}])) == [{"pad at": 6, UNROLL: 16}]
    assert kind_and_why(json.dumps([{"edits": {"pad at": 6}}]))[0] == "outside_domain"


def test_the_start_program_itself_may_be_proposed_where_allowed() -> None:
    answer = parse_answer('[{"edits": {"unroll": 16}}]', table(START), allow_unchanged=True)
    assert answer.items[0].transformation.edits == ()


def test_labels_and_text_stand_for_values() -> None:
    location = ChoiceDomain((-1, 4), ("root", "at co0"))
    for raw in (4, "4", 4.0, [4], "At CO0", "4 (at co0)"):
        assert coerce(location, raw) == 4
    assert coerce(ChoiceDomain(("a->b", "b")), "a->b") == "a->b"
    assert coerce(TileDomain(6, 1), 6) == (6,)
    assert coerce(location, 1 << 70) == 1 << 70  # outside, but of the right type


def test_names_that_differ_in_case_only_are_never_confused() -> None:
    twins = (
        Decision("a tile", "choice", ChoiceDomain((0, 1)), 0),
        Decision("A tile", "choice", ChoiceDomain((0, 1)), 0),
    )
    assert dict(parse_answer('[{"edits": {"A tile": 1}}]', twins).items[0].transformation.edits) == {"A tile": 1}
    assert parse_answer('[{"edits": {"a TILE": 1}}]', twins).items[0].kind == "unknown_decision"


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, "{" * 10**6, '{"a' * 400_000, '["' * 500_000, "{/*" * 300_000, "x" * 10**6, '{"a":1}' * 150_000,
     "\\" * 10**6, '"' * 10**6, json.dumps({"transformations": [{"edits": {str(i): i}} for i in range(60_000)]})],
)  # fmt: skip
def test_a_megabyte_is_read_in_bounded_time(text: str) -> None:
    started = time.process_time()
    answer = parse(text)
    assert time.process_time() - started < 3
    assert answer.items
    assert all(item.kind in get_args(RejectionKind) and item.why for item in answer.items)


def test_a_megabyte_around_the_answer_does_not_hide_it() -> None:
    assert edits("Well. " * 200_000 + json.dumps(GOOD)) == EXPECTED
    assert MAX_ANSWER_CHARS < 10**6


def test_the_reader_itself_is_bounded() -> None:
    started = time.process_time()
    find_containers("[" * 3_000_000)
    assert time.process_time() - started < 2


def test_loose_json_keeps_only_whole_elements() -> None:
    (found,) = find_containers('{"a": [{"b": 1}, {"c": [1, 2')
    assert found.truncated and found.value == {"a": [{"b": 1}]}
    (found,) = find_containers('[1, NaN, "\\u00e9\\ud800"]')
    assert math.isnan(found.value[1]) and found.value[2] == "é\ufffd"


# -- property: nothing escapes, every rejection has a reason ------------------------------------------------------


def generated_answer(rng: random.Random) -> str:
    """Returns a valid, nearly valid or hopeless answer."""
    items = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        chosen = rng.sample(TABLE, rng.randint(0, 4))
        values = {rng.choice((d.name, d.name, d.name.upper(), d.name[1:])): generated_value(rng, d) for d in chosen}
        item: Any = {rng.choice(("edits", "edits", "decisions", "foo")): values, "expect": rng.choice(("", "a", 1))}
        items.append(rng.choice((item, item, item, values, list(values.items()), None, "text")))
    whole = rng.choice(({"transformations": items}, {"transformations": items}, items, {"x": items}))
    text = rng.choice((json.dumps, json.dumps, repr))(whole)
    prose = rng.choice(("", "Because of L2 [1, 2] {x}, ", "```json\n", "rm -rf / ; import os\n", "I can't. "))
    text = prose + text + rng.choice(("", "\n```", " Done."))
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        text = mutated(rng, text)
    return text


def generated_value(rng: random.Random, decision: Decision) -> Any:
    if rng.random() < 0.6:
        domain = decision.domain
        return rng.choice(domain.values) if isinstance(domain, ChoiceDomain) else list(decision.value)[::-1]
    odd = (0, -1, 64.0, 1e300, math.nan, -math.inf, 10**30, None, True, "", "64", "[1, 2]", "x" * 300, [], [[]],
           {}, [1] * 100, [None], {"to": 3}, "\ud800", [2.5, 1, 1, 1], ["1"] * 4)  # fmt: skip
    return rng.choice(odd)


def mutated(rng: random.Random, text: str) -> str:
    at, to = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    junk = rng.choice(("{", "}", "[", "]", '"', "'", ",", ":", "\\", "//", "#", "/*", "NaN", "\0", "é", "9" * 50))
    return rng.choice((text[:to], text[at:], text[:at] + junk + text[at:], text[:at] + text[to:], text + text[at:to]))


def test_no_answer_escapes_and_every_rejection_has_a_reason() -> None:
    rng = random.Random(7)
    kinds: dict[str | None, int] = {}
    names = {d.name: d for d in TABLE}
    for _ in range(12_000):
        text = generated_answer(rng)
        answer = parse(text)
        assert answer.items, text
        for item in answer.items:
            kinds[item.kind] = kinds.get(item.kind, 0) + 1
            if item.kind is not None:
                assert item.transformation is None and item.kind in get_args(RejectionKind) and item.why, text
                continue
            assert item.transformation is not None and item.transformation.edits, text
            json.dumps(item.transformation.to_json(), allow_nan=False).encode()
            left_to_space = {"pad at"} if "conv2d" not in dict(item.transformation.edits) else set(names)
            for name, value in item.transformation.edits:
                hash(value)
                unknown = name not in names and "conv2d" in dict(item.transformation.edits)
                assert unknown or name in left_to_space or names[name].domain.why_not(value) is None, text
    # The generator must reach both sides, or this test shows nothing.
    assert kinds[None] > 500
    assert set(kinds) >= {"no_answer", "truncated", "wrong_shape", "unknown_decision", "wrong_type", "outside_domain"}


# -- primitives -----------------------------------------------------------------------------------------------------

_SPLIT = Primitive("split", ("conv2d.rc_1", (None, 4)))
_UNROLL_IT = Primitive("unroll", ("conv2d.rc_1_1",))


def primitives(then: Any, **beside: Any) -> tuple[Primitive, ...]:
    (item,) = parse(json.dumps({"transformations": [{"then": then, **beside}]})).items
    assert item.kind is None and item.transformation is not None, item
    return item.transformation.primitives


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([["split", "conv2d.rc_1", [None, 4]], ["unroll", "conv2d.rc_1_1"]], id="lists"),
        pytest.param(["split(conv2d.rc_1, [null, 4])", "unroll('conv2d.rc_1_1')"], id="calls"),
        pytest.param(["sch.split(loop='conv2d.rc_1', factors=[None, 4])", "unroll(conv2d.rc_1_1);"], id="keywords"),
        pytest.param([{"primitive": "split", "loop": "conv2d.rc_1", "factors": [None, 4]}, {"unroll": "conv2d.rc_1_1"}],
                     id="objects"),
        pytest.param([{"split": ["conv2d.rc_1", [None, "4"]]}, {"unroll": {"loop": "conv2d.rc_1_1"}}], id="one key"),
    ],
)  # fmt: skip
def test_primitives_are_read_in_any_form(then: Any) -> None:
    assert primitives(then) == (_SPLIT, _UNROLL_IT)
    assert primitives(then, edits={UNROLL: 16}) == (_SPLIT, _UNROLL_IT)
    assert primitives(then, **{UNROLL: 16}) == (_SPLIT, _UNROLL_IT)


def test_primitives_may_stand_alone_or_be_one() -> None:
    assert primitives(["unroll", "conv2d.rc_1_1"]) == (_UNROLL_IT,)
    assert primitives([["reorder", "conv2d.h_1", "conv2d.w_1"]])[0].arguments == (("conv2d.h_1", "conv2d.w_1"),)
    assert primitives([["cache_read", "conv2d", "pad"]])[0].arguments == ("conv2d", "pad", "global")


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ([["melt", "conv2d.h_1"]], "there is no primitive `melt`; there are split"),
        ([["split", "conv2d.h_1", [0, 4]]], "has a factor that is none"),
        ([["split", "conv2d.h_1"]], "`split` takes 2 arguments, not 1"),
        ([["unroll", 7]], "is 7, which is no name; it has to be a loop around a block"),
        ([17], "17 is no primitive; write one as a list"),
        ("unroll everything", "not a list of primitives"),
        ([["unroll", "conv2d.h_1"]] * 17, "at most 16 are taken"),
        (["__import__('os').system('x')"], "there is no primitive"),
    ],
)
def test_what_is_no_primitive_is_told(then: Any, words: str) -> None:
    kind, why = kind_and_why(json.dumps({"transformations": [{"edits": {UNROLL: 16}, "then": then}]}))
    assert kind == "wrong_primitive" and words in why, why

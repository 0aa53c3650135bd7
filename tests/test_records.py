from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal_examples import MACHINE, measurements, programs, transformations, values
from reasoning_compiler.core import phases as stages
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import (
    UNTUNED,
    ChoiceDomain,
    Program,
    TileDomain,
    Transformation,
    as_value,
    difference,
)
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.core.steps import Proposal, Step

CODE = """
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.rng import stream
program = Program((("C", "tiled"),), (("C.i tile", (4, 2)), ("unroll", 16), ("größe", "ü")))
print(program.key, stream(7, "expand", 12).integers(0, 2**62, 3).tolist())
"""


def through_json(obj: Any) -> Any:
    return json.loads(json.dumps(obj))


# -- JSON and identity ------------------------------------------------------------------------------------------


@given(programs)
def test_a_program_comes_back_from_json(program: Program) -> None:
    again = Program.from_json(through_json(program.to_json()))
    assert again == program
    assert hash(again) == hash(program)
    assert again.key == program.key


@given(transformations, st.sampled_from(["", "expert"]), st.sampled_from(["", "because"]))
def test_a_transformation_comes_back_from_json(t: Transformation, proposer: str, reasoning: str) -> None:
    t = Transformation(t.edits, t.expectation, proposer, reasoning)
    again = Transformation.from_json(through_json(t.to_json()))
    assert (again, again.proposer, again.reasoning) == (t, proposer, reasoning)


@given(measurements)
def test_a_measurement_comes_back_from_json(measurement: Measurement) -> None:
    assert Measurement.from_json(through_json(measurement.to_json())) == measurement


@given(values)
def test_a_value_comes_back_from_json(value: Any) -> None:
    again = as_value(through_json(list(value) if isinstance(value, tuple) else value))
    assert again == value and type(again) is type(value)


def test_a_machine_comes_back_from_json() -> None:
    assert Machine.from_json(through_json(MACHINE.to_json())) == MACHINE


@given(programs, programs)
def test_programs_are_equal_where_their_keys_are(a: Program, b: Program) -> None:
    assert (a == b) == (a.key == b.key)


def test_a_key_is_sixteen_digits_and_knows_the_order_of_decisions() -> None:
    one = Program((), (("a", 1), ("b", 2)))
    other = Program((), (("b", 2), ("a", 1)))
    assert one.key != other.key != UNTUNED.key
    assert len(one.key) == 16 and int(one.key, 16)
    assert Program((("a", "1"),)).key != Program((), (("a", "1"),)).key


def test_keys_and_streams_are_the_same_in_every_process() -> None:
    src = str(Path(__file__).parent.parent / "src")

    def run(hash_seed: str) -> str:
        env = dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=src)
        return subprocess.run([sys.executable, "-c", CODE], env=env, check=True, capture_output=True, text=True).stdout

    first = run("1")
    assert first == run("2") != ""
    program = Program((("C", "tiled"),), (("C.i tile", (4, 2)), ("unroll", 16), ("größe", "ü")))
    assert first.split()[0] == program.key == "88237200fb5114d1"


def test_records_are_immutable() -> None:
    for record, name in ((UNTUNED, "decisions"), (MACHINE, "name"), (Failure("crash"), "kind")):
        with pytest.raises(AttributeError):
            setattr(record, name, None)


def test_the_untuned_program_has_nothing() -> None:
    assert UNTUNED.is_untuned
    assert not Program((("C", "tiled"),)).is_untuned
    assert not Program((), (("unroll", 0),)).is_untuned


def test_what_changed_between_two_programs() -> None:
    parent = Program((("C", "plain"),), (("i tile", (4, 2)), ("unroll", 0), ("C at", 1)))
    child = Program((("C", "packed"),), (("i tile", (2, 4)), ("unroll", 0), ("pack at", 2)))
    assert difference(parent, child) == (
        ("C", "plain", "packed"),
        ("i tile", (4, 2), (2, 4)),
        ("C at", 1, None),
        ("pack at", None, 2),
    )
    assert difference(child, child) == ()


def test_who_proposed_is_no_part_of_a_transformation() -> None:
    assert Transformation((("a", 1),), "x", "expert", "why") == Transformation((("a", 1),), "x")
    step = Step(1, 0, UNTUNED, Transformation(()), "expert")
    assert step == Step(1, 0, UNTUNED, Transformation(()), "expert", measurement=Measurement((1.0,)))
    assert Proposal("expert", "", ()) != Proposal("random", "", ())


# -- domains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ((4, 2, 8), None),
        ([4, 2, 8], None),
        ((64, 1, 1), None),
        ((2, 2, 16), None),
        ((1, 2, 32), "has an innermost factor above 16"),
        ((4, 4, 8), "has the product 128 instead of 64"),
        ((8, 8), "has 2 factors instead of 3"),
        ((-1, -64, 1), "has a factor below 1"),
        ((64, 0, 1), "has a factor below 1"),
        (64, "is not a list of 3 integers"),
        ("4,2,8", "is not a list of 3 integers"),
        ((4.0, 2, 8), "is not a list of 3 integers"),
        ((True, 8, 8), "is not a list of 3 integers"),
        (None, "is not a list of 3 integers"),
    ],
)
def test_what_a_tile_may_be(value: Any, why: str | None) -> None:
    assert TileDomain(64, 3, max_innermost=16).why_not(value) == why


def test_inner_factors_may_have_to_be_multiples() -> None:
    domain = TileDomain(64, 3, inner_multiple=16, inner_from=1)
    assert domain.why_not((4, 4, 4)) is None
    assert domain.why_not((8, 1, 8)) == "has inner factors that are no multiple of 16"
    assert str(domain) == "3 factors, product 64, product of the last 2 a multiple of 16"


def test_a_single_factor_is_the_extent_whatever_the_limit() -> None:
    assert TileDomain(100, 1, max_innermost=64).why_not((100,)) is None
    assert str(TileDomain(100, 1, max_innermost=64)) == "1 factors, product 100"
    assert str(TileDomain(64, 3, max_innermost=16)) == "3 factors, product 64, innermost ≤ 16"


@pytest.mark.parametrize("value", [16, "tiled"])
def test_what_a_choice_may_be(value: Any) -> None:
    assert ChoiceDomain((0, 16, "tiled")).why_not(value) is None


@pytest.mark.parametrize("value", [1, "16", 16.0, True, False, None, (16,), [16], math.nan, {}])
def test_what_a_choice_may_not_be(value: Any) -> None:
    assert ChoiceDomain((0, 1 if value is False else 16, "tiled")).why_not(value) is not None
    assert ChoiceDomain((0, 16)).why_not(5) == "is not one of 0, 16"


def test_choices_have_labels() -> None:
    domain = ChoiceDomain((-1, 2), ("at the root", "in loop j"))
    assert domain.label(2) == "in loop j"
    assert str(domain) == "one of -1 (at the root), 2 (in loop j)"
    assert ChoiceDomain((0, 16)).label(16) == "16"
    assert str(ChoiceDomain((0, 16))) == "one of 0, 16"


# -- measurements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"latencies_secs": (1.0,), "failure": Failure("crash")},
        {"latencies_secs": (1.0, 0.0)},
        {"latencies_secs": (-1.0,)},
        {"latencies_secs": (math.nan,)},
        {"latencies_secs": (math.inf,)},
        {"failure": Failure("crash"), "verified": True},
        {"failure": Failure("crash"), "cut": True},
    ],
)
def test_a_measurement_is_latencies_or_a_failure(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Measurement(**fields)


def test_a_failure_has_no_latency_and_a_known_kind() -> None:
    failed = Measurement(failure=Failure("timeout", "ran longer than 10 s"))
    assert not failed.ok and not failed.counts
    with pytest.raises(ValueError, match="no latency: timeout: ran longer than 10 s"):
        _ = failed.latency_secs
    with pytest.raises(ValueError, match="`kind` is 'slow'; allowed: illegal, build"):
        Failure("slow")  # type: ignore[arg-type]


def test_the_latency_is_the_median() -> None:
    assert Measurement((3.0, 1.0, 9.0)).latency_secs == 3.0
    assert Measurement((1.0, 2.0)).latency_secs == 1.5


def test_only_what_is_whole_and_verified_counts() -> None:
    assert Measurement((1.0,), verified=True).counts
    assert not Measurement((1.0,)).counts
    bound = Measurement((1.0,), cut=True, censored=True)
    assert bound.ok and not bound.is_full and not bound.counts and Measurement.from_json(bound.to_json()) == bound
    for wrong in ({"cut": False}, {"verified": True}, {"latencies_secs": (1.0, 2.0)}):
        with pytest.raises(ValueError, match="the bound"):
            replace(bound, **wrong)
    assert not Measurement((1.0,), verified=True, cut=True).counts


# -- random streams, stages, ranks --------------------------------------------------------------------------------


def test_streams_differ_by_seed_and_name() -> None:
    names: list[tuple[Any, ...]] = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 1), (1, "a", 2), (1,), (-1, "a"), (11, "a")]
    drawn = [stream(*name).integers(0, 2**62) for name in names]  # type: ignore[arg-type]
    assert len(set(drawn)) == len(names)
    assert drawn == [stream(*name).integers(0, 2**62) for name in names]  # type: ignore[arg-type]


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    return clock


def test_each_second_counts_once(clock: Clock) -> None:
    watch = PhaseTimer()
    clock.now += 5  # nobody's
    with watch.stage("search"):
        clock.now += 1
        with watch.stage("predict"):
            clock.now += 2
            with watch.stage("search"):
                clock.now += 4
        clock.now += 8
    assert watch.take() == {"search": 13.0, "predict": 2.0}
    assert watch.take() == {}


def test_what_is_taken_is_not_taken_again(clock: Clock) -> None:
    watch = PhaseTimer()
    with watch.stage("run"):
        clock.now += 1
        assert watch.take() == {"run": 1.0}
        clock.now += 2
    assert watch.take() == {"run": 2.0}


def test_a_stage_ends_with_an_exception(clock: Clock) -> None:
    watch = PhaseTimer()

    def fail(secs: float) -> None:
        clock.now += secs
        raise KeyError

    with watch.stage("outer"):
        with pytest.raises(KeyError):
            watch.stage("inner")(fail)(3)
        clock.now += 1
    assert watch.take() == {"inner": 3.0, "outer": 1.0}
    assert watch.stage("inner")(max)(2, 7) == 7


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_tau_is_kendalls(pairs: list[tuple[int, int]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    concordant = discordant = ties_a = ties_b = 0
    for i in range(len(pairs)):
        for j in range(i):
            da, db = a[i] - a[j], b[i] - b[j]
            concordant += da * db > 0
            discordant += da * db < 0
            ties_a += da == 0
            ties_b += db == 0
    all_pairs = len(pairs) * (len(pairs) - 1) // 2
    ordered = math.sqrt((all_pairs - ties_a) * (all_pairs - ties_b))
    tau = kendall_tau(a, b)
    assert tau is None if not ordered else tau == pytest.approx((concordant - discordant) / ordered)


def test_tau_takes_infinities_and_refuses_unequal_lengths() -> None:
    assert kendall_tau([1, 2, math.inf], [1, math.inf, math.inf]) == pytest.approx(2 / math.sqrt(6))
    with pytest.raises(ValueError, match="`a` has 1 members and `b` 2"):
        kendall_tau([1], [1, 2])

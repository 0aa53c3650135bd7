from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.steps import Known, Proposal
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.surrogate.surrogate import Description, Surrogate
from toy_space import (
    Blind,
    Noisy,
    Script,
    Tape,
    ToySpace,
    chance_search,
    each,
    edit,
    latency_secs,
    measure,
    program,
    unit,
)


def ok(secs: float, **changes: bool) -> Measurement:
    return Measurement(latencies_secs=(secs,), **({"verified": True} | changes))


FAILED = Measurement(failure=Failure("crash"))

# -- what is asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_asked_for_twice(seed: int) -> None:
    search = chance_search(seed)
    asked: list[Program] = []
    for num in (1, 4, 3, 8, 2) * 4:
        batch = search.ask(num)
        assert len(batch) == num
        asked += [step.program for step in batch]
        search.tell([(step.node, measure(step)) for step in batch])
    assert len(set(asked)) == len(asked)
    assert UNTUNED not in asked
    assert search.num_samples == len(asked)
    programs = [node.step.program for node in search.tree.nodes]
    assert len(set(programs)) == len(programs)


def test_as_many_programs_are_proposed_as_the_samples_need() -> None:
    search = chance_search(config=SearchConfig(nodes_per_sample=3))
    for _ in range(5):
        search.tell([(step.node, measure(step)) for step in search.ask(2)])
        assert 0 <= len(search.tree) - 1 - 3 * search.num_samples < 8, "but for the children of one node at most"
    assert search.num_waiting == len(search.tree) - 1 - search.num_samples


def test_no_more_is_proposed_than_is_wanted() -> None:
    wide = SearchConfig(root_branching=1000, nodes_per_sample=3)
    search = chance_search(illegal_share=0.0, config=wide)
    search.ask(2)
    assert len(search.tree) - 1 == 6
    search = chance_search(illegal_share=0.0, config=SearchConfig(root_branching=1000, nodes_per_sample=1, branching=4))
    search.ask(1)
    assert len(search.tree) - 1 == 4, "but as many as a node may have are asked for at once, where a call has its price"


def test_the_most_promising_come_first_and_fillers_last() -> None:
    space = ToySpace()
    proposal = Proposal(
        "llm",
        "",
        (edit(unroll=16), edit(unroll=64), replace(edit(C="packed"), proposer="expert"), edit(C_at=0), edit(C_at=2)),
    )
    predicted = {"unroll": 3e-3, "C": 1e-3, "C at": None}

    class Told(Blind):
        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            names = [next(n for n, v in p.values.items() if v != space.start.values[n]) for p in programs]
            return [predicted[name] for name in names]

    search = TreeSearch(space, Script(), Told(), fillers=("expert",), config=SearchConfig(explore_share=0.0))
    expansion = search.next_expansion()
    assert expansion is not None
    search.expand(expansion, proposal)
    assert [step.node for step in search.pick(5)] == [1, 2, 4, 5, 3]
    assert search.pick(5) == []


def test_a_share_of_the_picks_is_blind() -> None:
    def picks(share: float) -> list[int]:
        search = chance_search(1, config=SearchConfig(explore_share=share, root_branching=32, nodes_per_sample=4))
        return [step.node for step in search.ask(8)]

    assert picks(0.0) != picks(1.0)
    ranked = chance_search(1, config=SearchConfig(explore_share=0.0, root_branching=32, nodes_per_sample=4)).ask(8)
    secs = [step.predicted_secs if step.predicted_secs is not None else math.inf for step in ranked]
    assert secs == sorted(secs)


def test_a_small_space_runs_out() -> None:
    class Tiny(ToySpace):
        def table(self, program: Program) -> Any:
            return tuple(d for d in super().table(program) if d.name == "unroll")

        def sample(self, seed: int) -> Program:
            return self.edit(UNTUNED, edit(unroll=(0, 16, 64)[seed % 3]))

    space = Tiny()
    search = TreeSearch(space, RandomProposer(space), Noisy(), config=SearchConfig(nodes_per_sample=1))
    asked = [step.program for _ in range(9) for step in search.ask(2)]
    assert sorted(p.values["unroll"] for p in asked) == [0, 16, 64]
    assert search.ask(4) == []
    assert search.next_expansion() is None


# -- what is refused ----------------------------------------------------------------------------------------------


def scripted(
    answers: dict[int, list[Transformation]], **options: Any
) -> tuple[TreeSearch, list[tuple[int, str, Transformation | None, str]]]:
    refused: list[tuple[int, str, Transformation | None, str]] = []
    search = TreeSearch(
        ToySpace(), Script(answers), Noisy(), on_expanded=each(id, lambda *event: refused.append(event)), **options
    )
    return search, refused


def test_what_is_illegal_or_known_is_refused_counted_and_told() -> None:
    told = [edit(unroll=16), edit(unroll=5), edit(nonsense=1), edit(unroll=16), edit(unroll=64)]
    search, refused = scripted({0: told}, config=SearchConfig(root_branching=4))
    expansion = search.next_expansion()
    assert expansion is not None and expansion.num == 4
    added = search.expand(expansion, Proposal("llm", "why", tuple(told)))
    assert [step.transformation for step in added] == [told[0], told[4]]
    assert [step.proposer for step in added] == ["llm", "llm"]
    assert [(node, who, t) for node, who, t, _ in refused] == [(0, "llm", told[i]) for i in (1, 2, 3)]
    assert "`unroll` = 5 is not one of 0, 16, 64" in refused[0][3]
    assert refused[2][3] == "the same program as node 1"
    assert search.tree.nodes[0].rejections == 3
    again = search.next_expansion()
    assert again is not None and again.num == 2
    assert [r.transformation for r in again.context.rejected] == [told[i] for i in (1, 2, 3)]
    assert again.context.children == tuple(added)


def test_no_more_children_are_taken_than_were_asked_for() -> None:
    told = [edit(unroll=u) for u in (0, 16, 64)]
    search, refused = scripted({0: told})
    expansion = search.next_expansion(max_num=2)
    assert expansion is not None and expansion.num == 2
    assert len(search.expand(expansion, Proposal("llm", "", tuple(told)))) == 2
    assert refused == []


@pytest.mark.parametrize("answer", [[], [edit(unroll=5)], [edit(unroll=16)]])
def test_a_useless_proposal_falls_back(answer: list[Transformation]) -> None:
    fallback = Script({0: [edit(C="packed")]}, name="expert")
    search, refused = scripted({}, fallback=fallback)
    first = search.next_expansion()
    assert first is not None
    search.expand(first, Proposal("llm", "", (edit(unroll=16),)))
    second = search.next_expansion()
    assert second is not None
    (step,) = search.expand(second, Proposal("llm", "", tuple(answer)))
    assert (step.proposer, step.program) == ("expert", program(C="packed"))
    assert [(who, t) for _, who, t, _ in refused] == [("llm", answer[0] if answer else None)]


def test_without_anything_legal_a_decision_is_drawn() -> None:
    search, refused = scripted({}, fallback=Script(name="expert"), config=SearchConfig(nodes_per_sample=1))
    batch = search.ask(3)
    assert [step.proposer for step in batch] == ["random"] * 3
    assert all(step.reasoning for step in batch)
    assert [who for _, who, _, _ in refused[:2]] == ["script", "expert"]
    assert all(why == "nothing was proposed" for _, _, t, why in refused if t is None)


def test_fallback_and_proposer_draw_from_different_streams() -> None:
    drawn: list[float] = []

    class Drawing(Script):
        def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
            drawn.append(rng.random())
            return super().propose(context, num, rng)

    search = TreeSearch(ToySpace(), Drawing(), Noisy(), fallback=Drawing())
    search.ask(1)
    assert len(set(drawn)) == len(drawn) >= 2


def test_a_node_that_refuses_twelve_times_is_given_up() -> None:
    search, refused = scripted({0: [edit(unroll=5)] * 30}, config=SearchConfig(nodes_per_sample=1))
    assert search.ask(1) == []
    assert len(refused) == 12
    assert search.next_expansion() is None


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
@settings(max_examples=20, deadline=None)
def test_every_proposal_is_either_a_node_or_refused(seed: int, illegal_share: float) -> None:
    proposed, nodes, refused = [0], [], []

    class Counting(RandomProposer):
        def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
            proposal = super().propose(context, num, rng)
            proposed[0] += len(proposal.transformations)
            return proposal

    space = ToySpace(illegal_share)
    search = TreeSearch(
        space,
        Counting(space),
        Noisy(),
        seed=seed,
        on_expanded=each(nodes.append, lambda *event: refused.append(event)),
    )
    for _ in range(3):
        search.tell([(step.node, measure(step)) for step in search.ask(4)])
    chance = [e for e in refused if e[2] is not None]
    assert len(nodes) == len(search.tree) - 1
    assert sum(node.rejections for node in search.tree.nodes) == len(refused)
    assert len(nodes) + len(chance) >= proposed[0] - sum(node.full for node in search.tree.nodes) * 8
    assert all(0 <= len(n.children) <= (8 if i == 0 else 2) for i, n in enumerate(search.tree.nodes))
    assert all(n.pending == n.unobserved == 0 for n in search.tree.nodes)


# -- what was measured --------------------------------------------------------------------------------------------


def three_children(**config: Any) -> TreeSearch:
    """Returns a search whose root has three children that have been asked for; all are predicted at 2 ms."""

    class Flat(Blind):
        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            return [2e-3] * len(programs)

    told = [edit(unroll=u) for u in (0, 16, 64)]
    options = {"root_branching": 3, "nodes_per_sample": 1, "explore_share": 0.0} | config
    search = TreeSearch(ToySpace(), Script({0: told}), Flat(), config=SearchConfig(**options))
    assert [step.node for step in search.ask(3)] == [1, 2, 3]
    return search


def test_the_best_is_the_fastest_that_counts() -> None:
    search = three_children()
    assert search.best is None
    assert search.best_speed == 1 / 2e-3, "predictions set the scale until something is measured"
    search.tell([(1, ok(1e-3, cut=True)), (2, ok(1e-3, verified=False)), (3, FAILED)])
    assert search.best is None
    assert search.best_speed == 1 / 1e-3
    search.tell([(0, ok(1e-9))])
    assert search.best is None, "the untuned program is what the others are compared with"
    search = three_children()
    search.tell([(1, ok(3e-3)), (2, ok(1e-3)), (3, ok(1e-3))])
    assert search.best is not None and search.best.node == 2, "the first of equals"
    assert search.best.measurement == ok(1e-3)
    assert search.best_speed == 1 / 1e-3


def test_measurements_replace_predictions_up_to_the_root() -> None:
    search = three_children()
    assert search.tree.nodes[0].mean == 500
    search.tell([(1, ok(1e-3)), (2, ok(4e-3)), (3, FAILED)])
    assert [node.value for node in search.tree.nodes] == [0, 1000, 250, 0]
    assert search.tree.nodes[0].mean == pytest.approx(1250 / 3)


def test_without_feedback_only_failures_change_the_tree() -> None:
    search = three_children(measured_feedback=False)
    search.tell([(1, ok(1e-3)), (2, ok(4e-3)), (3, FAILED)])
    assert [node.value for node in search.tree.nodes] == [0, 500, 500, 0]
    assert search.best is not None and search.best.node == 1


def test_nothing_grows_from_a_failure() -> None:
    search = three_children(exploration=1e6)
    search.tell([(1, FAILED), (2, ok(1e-3)), (3, FAILED)])
    for _ in range(4):
        search.tell([(step.node, ok(1e-3)) for step in search.ask(2)])
    assert not search.tree.nodes[1].children and not search.tree.nodes[3].children
    assert search.tree.nodes[2].children


def test_a_proposal_for_a_program_that_has_failed_meanwhile_is_dropped() -> None:
    search = three_children()
    expansion = search.next_expansion()
    assert expansion is not None
    search.tell([(expansion.node, FAILED)])
    assert search.expand(expansion, Proposal("llm", "", (edit(C="packed"),))) == []
    assert len(search.tree) == 4
    assert search.tree.nodes[0].unobserved == 0


def test_whole_programs_are_still_proposed_when_the_untuned_one_fails() -> None:
    search = chance_search()
    search.tell([(0, FAILED)])
    assert len(search.ask(4)) == 4


def test_nothing_is_told_twice() -> None:
    search = three_children()
    search.tell([(1, ok(1e-3))])
    with pytest.raises(ValueError, match="node 1 has a measurement already"):
        search.tell([(1, ok(2e-3))])


def test_what_was_told_without_being_asked_for_is_not_asked_for() -> None:
    told = [edit(unroll=u) for u in (0, 16, 64)]
    search = TreeSearch(ToySpace(), Script({0: told}), Noisy(), config=SearchConfig(root_branching=3))
    expansion = search.next_expansion()
    assert expansion is not None
    search.expand(expansion, Proposal("llm", "", tuple(told)))
    search.tell([(2, ok(1e-3))])
    assert {step.node for step in search.pick(9)} == {1, 3}


def test_predictions_follow_what_is_learnt() -> None:
    class Counting(Noisy):
        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            super().predict(programs, anchors)
            return [1e-3 * (1 + len(self.known)) for _ in programs]

    search = chance_search(predictor=Counting, config=SearchConfig(explore_share=0.0))
    batch = search.ask(2)
    search.tell([(step.node, ok(5e-3)) for step in batch])
    waiting = [n for n in search.tree.nodes[1:] if n.step.measurement is None]
    assert waiting
    assert all(n.step.predicted_secs == 3e-3 and n.value == 1 / 3e-3 for n in waiting)
    assert all(search.tree.nodes[s.node].step.predicted_secs == 1e-3 for s in batch)


def test_anchors_are_the_nearest_measured_ancestors() -> None:
    anchors: dict[Program, Any] = {}

    class Noting(Blind):
        def predict(self, programs: Any, near: Any) -> list[float | None]:
            anchors.update(zip(programs, near, strict=True))
            return [None] * len(programs)

    answers = {0: [edit(unroll=16), edit(unroll=64), edit(unroll=0)], 1: [edit(C="packed")], 4: [edit(C_at=0)]}
    search = TreeSearch(ToySpace(), Script(answers), Noting(), config=SearchConfig(root_branching=3, branching=1))
    for node in (0, 1, 4):
        expansion = search.next_expansion()
        while expansion is not None and expansion.node != node:
            expansion = search.next_expansion()
        assert expansion is not None
        search.expand(expansion, Proposal("script", "", tuple(answers[node])))
    assert set(anchors.values()) == {None}
    search.tell([(0, ok(9e-3)), (1, ok(1e-3)), (2, FAILED)])
    assert anchors[program(unroll=16, C="packed", C_at=0)] == Known(program(unroll=16), 1e-3)
    assert anchors[program(unroll=0)] is None, "the untuned program is no anchor"
    assert search._predictor.known == [Known(program(unroll=16), 1e-3)]  # type: ignore[attr-defined]
    assert search.tree.nodes[5].value == 1000, "what is not predicted stands for what it comes from"


@pytest.mark.parametrize(("predicted", "speed"), [(0.4, 1 / 0.4), (2e-3, 10), (None, 10)])
def test_a_bound_is_the_most_that_a_program_is_worth(predicted: float | None, speed: float) -> None:
    class Told(Blind):
        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            return [predicted] * len(programs)

    search = TreeSearch(ToySpace(), Script({0: [edit(unroll=16), edit(unroll=64)]}), told := Told())
    search.ask(2)
    search.tell([(0, ok(9e-3)), (1, ok(1e-3)), (2, ok(0.1, cut=True, verified=False, censored=True))])
    assert search.tree.nodes[2].value == pytest.approx(speed)
    assert told.known[-1] == Known(program(unroll=64), 0.1, is_bound=True)
    assert search.best.node == 1


def test_what_is_not_predicted_follows_the_predictions_above_it() -> None:
    class Told(Blind):
        secs = 1e-3

        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            return [self.secs if p.values["C"] == "plain" else None for p in programs]

    predictor = Told()
    search = TreeSearch(ToySpace(), Script(), predictor, fillers=("expert",), config=SearchConfig(root_branching=1))
    for who, change in (("expert", edit(unroll=16)), ("llm", edit(C="packed"))):
        expansion = search.next_expansion()
        assert expansion is not None
        search.expand(expansion, Proposal(who, "", (change,)))
    assert [node.value for node in search.tree.nodes] == [0, 1000, 1000]
    predictor.secs = 1e-4
    search.tell([])
    assert [node.value for node in search.tree.nodes] == [0, 10_000, 10_000], "and is refreshed after them"


def test_what_the_proposer_is_shown() -> None:
    script = Script({0: [edit(unroll=16), edit(unroll=64)], 1: [edit(C="packed"), edit(C_at=2)]})
    config = SearchConfig(root_branching=2, nodes_per_sample=1, explore_share=0.0)
    search = TreeSearch(ToySpace(), script, Blind(), max_samples=7, config=config)
    first = search.ask(2)
    search.tell([(first[0].node, ok(1e-3)), (first[1].node, FAILED)])
    search.tell([(0, ok(5e-3))])
    search.ask(2)
    start, then = script.asked[0], script.asked[1]
    assert (start.node.program, start.best, start.measured, start.max_samples) == (UNTUNED, None, (), 7)
    assert start.table == ToySpace().table(UNTUNED)
    assert [step.node for step in then.lineage] == [1, 0]
    assert [(s.node, s.measurement) for s in then.measured] == [(1, ok(1e-3)), (2, FAILED), (0, ok(5e-3))]
    assert then.best is not None and then.best.node == 1
    assert then.num_samples == 2
    assert dict((d.name, d.value) for d in then.table)["unroll"] == 16


# -- how it searches ----------------------------------------------------------------------------------------------


def depths(search: TreeSearch) -> list[int]:
    return [sum(1 for _ in search.tree.path(number)) - 1 for number in range(len(search.tree))]


def test_curiosity_goes_wide_and_greed_goes_deep() -> None:
    def deepest(exploration: float) -> int:
        search = chance_search(3, illegal_share=0.0, config=SearchConfig(exploration=exploration, explore_share=0.0))
        for _ in range(12):
            search.tell([(step.node, ok(latency_secs(step.program))) for step in search.ask(2)])
        return max(depths(search))

    assert deepest(0.0) > 2 * deepest(100.0)


def test_rollouts_predict_what_the_program_may_become() -> None:
    asked: list[Program] = []

    class Noting(Blind):
        def predict(self, programs: Any, anchors: Any) -> list[float | None]:
            asked.extend(programs)
            return [latency_secs(p) for p in programs]

    search = chance_search(predictor=Noting, config=SearchConfig(rollout_depth=3, explore_share=0.0))
    batch = search.ask(4)
    nodes = [node.step for node in search.tree.nodes[1:]]
    assert [step.predicted_secs for step in nodes] == [latency_secs(p) for p in asked]
    assert sum(step.program != p for step, p in zip(nodes, asked, strict=True)) > len(nodes) / 2
    before = [step.predicted_secs for step in nodes]
    search.tell([(step.node, measure(step)) for step in batch])
    assert [node.step.predicted_secs for node in search.tree.nodes[1:]] == before, "rolled out once, not refreshed"


@pytest.mark.parametrize(
    "config",
    [
        {"branching": 1},
        {"branching": 1, "root_branching": 1},
        {"nodes_per_sample": 1},
        {"nodes_per_sample": 1, "root_branching": 1, "branching": 1, "explore_share": 1.0},
        {"exploration": 0.0},
        {"exploration": 1e9},
        {"root_branching": 64, "nodes_per_sample": 64},
        {"rollout_depth": 2, "measured_feedback": False},
    ],
)
def test_every_setting_in_range_works(config: dict[str, Any]) -> None:
    search = chance_search(5, config=SearchConfig(**config))
    for _ in range(4):
        batch = search.ask(3)
        assert 0 < len(batch) <= 3
        search.tell([(step.node, measure(step, failing_share=0.0)) for step in batch])


@pytest.mark.parametrize(
    "config",
    [
        {"branching": 0},
        {"root_branching": 0},
        {"nodes_per_sample": 0},
        {"nodes_per_sample": 1.5},
        {"branching": True},
        {"rollout_depth": -1},
        {"exploration": -0.1},
        {"exploration": math.nan},
        {"exploration": math.inf},
        {"explore_share": 1.1},
        {"explore_share": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(config: dict[str, Any]) -> None:
    (name,) = config
    with pytest.raises(UsageError, match=f"`{name}` is "):
        SearchConfig(**config)


def test_expansions_under_way_at_once_do_not_meet() -> None:
    search = chance_search(2, illegal_share=0.0)
    search.ask(2)
    expansions = [search.next_expansion(max_num=1) for _ in range(10)]
    taken = [e for e in expansions if e is not None]
    assert len(taken) == 10
    assert len({(e.node, e.draw) for e in taken}) == 10, "each has random draws of its own"
    lines = {next(n for n in reversed(lineage) if n) for e in taken if (lineage := [s.node for s in e.context.lineage])}
    assert len(lines) > 3, "they look in several places"
    space = ToySpace()
    for expansion in reversed(taken):
        proposal = RandomProposer(space).propose(expansion.context, expansion.num, search.draws(expansion))
        assert len(search.expand(expansion, proposal)) <= 1
    assert all(n.pending == n.unobserved == 0 for n in search.tree.nodes)


def test_an_expansion_without_a_proposal_is_forgotten() -> None:
    search = chance_search(2)
    before = state(search)
    expansion = search.next_expansion()
    assert expansion is not None and state(search) != before
    search.forget(expansion)
    assert state(search) == before
    again = search.next_expansion()
    assert again == expansion


def test_settled_expansions_are_of_measured_programs_of_which_nothing_is_under_way() -> None:
    search = three_children()
    assert search.next_expansion(settled=True) is None, "nothing is measured, and the root is full"
    search.tell([(1, ok(9e-3)), (2, ok(1e-3)), (3, FAILED)])
    first, second = (search.next_expansion(max_num=1, settled=True) for _ in range(2))
    assert first is not None and second is not None and {first.node, second.node} == {1, 2}
    assert search.next_expansion(settled=True) is None
    other = search.next_expansion()
    assert other is not None, "one that is not settled has room for another child"
    search.forget(other)
    search.expand(first, Proposal("llm", "", (edit(C="packed"),)))
    third = search.next_expansion(settled=True)
    assert third is not None and third.node == first.node, "its child is not measured yet"


def test_a_search_is_repeated_with_predictions_of_its_own() -> None:
    tape = Tape(lambda **options: chance_search(6, illegal_share=0.4, **options))
    search = tape.start()
    for _ in range(4):
        tape.round(search, 3)
    told: list[Any] = []
    again = chance_search(
        99,
        illegal_share=0.4,
        predictor=Blind,
        on_expanded=each(
            lambda step: told.append(("node", step)),
            lambda node, who, t, why: told.append(("rejected", (node, t, why))),
        ),
    )
    for kind, event in tape.events:
        if kind == "node":
            again.repeat(event)
        elif kind == "rejected":
            again.repeat_refusal(event[0], "random", *event[1:])
        elif kind == "asked":
            assert [step.node for step in again.pick_these(event)] == event
        else:
            again.tell(event)
    assert [(n.step.parent, n.step.program, n.step.measurement) for n in again.tree.nodes] == [
        (n.step.parent, n.step.program, n.step.measurement) for n in search.tree.nodes
    ]
    assert [(k, e.node if k == "node" else e) for k, e in told] == [
        (k, e.node if k == "node" else e) for k, e in tape.events if k in ("node", "rejected")
    ]
    assert {node.step.predicted_secs for node in again.tree.nodes} == {None}
    assert again.best is not None and search.best is not None and again.best.node == search.best.node
    assert again.num_waiting == search.num_waiting


# -- the same again -----------------------------------------------------------------------------------------------

SCRIPT = """
from toy_space import Tape, chance_search
tape = Tape(lambda **options: chance_search(11, **options))
search = tape.start()
for _ in range(8):
    tape.round(search, 3)
print([(kind, e.program.key if kind == "node" else e[2] if kind == "rejected" else e) for kind, e in tape.events])
"""


def test_same_seed_same_sequence_in_every_process() -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "src")])

    def run(hash_seed: str) -> str:
        env = dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=path)
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    first = run("1")
    assert first == run("2")
    assert first.count("'asked'") == 8


def test_another_seed_searches_elsewhere() -> None:
    assert [s.program for s in chance_search(1).ask(8)] != [s.program for s in chance_search(2).ask(8)]


def learning(seed: int, **options: Any) -> TreeSearch:
    """Returns a search with the real surrogate, whose prior is wrong by a hash."""

    def describe(p: Program) -> Description:
        row = np.array([unit("feature", n, v) for n, v in p.values.items()] + [unit("rugged", p.key)], np.float32)
        return Description(latency_secs(p) * (0.3 + unit("prior", p.key)), row)

    return chance_search(seed, predictor=lambda: Surrogate(describe, seed=seed), **options)


def state(search: TreeSearch) -> list[Any]:
    """Returns everything that decides what a search does next."""
    nodes = [
        (
            node.step,
            node.step.measurement,
            node.visits,
            node.total,
            node.value,
            node.children,
            node.rejections,
            node.pending,
            node.unobserved,
            node.full,
        )
        for node in search.tree.nodes
    ]
    trust = search._predictor.trust if isinstance(search._predictor, Surrogate) else None  # type: ignore[attr-defined]
    return [nodes, search.best, search.best_speed, search.num_samples, search.num_waiting, search._rejected, trust]


def follow(search: TreeSearch, rounds: int = 4, num: int = 3) -> list[Any]:
    """Returns what a search does next, and where it ends."""
    asked = []
    for _ in range(rounds):
        batch = search.ask(num)
        asked.append([(step.node, step.parent, step.program, step.predicted_secs) for step in batch])
        search.tell([(step.node, measure(step)) for step in batch])
    return [asked, state(search)]


PACKED = Script({number: [edit(C="packed")] for number in range(99)}, name="expert")
VARIANTS: dict[str, Callable[..., TreeSearch]] = {
    "plain": lambda **o: chance_search(4, **o),
    "surrogate": lambda **o: learning(4, **o),
    "silent": lambda **o: chance_search(4, predictor=Blind, **o),
    "rollouts": lambda **o: chance_search(4, config=SearchConfig(rollout_depth=2), **o),
    "no feedback": lambda **o: chance_search(4, config=SearchConfig(measured_feedback=False), **o),
    "much illegal": lambda **o: chance_search(4, illegal_share=0.6, **o),
    "fallback": lambda **o: chance_search(4, illegal_share=0.6, fallback=PACKED, **o),
}


@pytest.mark.parametrize("nodes_first", [False, True])
@pytest.mark.parametrize("rounds", [0, 1, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replayed_search_goes_on_as_the_uninterrupted_one(variant: str, rounds: int, nodes_first: bool) -> None:
    tape = Tape(VARIANTS[variant])
    search = tape.start()
    for _ in range(rounds):
        tape.round(search, 3)
    again = tape.replayed_nodes_first() if nodes_first else tape.replayed()
    assert state(again) == state(search)
    assert follow(again) == follow(search)


def test_the_real_surrogate_learns_in_these_replays() -> None:
    search = VARIANTS["surrogate"]()
    follow(search, rounds=11)
    assert search._predictor.trust.learned is not None  # type: ignore[attr-defined]


def test_a_replay_in_the_middle_of_a_batch() -> None:
    tape = Tape(VARIANTS["surrogate"])
    search = tape.start()
    for _ in range(5):
        tape.round(search, 3)
    kind, results = tape.events.pop()
    assert kind == "measured"
    again = tape.replayed()
    again.tell(results)
    assert follow(again) == follow(search)


class Cut(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("variant", ["surrogate", "much illegal", "fallback", "rollouts"])
def test_a_replay_in_the_middle_of_an_ask(variant: str) -> None:
    """Cut off at any edit of the fifth ask, the rest of the run is the same as without."""
    tape = Tape(VARIANTS[variant])
    whole = tape.start()
    for _ in range(4):
        tape.round(whole, 3)
    expected = [follow(whole)]
    for at in cuts():
        tape = Tape(VARIANTS[variant])
        search = tape.start()
        for _ in range(4):
            tape.round(search, 3)
        search._space.edit = cut_off(search._space.edit, at)  # type: ignore[method-assign]
        try:
            search.ask(3)
        except Cut:
            assert [follow(tape.replayed())] == expected
            assert [follow(tape.replayed_nodes_first())] == expected
        else:
            assert at > 8, "an ask for three programs makes twelve nodes"
            break


def cuts() -> Iterator[int]:
    yield from range(0, 200, 3)


def cut_off(edit_: Callable[..., Program], at: int) -> Callable[..., Program]:
    calls = iter(range(at))

    def edited(*args: Any) -> Program:
        if next(calls, None) is None:
            raise Cut
        return edit_(*args)

    return edited


def test_events_come_when_an_expansion_is_complete() -> None:
    events: list[Any] = []

    class Refusing(ToySpace):
        def edit(self, program: Program, transformation: Transformation) -> Program:
            assert events == []
            if transformation == edit(C_at=0):
                raise IllegalProgramError("no")
            return super().edit(program, transformation)

    search = TreeSearch(
        Refusing(),
        Script(),
        Noisy(),
        on_expanded=each(lambda step: events.append(step.node), lambda node, who, t, why: events.append(why)),
    )
    expansion = search.next_expansion()
    assert expansion is not None
    search.expand(expansion, Proposal("x", "", (edit(unroll=16), edit(C_at=0), edit(unroll=64))))
    assert events == [1, 2, "no"]


def test_another_searchs_tree_is_repeated_with_predictions_of_ones_own() -> None:
    tape = Tape(chance_search)
    first = tape.start()
    for _ in range(4):
        tape.round(first, 3)
    told: list[Any] = []
    again = chance_search(seed=9, on_expanded=each(told.append, lambda *event: told.append(event[0])))
    for kind, event in tape.events:
        if kind == "node":
            again.repeat(replace(event, predicted_secs=99.0))
        elif kind == "rejected":
            again.repeat_refusal(event[0], "random", *event[1:])
        elif kind == "asked":
            assert [step.node for step in again.pick_these(event)] == event
        else:
            again.tell(event)
    assert [n.step.program for n in again.tree.nodes] == [n.step.program for n in first.tree.nodes]
    assert [n.step.predicted_secs for n in again.tree.nodes] == [n.step.predicted_secs for n in first.tree.nodes]
    assert (again.num_waiting, again.num_samples, again.best) == (first.num_waiting, first.num_samples, first.best)
    assert len(told) == sum(kind in ("node", "rejected") for kind, _ in tape.events)


def test_what_another_space_refuses_is_not_repeated() -> None:
    tape = Tape(lambda **options: chance_search(illegal_share=0.0, **options))
    tape.round(tape.start(), 3)
    again = chance_search(illegal_share=1.0)
    with pytest.raises(IllegalProgramError):
        again.repeat(tape.events[0][1])


def test_a_forgotten_expansion_leaves_no_trace() -> None:
    search = chance_search()
    expansion = search.next_expansion(max_num=3)
    assert expansion is not None and search.tree.nodes[0].pending == 3
    search.forget(expansion)
    again = search.next_expansion(max_num=3)
    assert again is not None and again.draw == expansion.draw
    search.forget(again)
    assert all(node.pending == node.unobserved == 0 for node in search.tree.nodes)


def test_an_empty_proposal_is_refused_for_the_reason_that_is_given() -> None:
    search, refused = scripted({})
    expansion = search.next_expansion()
    assert expansion is not None
    search.expand(expansion, Proposal("llm", "", ()), why_empty="it failed")
    assert refused[0] == (0, "llm", None, "it failed")


# -- how fast -----------------------------------------------------------------------------------------------------


def test_asking_does_not_slow_down_with_the_tree() -> None:
    """The real figure is in benchmarks/search_overhead.py; this catches only what grows with tree or samples."""
    search = chance_search(0, illegal_share=0.0, predictor=Blind)
    root = search.tree.nodes[0].step
    for number in range(1, 20_001):
        parent = (number - 1) // 2 if number > 2 else 0
        search._insert(replace(root, node=number, parent=parent, program=program(unroll=number), predicted_secs=1e-3))
    search.tell([(number, ok(1e-3)) for number in range(1, 5000)])
    counted = iter(range(20_001, 10**9))
    search._space.table = lambda p: ToySpace().table(UNTUNED)  # type: ignore[method-assign]
    search._space.edit = lambda p, t: program(unroll=next(counted))  # type: ignore[method-assign]
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        expansion = search.next_expansion()
        assert expansion is not None
        search.expand(expansion, Proposal("x", "", (edit(), edit())))
        search.pick(1)
        best = min(best, time.perf_counter() - started)
    assert best < 0.01, f"{best * 1e3:.1f} ms for an expansion and a pick"


def test_a_lost_device_says_nothing_of_a_program() -> None:
    search = chance_search(3)
    (first,) = search.ask(1)
    value = search.tree.nodes[first.node].value
    lost = Measurement(failure=Failure("device", "gone"))
    asked = [first.node]
    for _ in range(2):
        search.tell([(first.node, lost)])
        node = search.tree.nodes[first.node]
        assert not node.full and node.value > 0 and node.step.measurement is None
        while (step := search.pick(1)[0]).node != first.node:
            search.tell([(step.node, measure(step))])
        asked.append(step.node)
    search.tell([(first.node, lost)])
    node = search.tree.nodes[first.node]
    assert value > 0 and not node.full and node.value > 0 and node.step.measurement == lost
    assert first.node not in [step.node for step in search.pick(1000)]  # three times is enough
    assert asked == [first.node] * 3

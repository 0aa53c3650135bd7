from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import UNTUNED
from reasoning_compiler.core.steps import Step
from reasoning_compiler.search.tree import Tree
from toy_space import Tape, chance_search, program


def grow(parents: list[int], speeds: list[float], **options: float) -> Tree:
    """Returns a tree whose node n + 1 has the parent parents[n] and the speed speeds[n]."""
    tree = Tree(Step(0, None, UNTUNED), **({"exploration": 1.0, "branching": 2, "root_branching": 2} | options))
    for number, (parent, speed) in enumerate(zip(parents, speeds, strict=True), start=1):
        tree.add(Step(number, parent, program(unroll=number)), speed)
    return tree


def subtree(tree: Tree, number: int) -> list[int]:
    return [number] + [below for child in tree.nodes[number].children for below in subtree(tree, child)]


#        0
#      /   \
#     1     2      speeds: 1: 4, 2: 1, 3: 2, 4: 8
#    / \
#   3   4
SMALL = [0, 0, 1, 1], [4.0, 1.0, 2.0, 8.0]


def test_visits_and_means_of_a_small_tree() -> None:
    tree = grow(*SMALL)
    assert [node.visits for node in tree.nodes] == [4, 3, 1, 1, 1]
    assert [node.mean for node in tree.nodes] == [15 / 4, 14 / 3, 1, 2, 8]
    assert Tree(Step(0, None, UNTUNED), exploration=1, branching=2, root_branching=2).nodes[0].mean == 0


def test_upper_confidence_bounds_of_a_small_tree() -> None:
    tree = grow(*SMALL)
    assert tree.uct(1, 8.0) == pytest.approx(14 / 24 + math.sqrt(math.log(4) / 3))
    assert tree.uct(2, 8.0) == pytest.approx(1 / 8 + math.sqrt(math.log(4) / 1))
    assert tree.uct(4, 8.0) == pytest.approx(1 + math.sqrt(math.log(3) / 1))
    assert tree.uct(4, 4.0) == tree.uct(4, 8.0), "a reward is at most 1"
    assert tree.uct(3, 0.0) == pytest.approx(math.sqrt(math.log(3))), "no reward while nothing is known"


@pytest.mark.parametrize(("exploration", "expected"), [(0.0, 4), (1.0, 2), (100.0, 2)])
def test_selection_follows_reward_or_curiosity(exploration: float, expected: int) -> None:
    # By reward alone: 1 (14/24) before 2 (1/8), then 4 before 3. By curiosity: 2, which was visited once.
    assert grow(*SMALL, exploration=exploration).select(8.0) == expected


def test_equal_bounds_go_to_the_older_node() -> None:
    assert grow([0, 0], [3.0, 3.0]).select(3.0) == 1


def test_the_first_node_with_room_is_selected() -> None:
    assert grow([], []).select(0.0) == 0
    assert grow([0], [1.0]).select(1.0) == 0
    assert grow([0, 0], [1.0, 2.0], exploration=0.0).select(2.0) == 2
    assert grow([0, 0], [1.0, 2.0], root_branching=3).select(2.0) == 0


def test_revaluing_passes_the_difference_to_the_root() -> None:
    tree = grow(*SMALL)
    tree.revalue(3, 5.0)
    assert [node.mean for node in tree.nodes] == [18 / 4, 17 / 3, 1, 5, 8]
    tree.revalue(0, 7.0)
    assert tree.nodes[0].value == 7.0
    assert tree.nodes[0].mean == 18 / 4, "the root's own speed is no result of an expansion"


def test_what_is_under_way_counts_as_visited_but_not_as_slow() -> None:
    tree = grow(*SMALL)
    tree.expect(4, 2)
    assert tree.uct(4, 8.0) == pytest.approx(1 + math.sqrt(math.log(5) / 3))
    assert tree.uct(1, 8.0) == pytest.approx(14 / 24 + math.sqrt(math.log(6) / 5))
    tree.expect(4, -2)
    assert [n.unobserved for n in tree.nodes] == [0] * 5
    assert tree.uct(1, 8.0) == grow(*SMALL).uct(1, 8.0)


def test_selection_passes_by_what_is_under_way_until_it_comes_back() -> None:
    tree = grow(*SMALL, exploration=0.0)
    taken = []
    for _ in range(3):
        number = tree.select(8.0)
        assert number is not None
        tree.expect(number, tree.room(number))
        taken.append(number)
    assert taken == [4, 3, 2]
    assert tree.select(8.0) is None, "all leaves are under way"
    tree.expect(3, -2)
    assert tree.select(8.0) == 3, "what was busy is not closed"


def test_a_full_tree_is_closed_for_good() -> None:
    tree = grow(*SMALL)
    for number in (2, 3, 4):
        tree.nodes[number].full = True
    assert tree.select(8.0) is None
    assert all(node.closed for node in tree.nodes)


values = st.floats(1e-3, 1e9, allow_subnormal=False)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    num = draw(st.integers(0, 24))
    parents = [draw(st.integers(0, number)) for number in range(num)]
    tree = grow(parents, [draw(values) for _ in range(num)], branching=draw(st.integers(1, 3)))
    for number in range(num + 1):
        node = tree.nodes[number]
        node.full = draw(st.booleans())
        if draw(st.booleans()):
            tree.expect(number, draw(st.integers(0, 3)))
    return tree


@given(trees(), st.data())
def test_visits_and_totals_add_up_exactly(tree: Tree, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 8))):
        tree.revalue(data.draw(st.integers(0, len(tree) - 1)), data.draw(values))
    for number, node in enumerate(tree.nodes):
        below = [n for n in subtree(tree, number) if n]
        assert node.visits == len(below)
        assert node.total == sum(round(tree.nodes[n].value * 2**32) for n in below)
        assert node.unobserved == sum(tree.nodes[n].pending for n in subtree(tree, number))


@given(trees(), values)
def test_selection_ends_at_a_node_with_room_if_there_is_one(tree: Tree, best_speed: float) -> None:
    number = tree.select(best_speed)
    reachable = [n for n in range(len(tree)) if tree.room(n)]
    assert tree.room(number) > 0 if number is not None else not reachable
    for node in (n for n in tree.nodes if n.closed):
        assert not node.pending and all(tree.nodes[c].closed for c in node.children)


def test_a_chain_of_5000_nodes_needs_no_recursion() -> None:
    tree = grow(list(range(5000)), [1.0 + n for n in range(5000)], branching=1, root_branching=1)
    assert tree.select(5000.0) == 5000
    tree.revalue(5000, 1.0)
    assert tree.nodes[0].visits == 5000
    assert tree.nodes[0].mean == (5000 * 5001 / 2 - 4999) / 5000
    tree.nodes[5000].full = True
    assert tree.select(5000.0) is None


def test_golden_tree(golden) -> None:  # type: ignore[no-untyped-def]
    tape = Tape(lambda **options: chance_search(7, **options))
    search = tape.start()
    for _ in range(6):
        tape.round(search, 3)
    lines = []
    for node in search.tree.nodes:
        step = node.step
        edits = step.transformation.edits if step.transformation else ()
        predicted = "-" if step.predicted_secs is None else f"{step.predicted_secs * 1e6:.3f} us"
        told = "-"
        if step.measurement is not None:
            told = f"{step.measurement.latency_secs * 1e6:.3f} us" if step.measurement.ok else "failed"
        lines.append(
            f"{step.node:3} <- {step.parent!s:4} {node.visits:2} visits, mean {node.mean:8.2f}/s, "
            f"predicted {predicted:>11}, measured {told:>11}, {node.rejections} refused | {step.proposer}: "
            + ", ".join(f"{name} = {value}" for name, value in edits)
        )
    golden("tree.txt", "\n".join(lines) + "\n")


def test_only_settled_nodes_are_selected_where_that_is_asked_for() -> None:
    tree = grow([0, 0], [3.0, 2.0], root_branching=3)
    assert tree.select(3.0, settled=True) == 0
    tree.expect(0, 1)
    assert tree.select(3.0, settled=True) is None, "the root is under way, the others are not measured"
    assert tree.select(3.0) == 1
    tree.nodes[2].step = replace(tree.nodes[2].step, measurement=Measurement((0.5,), verified=True))
    assert tree.select(3.0, settled=True) == 2
    tree.expect(2, 1)
    assert tree.select(3.0, settled=True) is None
    tree.expect(0, -1)
    assert tree.select(3.0, settled=True) == 0, "what was left out is not closed"

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemm_nest import GemmSpace, group, machine
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, TileDomain, Transformation
from reasoning_compiler.core.steps import Proposal, Step
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.ways import Ways, describe_move
from reasoning_compiler.proposer.protocol import Context, Rejection
from reasoning_compiler.proposer.random import RandomProposer, draw, mutate, prime_factors
from toy_space import DOMAINS, ToySpace, edit

M = machine()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ok(secs: float) -> Measurement:
    return Measurement((secs,), verified=True)


# -- chance -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**6))
def test_prime_factors_multiply_to_the_number(number: int) -> None:
    factors = prime_factors(number)
    assert math.prod(factors) == number
    assert factors == sorted(factors)
    assert all(all(f % d for d in range(2, math.isqrt(f) + 1)) for f in factors)


@st.composite
def domains(draw_: st.DrawFn) -> TileDomain | ChoiceDomain:
    if draw_(st.booleans()):
        return ChoiceDomain(tuple(draw_(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True))))
    num = draw_(st.integers(1, 4))
    multiple = draw_(st.sampled_from([1, 1, 4, 16])) if num > 1 else 1
    extent = multiple * draw_(st.sampled_from([1, 2, 7, 12, 127, 512, 4096]))
    limit = draw_(st.none() | st.integers(16, 64))
    return TileDomain(extent, num, limit, multiple, draw_(st.integers(1, num - 1)) if num > 1 else 0)


@given(domains(), st.integers(0, 99))
def test_what_chance_draws_is_legal(domain: TileDomain | ChoiceDomain, seed: int) -> None:
    value = draw(domain, rng(seed))
    assert domain.why_not(value) is None
    assert isinstance(value, tuple | int) and not isinstance(value, np.integer)


def test_what_is_hard_to_draw_is_legal_too() -> None:
    for domain in (TileDomain(2**20, 4, None, 2**20, 3), TileDomain(2**20, 3, max_innermost=1), TileDomain(97, 1, 64)):
        assert domain.why_not(draw(domain, rng())) is None


def test_every_placement_of_factors_can_be_drawn() -> None:
    stream = rng()
    drawn = Counter(draw(TileDomain(4, 2), stream) for _ in range(400))
    assert set(drawn) == {(1, 4), (2, 2), (4, 1)}
    assert drawn[(2, 2)] == pytest.approx(200, abs=50), "two of four placements of two twos"


@given(st.integers(0, 999))
def test_a_mutation_changes_one_decision_to_a_legal_value(seed: int) -> None:
    table = ToySpace().table(UNTUNED)
    transformation = mutate(table, rng(seed))
    assert transformation is not None
    ((name, value),) = transformation.edits
    (decision,) = (d for d in table if d.name == name)
    assert value != decision.value
    assert DOMAINS[name].why_not(value) is None


def test_tiles_are_mutated_most_often() -> None:
    stream, table = rng(), ToySpace().table(UNTUNED)
    kinds = {d.name: d.kind for d in table}
    counted = Counter(kinds[t.edits[0][0]] for _ in range(1000) if (t := mutate(table, stream)))
    assert counted["tile"] == pytest.approx(800, abs=60)
    assert set(counted) == {"tile", "choice", "location", "structure"}


def test_what_cannot_change_is_not_mutated() -> None:
    fixed = (
        Decision("i tile", "tile", TileDomain(1, 4), (1, 1, 1, 1)),
        Decision("j tile", "tile", TileDomain(64, 1), (64,)),
        Decision("unroll", "choice", ChoiceDomain((0,)), 0),
    )
    assert mutate(fixed, rng()) is None
    only_one = (*fixed, Decision("k tile", "tile", TileDomain(64, 2), (64, 1)))
    assert {t.edits[0][0] for s in range(9) if (t := mutate(only_one, rng(s)))} == {"k tile"}
    stuck = (Decision("k tile", "tile", TileDomain(127, 2, max_innermost=64), (127, 1)),)
    assert mutate(stuck, rng()) is None


def test_chance_draws_whole_programs_for_the_root_and_one_decision_elsewhere() -> None:
    space = ToySpace()
    proposer = RandomProposer(space)
    root = Context((Step(0, None, UNTUNED),), space.table(UNTUNED))
    proposal = proposer.propose(root, 5, rng(1))
    assert len(proposal.transformations) == 5
    seeds = rng(1)
    assert [space.edit(UNTUNED, t) for t in proposal.transformations] == [
        space.sample(int(seeds.integers(1, 2**31 - 1))) for _ in range(5)
    ]
    node = Step(1, 0, space.sample(3))
    proposal = proposer.propose(Context((node, root.node), space.table(node.program)), 5, rng(1))
    assert [len(t.edits) for t in proposal.transformations] == [1] * 5
    assert proposal == proposer.propose(Context((node, root.node), space.table(node.program)), 5, rng(1))
    assert proposal.proposer == "random" and proposal.reasoning


# -- the expert ---------------------------------------------------------------------------------------------------

ROOT = Step(0, None, UNTUNED)


def product(m: int = 512, n: int = 1024, k: int = 512) -> GemmSpace:
    return GemmSpace(group(m, n, k))


def chain() -> GemmSpace:
    """Returns a space of two products, as the two of an attention."""
    return GemmSpace(group(256, 256, 64, name="S"), group(256, 64, 256, name="O"))


def of_root(space: GemmSpace, **fields: Any) -> Context:
    return Context((ROOT,), space.table(UNTUNED), **fields)


def of_node(space: GemmSpace, program: Program, **fields: Any) -> Context:
    return Context((Step(1, 0, program), ROOT), space.table(program), **fields)


def model_secs(space: GemmSpace, program: Program) -> float:
    return analyze(space.nests(program), M).secs


def edited(space: GemmSpace, program: Program, proposal: Proposal) -> list[Program]:
    return [space.edit(program, t) for t in proposal.transformations]


def test_it_opens_with_what_the_analysis_finds_fast() -> None:
    space = product()
    programs = edited(space, UNTUNED, Expert(space, M).propose(of_root(space), 8, rng()))
    assert len(set(programs)) == 8
    first = [model_secs(space, p) for p in programs[:3]]
    assert first[0] == min(first)
    chance = [model_secs(space, space.sample(seed)) for seed in range(50)]
    assert max(first) < sorted(chance)[2]
    assert any(p.values["C"] != programs[0].values["C"] for p in programs), "other structures get their turn"


def test_it_settles_what_is_not_tiled_by_the_analysis_too() -> None:
    space = product()
    (first,) = edited(space, UNTUNED, Expert(space, M).propose(of_root(space), 1, rng()))
    assert first.values["C"] == "packed", "which the analysis of this space takes for faster"


def test_its_openings_do_not_depend_on_what_it_was_asked_before() -> None:
    space = product()
    fresh, used = Expert(space, M), Expert(space, M)
    for seed in range(3):
        used.propose(of_node(space, space.sample(seed)), 2, rng(seed))
    assert used.propose(of_root(space), 9, rng()) == fresh.propose(of_root(space), 9, rng())


@pytest.mark.parametrize("seed", range(6))
def test_it_never_proposes_what_was_refused_or_tried(seed: int) -> None:
    space = product(64, 64, 64)
    expert = Expert(space, M)
    program = space.sample(seed)
    for make in (lambda **f: of_root(space, **f), lambda **f: of_node(space, program, **f)):
        seen: list[Transformation] = []
        for _ in range(6):
            refused = tuple(Rejection(Transformation(t.edits[::-1]), "no") for t in seen[::2])
            children = tuple(Step(9, 1, program, t) for t in seen[1::2])
            proposal = expert.propose(make(rejected=refused, children=children), 4, rng(seed))
            fresh = [frozenset(t.edits) for t in proposal.transformations]
            assert len(set(fresh)) == len(fresh) <= 4
            assert not set(fresh) & {frozenset(t.edits) for t in seen}
            seen += proposal.transformations


def test_it_has_no_end_of_ideas_for_a_program_but_for_the_root() -> None:
    space = product(64, 64, 64)
    expert, seen = Expert(space, M), []
    for _ in range(12):
        rejected = tuple(Rejection(t, "no") for t in seen)
        proposal = expert.propose(of_root(space, rejected=rejected), 8, rng())
        seen += proposal.transformations
    assert proposal == Proposal("expert", "", ())
    assert 12 <= len(seen) <= 20
    everything = tuple(
        Rejection(t, "no") for t in expert.propose(of_node(space, space.start), 500, rng()).transformations
    )
    assert len(everything) > 20
    more = expert.propose(of_node(space, space.start, rejected=everything), 2, rng(5))
    assert all("random" in t.reasoning for t in more.transformations)


def test_what_it_proposes_is_legal_but_for_what_only_the_space_knows() -> None:
    space = chain()
    expert = Expert(space, M)
    illegal = 0
    proposals = [(UNTUNED, expert.propose(of_root(space), 12, rng()))]
    proposals += [(p, expert.propose(of_node(space, p), 40, rng())) for p in (space.sample(s) for s in range(3))]
    for program, proposal in proposals:
        for transformation in proposal.transformations:
            try:
                assert space.edit(program, transformation) != program
            except IllegalProgramError as error:
                assert "transposed" in str(error)
                illegal += 1
    assert illegal < 20


def test_every_proposal_is_explained() -> None:
    space = product()
    expert = Expert(space, M)
    opening = expert.propose(of_root(space), 2, rng())
    text = opening.transformations[0].reasoning
    assert opening.reasoning == text
    assert "register tile i " in text and "for 32 vector registers" in text and "limited by" in text
    assert "Besides: C: packed." in text
    slow = space.edit(UNTUNED, edit(unroll=16))
    proposal = expert.propose(of_node(space, slow), 30, rng())
    assert all(t.reasoning for t in proposal.transformations)
    assert any(t.expectation.endswith("×, estimated") for t in proposal.transformations)
    assert any("a measurement can" in t.reasoning for t in proposal.transformations)


def test_it_moves_towards_what_the_analysis_finds_fast() -> None:
    space = product()
    expert = Expert(space, M)
    program = space.start
    for _ in range(30):
        options = edited(space, program, expert.propose(of_node(space, program), 4, rng()))
        program = min([program, *options], key=lambda p: model_secs(space, p))
    assert model_secs(space, program) < model_secs(space, space.start) / 10


def test_it_repeats_what_has_helped_and_avoids_what_has_hurt() -> None:
    space = product()
    expert = Expert(space, M)
    (start,) = edited(space, UNTUNED, expert.propose(of_root(space), 1, rng()))

    def first_mentions(unroll_gain: float) -> float:
        """Returns the mean place of the first edit of `unroll` among the ideas, after four experiences with it."""
        measured = [Step(1, 0, start, Transformation((("C", "packed"),)), measurement=ok(1e-3))]
        for node in range(2, 6):
            secs = 1e-3 / unroll_gain
            measured.append(Step(node, 1, start, Transformation((("unroll", 16),)), measurement=ok(secs)))
        places = []
        for seed in range(8):
            context = of_node(space, start, measured=tuple(measured))
            ideas = expert.propose(context, 200, rng(seed)).transformations
            places.append(next(i for i, t in enumerate(ideas) if t.edits[0][0] == "unroll"))
        return float(np.mean(places))

    assert first_mentions(2.0) < first_mentions(1.0) < first_mentions(0.5)
    assert first_mentions(2.0) < 1


def test_lessons_come_from_measured_pairs_alone() -> None:
    space = product()
    expert = Expert(space, M)
    program = space.sample(1)
    unroll = Transformation((("unroll", 16),))
    from_root = Step(1, 0, program, unroll, measurement=ok(1e-3))
    failed = Step(2, 1, program, unroll, measurement=Measurement(failure=Failure("crash")))
    orphan = Step(4, 3, program, unroll, measurement=ok(1e-9))
    untuned = replace(ROOT, measurement=ok(1.0))

    def ideas(*measured: Step) -> Proposal:
        return expert.propose(of_node(space, program, measured=measured), 9, rng())

    assert ideas(untuned, from_root, failed, orphan) == ideas()
    helped = Step(5, 1, program, unroll, measurement=ok(1e-4))
    assert ideas(untuned, from_root, helped) != ideas()


def test_with_two_blocks_it_takes_over_the_best_programs_tiling() -> None:
    space = chain()
    expert = Expert(space, M)
    best, other = (space.edit(UNTUNED, t) for t in expert.propose(of_root(space), 2, rng()).transformations)
    slow = space.edit(best, Transformation((("O.i tile", (256, 1, 1, 1)), ("O.j tile", (64, 1, 1, 1)))))
    ideas = expert.propose(of_node(space, slow, best=Step(7, 0, best)), 60, rng()).transformations
    (crossing,) = (t for t in ideas if "from the fastest program" in t.reasoning)
    assert space.edit(slow, crossing) == best
    assert not any("fastest" in t.reasoning for t in expert.propose(of_node(space, slow), 60, rng()).transformations)
    assert other != best


def test_a_choice_that_several_ways_need_is_named_once() -> None:
    both = tuple(replace(group(256, 64, 128), needs=(("C", way),)) for way in ("plain", "packed"))
    space = GemmSpace(group(256, 64, 128))
    start = Start(space, M)
    assert start.values["C"] == "plain"
    space.tile_groups = both
    ways = Ways(space, M, start=start)
    assert ways.structures_of(ways.choosers[0]) == ["C"]


def test_what_two_rules_say_is_proposed_once() -> None:
    space = chain()
    expert = Expert(space, M)
    (best,) = edited(space, UNTUNED, expert.propose(of_root(space), 1, rng()))
    outer, *rest = best.values["O.i tile"]  # type: ignore[misc]
    near = space.edit(best, Transformation((("O.i tile", (outer * rest[-1], *rest[:-1], 1)),)))
    back = space.edit(best, Transformation((("O.i tile", (outer * rest[-1] // 2, *rest[:-1], 2)),)))
    ideas = expert.propose(of_node(space, near, best=Step(7, 0, back)), 500, rng()).transformations
    edits = [frozenset(t.edits) for t in ideas]
    assert len(edits) == len(set(edits))
    assert frozenset({("O.i tile", back.values["O.i tile"])}) in edits


def test_a_block_that_is_not_tiled_here_is_left_alone() -> None:
    """A structure may take a block's tiles away: the other block's ideas must not be mixed up with it."""
    space = chain()
    expert = Expert(space, M)
    program = space.sample(2)
    table = tuple(d for d in space.table(program) if not d.name.startswith("S."))
    context = replace(of_node(space, program), table=table)
    ideas = expert.propose(context, 40, rng()).transformations
    assert {n.split(".")[0] for t in ideas for n, _ in t.edits if "tile" in n} == {"O"}
    for idea in ideas:
        if idea.edits[0][0].startswith("O.") and "random" not in idea.reasoning:
            assert idea.reasoning.startswith("O: ")


def test_tiles_of_another_shape_than_the_groups_are_left_alone() -> None:
    space = product()
    expert = Expert(space, M)
    program = space.sample(2)
    table = tuple(
        replace(d, domain=TileDomain(512, 3), value=(512, 1, 1)) if d.name == "C.i tile" else d
        for d in space.table(program)
    )
    ideas = expert.propose(replace(of_node(space, program), table=table), 200, rng()).transformations
    assert all("register tile" not in t.reasoning for t in ideas)


def test_without_anything_to_tile_it_still_proposes_structures() -> None:
    class Bare(GemmSpace):
        def table(self, program: Program) -> tuple[Decision, ...]:
            values = (self.start if program.is_untuned else program).values
            return (Decision("C", "structure", ChoiceDomain(("plain", "packed")), values["C"]),)

        @property
        def start(self) -> Program:  # type: ignore[override]
            return Program((("C", "plain"),))

        def edit(self, program: Program, transformation: Transformation) -> Program:
            return Program((("C", str((self.start.values | dict(transformation.edits))["C"])),))

        def nests(self, program: Program) -> Any:
            return ()

    space = Bare()
    programs = edited(space, UNTUNED, Expert(space, M).propose(of_root(space), 4, rng()))
    assert [p.values["C"] for p in programs] == ["plain", "packed"]


def test_where_no_tile_is_legal_it_does_not_fail() -> None:
    g = group(64, 64, 64)
    narrow = tuple((a, n, replace(d, inner_multiple=64, inner_from=3, max_innermost=None)) for a, n, d in g.decisions)
    space = GemmSpace(replace(g, decisions=narrow))
    few = machine(num_vector_registers=2)
    assert Expert(space, few).propose(of_root(space), 3, rng()).transformations


def test_words_for_tilings_and_moves() -> None:
    from reasoning_compiler.cost.tile_choice import TileChooser

    def words(i: Any, j: Any, k: Any, **changes: Any) -> str:
        chooser = TileChooser(group(64, 64, 64), machine(**changes), (0,))
        return chooser.explain(chooser.judge((i, j, k), 0))

    text = words((1, 1, 8, 8), (2, 1, 1, 32), (4, 16))
    assert text.startswith("C: register tile i 8 × j 32, 16 accumulators for 32 vector registers; reduction in")
    assert "blocks of k 16; the working set of loop i_0, 48 KB, fits in L2; 2 parallel tasks" in text
    assert "2 parallel tasks for 2 cores; limited by" in text
    assert "loaded and stored in each iteration" in words((1, 1, 1, 64), (1, 1, 2, 32), (4, 16))
    assert "; on one core;" in words((1, 1, 8, 8), (1, 1, 2, 32), (4, 16))
    assert "; on one core;" in words((2, 1, 4, 8), (1, 1, 2, 32), (4, 16), num_cores=1, peak_flops=150e9)
    assert "; 4 parallel tasks, at most 2 per core;" in words((4, 1, 2, 8), (1, 1, 2, 32), (4, 16), num_cores=3)
    assert "register tile one element, scalar" in words((64, 1, 1, 1), (1, 1, 64, 1), (1, 64))
    assert "register tile j 64, 4 accumulators for 32 " in words((64, 1, 1, 1), (1, 1, 64, 1), (64, 1)), "all inside k"
    labelled = Decision("unroll", "choice", ChoiceDomain((0, 16), ("nothing", "up to 16")), 0)
    assert describe_move(labelled, 16) == "unroll: up to 16"
    assert describe_move(Decision("C.i tile", "tile", TileDomain(32, 2), (32, 1)), (4, 8)) == "C.i tile 4 × 8"
    assert (
        describe_move(Decision("C", "structure", ChoiceDomain(("plain", "packed")), "plain"), "packed") == "C: packed"
    )

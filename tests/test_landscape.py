"""Does the tree search? On a rugged landscape of tiles, over paired seeds, against chance.

Latency is the exponential of a sum: for each of six tiles, how far its two inner factors are from the best ones; a
rough part of its own; and a part that depends on its neighbour's value too. Each part is a hash, so the landscape is
the same in every process and needs no hardware. A method's result is its fastest program after 64 samples; methods
are compared seed by seed, in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import mean

import numpy as np
import pytest

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import UNTUNED, Decision, Program, TileDomain, Transformation, Value
from reasoning_compiler.core.steps import Known, Proposal
from reasoning_compiler.proposer.protocol import Context, Proposer
from reasoning_compiler.proposer.random import RandomProposer, draw, mutate
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.search.search import TreeSearch
from toy_space import Blind, unit

SEEDS = 40
SAMPLES = 64
NAMES = [f"{block}.{axis} tile" for block in "CD" for axis in "ijk"]
DOMAINS = {name: TileDomain(2 ** (6 + at % 3), 3) for at, name in enumerate(NAMES)}


def distance(name: str, value: Value) -> float:
    """Returns how far a tile is from the best one, as a share of e."""
    at = NAMES.index(name)
    _, middle, inner = value  # type: ignore[misc]
    return 0.24 * math.hypot(math.log2(inner) - (1 + at % 3), math.log2(middle) - (2 + at % 2))


@cache
def latency_secs(program: Program) -> float:
    values = program.decisions
    total = sum(distance(*pair) + 0.4 * (unit("own", *pair) - 0.5) for pair in values)
    total += sum(0.6 * (unit("pair", *values[at], *values[at - 1]) - 0.5) for at in range(len(values)))
    return 1e-3 * math.exp(total)


class Tiles:
    """Six tiles, every combination legal."""

    start = Program((), tuple((name, (domain.extent, 1, 1)) for name, domain in DOMAINS.items()))

    def table(self, program: Program) -> tuple[Decision, ...]:
        values = (self.start if program.is_untuned else program).values
        return tuple(Decision(name, "tile", domain, values[name]) for name, domain in DOMAINS.items())

    def edit(self, program: Program, transformation: Transformation) -> Program:
        values = (self.start if program.is_untuned else program).values | dict(transformation.edits)
        return Program((), tuple(values.items()))

    def sample(self, seed: int) -> Program:
        rng = np.random.default_rng(seed)
        return Program((), tuple((name, draw(domain, rng)) for name, domain in DOMAINS.items()))


SPACE = Tiles()


class Sensible:
    """Knows the smooth part of the landscape, and of a dozen random changes proposes those that it takes for best."""

    name = "sensible"

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        if context.node.program.is_untuned:
            return RandomProposer(SPACE).propose(context, num, rng)
        present = {decision.name: decision.value for decision in context.table}
        drawn = [t for _ in range(12) if (t := mutate(context.table, rng)) is not None]
        best = sorted(drawn, key=lambda t: sum(distance(n, v) - distance(n, present[n]) for n, v in t.edits))
        return Proposal(self.name, "nearer to the best tile", tuple(dict.fromkeys(best))[:num])


class Inherited(Blind):
    """Predicts for every program the latency of its nearest measured ancestor."""

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        return [anchor[1] if anchor else None for anchor in anchors]


def by_tree(proposer: Callable[[], Proposer], seed: int, **config: float) -> float:
    options = {"exploration": 0.1, "nodes_per_sample": 2} | config
    search = TreeSearch(SPACE, proposer(), Inherited(), seed=seed, config=SearchConfig(**options))  # type: ignore[arg-type]
    while search.num_samples < SAMPLES:
        batch = search.ask(4)
        search.tell([(s.node, Measurement((latency_secs(s.program),), verified=True)) for s in batch])
    assert search.best is not None and search.best.measurement is not None
    return search.best.measurement.latency_secs


def by_sampling(seed: int) -> float:
    rng = np.random.default_rng(seed)
    return min(latency_secs(SPACE.sample(int(rng.integers(1, 2**31)))) for _ in range(SAMPLES))


def chance() -> Proposer:
    return RandomProposer(SPACE)


@cache
def results(method: str) -> tuple[float, ...]:
    methods: dict[str, Callable[[int], float]] = {
        "sampling": by_sampling,
        "chance": lambda seed: by_tree(chance, seed),
        "sensible": lambda seed: by_tree(Sensible, seed),
    }
    return tuple(math.log(methods[method](seed)) for seed in range(SEEDS))


@pytest.mark.parametrize(
    ("better", "worse", "wins", "gain"),
    [
        # Seen: 34 of 40, mean 0.51 (paired t = 7.2). In a sign test, chance wins 29 of 40 with p = 0.003.
        ("chance", "sampling", 29, 0.3),
        # Seen: 39 of 40, mean 0.73 (paired t = 13).
        ("sensible", "chance", 36, 0.5),
    ],
)
def test_a_tree_beats_sampling_and_sense_beats_chance(better: str, worse: str, wins: int, gain: float) -> None:
    gains = [w - b for b, w in zip(results(better), results(worse), strict=True)]
    won = sum(g > 0 for g in gains)
    assert won >= wins, f"{won} of {SEEDS}, mean {mean(gains):.2f}"
    assert mean(gains) > gain, f"{won} of {SEEDS}, mean {mean(gains):.2f}"


def test_the_landscape_is_rugged() -> None:
    """Climbing by single changes ends in many places, most of them far from the best that is known."""
    best = math.log(min(map(math.exp, results("sensible"))))
    rng = np.random.default_rng(0)
    tops = []
    for seed in range(10):
        at = SPACE.sample(seed)
        for _ in range(200):
            change = mutate(SPACE.table(at), rng)
            assert change is not None
            at = min(at, SPACE.edit(at, change), key=latency_secs)
        tops.append(math.log(latency_secs(at)) - best)
    assert max(tops) > 0.1 and len({round(t, 6) for t in tops}) > 5
    assert latency_secs(SPACE.edit(UNTUNED, Transformation(()))) == latency_secs(SPACE.start)

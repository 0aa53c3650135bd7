"""Does the search search? On recorded landscapes of real kernels, over paired seeds, without hardware.

Each file in `landscapes/` holds every program of a small space with the time that it took (`reasonc record`). How far a
program is from the best one is the logarithm of its time over the best's. The search has three parts that can be worth
something, and each is asked alone, since one can hide what another lacks:

1. Predictions. Runs as they are, with random proposals that the analysis ranks, against programs
   drawn by chance, in how far the best so far is on average over 16 samples.
2. The expert. The same measure for runs without the analysis' predictions, expert against chance. With them, the expert
   has no clear lead in spaces as small as these: of 16 programs that chance draws before anything is measured, the
   analysis picks some that are as good. (Seen with eight seeds, expert against chance: nearer by 0.062 on conv, 0.026
   on gemm and 0.003 on mlp; farther by 0.014 on moe and 0.023 on attention, where the analysis ranks worst.)
3. The tree. With nothing predicted, everything measured, and c = 0.1, how far the programs are that it goes on to
   measure, against those of chance. (With c = √2, rewards hardly count within so few samples: what chooses is the
   number of visits, and a tree that forgets to pass values up does as well.)
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from reasoning_compiler.core.statistics import signed_rank_p
from reasoning_compiler.experiment.cell import Cell, cell_of
from reasoning_compiler.experiment.recorded import search
from reasoning_compiler.experiment.tabular import TabularBenchmark
from reasoning_compiler.experiment.tabular_file import read_benchmark
from reasoning_compiler.experiment.variants import methods
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.session.settings import Settings

LANDSCAPES = Path(__file__).parent / "landscapes"
KERNELS = ("attention", "conv", "gemm", "mlp", "moe")
SEEDS = 10
AS_IT_IS = Settings(samples=16)
BLIND = replace(AS_IT_IS, prior=False)
TREE_ALONE = Settings(samples=32, prior=False, search=SearchConfig(exploration=0.1, nodes_per_sample=1))
NOT_WORSE = -0.03  # on a single kernel; together they must be better


@cache
def landscape(kernel: str) -> TabularBenchmark:
    return read_benchmark(LANDSCAPES / f"{kernel}.landscape.gz")


@cache
def runs(kernel: str, method: str, settings: Settings) -> tuple[Cell, ...]:
    """Returns a run for each seed."""
    place = landscape(kernel)
    (variant,) = methods([method], settings)
    found = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            run = search(place, variant.seeded(seed, key=place.workload.key), Path(folder) / "run")
        found.append(cell_of(run, method, workload=kernel))
    return tuple(found)


def distance(kernel: str, secs: float | None) -> float:
    """Returns how far a latency is from the best one; what failed is as far as the untuned program."""
    place = landscape(kernel)
    if secs is None or math.isinf(secs):
        secs = place.untuned.latency_secs
    return math.log(secs / min(entry.measurement.latency_secs for entry in place.measured))


def of_the_best(kernel: str, method: str, settings: Settings) -> list[float]:
    """Returns for each seed how far the best so far is, on average over the samples."""
    return [mean(distance(kernel, secs) for secs in cell.best_secs) for cell in runs(kernel, method, settings)]


def of_the_later(kernel: str, method: str, settings: Settings) -> list[float]:
    """Returns for each seed how far the programs of a run's second half are, on average."""
    cells = runs(kernel, method, settings)
    return [mean(distance(kernel, secs) for _, secs in cell.samples[len(cell.samples) // 2 :]) for cell in cells]


@pytest.mark.parametrize(
    ("better", "worse", "settings", "measure", "least"),
    [
        pytest.param("mcts", "random", AS_IT_IS, of_the_best, 0.02, id="predictions", marks=pytest.mark.nightly),
        pytest.param("expert", "mcts", BLIND, of_the_best, 0.05, id="the expert", marks=pytest.mark.nightly),
        pytest.param("mcts", "random", TREE_ALONE, of_the_later, 0.1, id="the tree"),
    ],
)
def test_each_part_of_the_search_is_worth_something(
    better: str, worse: str, settings: Settings, measure: Callable[..., list[float]], least: float
) -> None:
    gains = {
        kernel: [w - b for b, w in zip(*(measure(kernel, m, settings) for m in (better, worse)), strict=True)]
        for kernel in KERNELS
    }
    told = {kernel: f"{sum(g > 0 for g in each)} of {SEEDS}, {mean(each):.3f}" for kernel, each in gains.items()}
    assert signed_rank_p([g for each in gains.values() for g in each]) < 0.001, told  # of these kernels, over seeds
    assert mean(mean(each) for each in gains.values()) > least, told
    assert all(mean(each) > NOT_WORSE for each in gains.values()), told


@pytest.mark.nightly
def test_with_predictions_the_expert_is_no_worse_than_chance() -> None:
    distances = [mean(mean(of_the_best(kernel, m, AS_IT_IS)) for kernel in KERNELS) for m in ("expert", "mcts")]
    assert distances[0] < distances[1] + 0.01, distances

"""Scripted models in the whole loop but for TVM and hardware: their server, the client, the search, a landscape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_server import FakeServer
from scripted_models import Respond, chance, engineer, nonsense, served

from gemm_nest import GemmSpace, group, machine
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.core.steps import Known
from reasoning_compiler.cost.analysis import analyze
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.llm.client import LLMClient
from reasoning_compiler.proposer.llm.metered import LLMStats, MeteredModel
from reasoning_compiler.proposer.llm.prompt import Kernel, tiling_notes
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.proposer.llm.transcript import Transcript
from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.session.thinking import Thinker
from toy_space import unit

pytest.importorskip("pydantic_ai", reason="the `llm` extra is not installed")

SEEDS = range(10)
SAMPLES = 32
SHAPES = 2 * [(384, 768, 256), (96, 1536, 640), (640, 320, 512), (192, 192, 2048), (1280, 64, 768)]
MACHINE = machine()
# What the landscape is made of is not what the analysis is told: smaller caches, fewer registers, slower memory.
HARDWARE = machine(
    l1_bytes=MACHINE.l1_bytes // 2,
    l2_bytes=MACHINE.l2_bytes // 4,
    num_vector_registers=MACHINE.num_vector_registers * 3 // 4,
    bandwidth_bytes_per_sec=MACHINE.bandwidth_bytes_per_sec / 2,
)
PROGRAM = """\
def main(A: T.Buffer(({m}, {k}), "float32"), B: T.Buffer(({k}, {n}), "float32"), C: T.Buffer(({m}, {n}), "float32")):
    for i, j, k in T.grid({m}, {n}, {k}):
        with T.sblock("C"):
            v_i, v_j, v_k = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[v_i, v_j] = T.float32(0)
            C[v_i, v_j] = C[v_i, v_j] + A[v_i, v_k] * B[v_k, v_j]
"""


class Contest:
    """One product on the landscape; every run starts anew."""

    def __init__(self, shape: tuple[int, int, int], folder: Path) -> None:
        self.m, self.n, self.k = shape
        self.space = GemmSpace(group(*shape))
        self.folder = folder
        self.num_runs = 0

    def secs(self, program: Program, hardware=HARDWARE) -> float:  # type: ignore[no-untyped-def]
        """Returns what the analysis says for a machine."""
        flops = 2.0 * self.m * self.n * self.k
        sizes = 4.0 * (self.m * self.k + self.k * self.n + self.m * self.n)
        return analyze(self.space.nests(program), hardware, kernel_flops=flops, kernel_bytes=sizes).secs

    def measure(self, program: Program) -> Measurement:
        """Returns a rugged latency: equal tiles have much in common, equal programs all."""
        secs = self.secs(program)
        for name, value in program.values.items():
            secs *= 0.93 + 0.14 * unit("effect", name, value)
        return Measurement((secs * (0.9 + 0.2 * unit("rugged", program.key)),), verified=True)

    def search(self, proposer: Proposer, seed: int) -> TreeSearch:
        return TreeSearch(self.space, proposer, Prior(self), fallback=proposer, seed=seed, max_samples=SAMPLES)

    def alone(self, proposer: Proposer, seed: int) -> float:
        """Returns the best latency of a search with a quick proposer."""
        search = self.search(proposer, seed)
        return self.best(search, search)

    def guided(self, respond: Respond, fallback: Proposer, seed: int, *, share: float) -> tuple[float, LLMStats]:
        """Returns the best latency of a search with a model, and what the model did."""
        self.num_runs += 1
        search = self.search(fallback, seed)
        shape = {"m": self.m, "n": self.n, "k": self.k}
        with FakeServer(respond=respond) as server:
            settings = LLMSettings("fake", base_url=server.base_url)
            model = MeteredModel(
                settings,
                LLMClient(settings),
                transcript=Transcript(self.folder / f"{self.num_runs}.jsonl"),
            )
            proposer = LLMProposer(
                model,
                kernel=Kernel("gemm", PROGRAM.format(**shape), notes=tiling_notes(self.space.tile_groups)),
                machine=MACHINE,
                check=self.why_not,
                fallback=fallback,
            )
            most = int(share * SAMPLES)
            thinker = Thinker(
                search,
                proposer,
                concurrency=4,
                children=4,
                filler=fallback if share else None,
                max_filled=most,
                clock=PhaseTimer(),
            )
            thinker.first_look()
            best = self.best(thinker, search)
            thinker.close(at_rest=True)
        assert all(node.pending == node.unobserved == 0 for node in search.tree.nodes)
        return best, proposer.model.stats

    def why_not(self, program: Program, transformation: Transformation) -> str | None:
        try:
            self.space.edit(program, transformation)
        except Exception as error:
            return str(error)
        return None

    def best(self, source: TreeSearch | Thinker, search: TreeSearch) -> float:
        while search.num_samples < SAMPLES:
            batch = source.ask(min(4, SAMPLES - search.num_samples))
            assert batch
            search.tell([(step.node, self.measure(step.program)) for step in batch])
        assert search.best is not None and search.best.measurement is not None
        return search.best.measurement.latency_secs


class Prior:
    """Predicts what the analysis says."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        return [self._contest.secs(program, MACHINE) for program in programs]

    def learn(self, known: Sequence[Known]) -> None:
        pass


def geomean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def test_a_model_that_reasons_beats_chance(tmp_path: Path) -> None:
    ratios = []
    for shape, seed in zip(SHAPES, SEEDS, strict=True):
        contest = Contest(shape, tmp_path)
        fallback = RandomProposer(contest.space)
        guided, stats = contest.guided(served(engineer, seed=seed), fallback, seed, share=0.0)
        assert stats.fallback_rate < 0.4
        ratios.append(guided / contest.alone(fallback, seed))
    assert geomean(ratios) < 0.92


def test_a_model_that_draws_is_no_better_than_chance(tmp_path: Path) -> None:
    """The comparison above could fail: it is the reasoning that makes the difference, not the path."""
    ratios = []
    for shape, seed in zip(SHAPES, SEEDS, strict=True):
        contest = Contest(shape, tmp_path)
        fallback = RandomProposer(contest.space)
        guided, _ = contest.guided(served(chance, seed=seed), fallback, seed, share=0.0)
        ratios.append(guided / contest.alone(fallback, seed))
    assert geomean(ratios) > 0.9


@pytest.mark.nightly
def test_a_model_that_talks_nonsense_costs_the_expert_little(tmp_path: Path) -> None:
    ratios = []
    for shape, seed in zip(SHAPES, SEEDS, strict=True):
        contest = Contest(shape, tmp_path)
        fallback = Expert(contest.space, MACHINE)
        guided, stats = contest.guided(served(nonsense, seed=seed), fallback, seed, share=0.5)
        assert stats.fallback_rate > 0.9
        ratios.append(guided / contest.alone(Expert(contest.space, MACHINE), seed))
    assert geomean(ratios) < 1.1

"""Proposals under way while other things happen, with a proposer that is slow when a test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from reasoning_compiler.core.errors import JournalError, LLMSetupError
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.proposer.llm.metered import LLMStats
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import RandomProposer, mutate
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.session.thinking import Thinker
from toy_space import Blind, ToySpace, each, measure


class Slow:
    """A proposer that answers when it is let: each call waits for a permit, if there is a gate.

    Args:
        answer: what it says; by default a change by chance.
        gate: whether calls wait to be let through.
    """

    name = "llm"

    def __init__(self, answer: Callable[[Context, int, np.random.Generator], Any] | None = None, *, gate: bool = False):
        self.answer = answer or self._by_chance
        self.permits = threading.Semaphore(0 if gate else 10**6)
        self.asked: list[Context] = []
        self.num_answered = self.num_calls = 0
        self.most_at_once = self._at_once = 0
        self.closed = False
        self.calls = True  # whether an answer counts as a call
        self._lock = threading.Lock()
        self.model = self

    @property
    def stats(self) -> LLMStats:
        return LLMStats("slow", calls=self.num_calls)

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        with self._lock:
            self.asked.append(context)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            while not self.permits.acquire(timeout=0.02):
                if self.closed:
                    break
            proposal = self.answer(context, num, rng)
            self.num_calls += self.calls
            return proposal
        finally:
            with self._lock:
                self._at_once -= 1
                self.num_answered += 1

    def close(self) -> None:
        self.closed = True

    def _by_chance(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        if context.node.program.is_untuned:
            return Proposal("llm", "", RandomProposer(ToySpace()).propose(context, num, rng).transformations)
        drawn = (mutate(context.table, rng) for _ in range(num))
        return Proposal("llm", "", tuple(t for t in drawn if t is not None))


class Rig:
    """A search, a thinker over it, and what was refused."""

    def __init__(self, proposer: Slow, *, filler: bool = True, most: int = 12, **options: Any) -> None:
        self.refused: list[tuple[int, str, Transformation | None, str]] = []
        space = ToySpace()
        expert = RandomProposer(space)
        self.search = TreeSearch(
            space,
            expert,
            Blind(),
            fallback=expert,
            fillers=("random",),
            on_expanded=each(id, lambda *event: self.refused.append(event)),
        )
        given = {"concurrency": 3, "children": 4} | options
        self.clock = PhaseTimer()
        given |= {"filler": expert if filler else None, "max_filled": most, "clock": self.clock}
        self.thinker = Thinker(self.search, proposer, **given)

    def round(self, num: int = 4) -> list[str]:
        """Measures one batch and returns who proposed it."""
        batch = self.thinker.ask(num)
        self.search.tell([(step.node, measure(step)) for step in batch])
        return [step.proposer for step in batch]

    @property
    def num_pending(self) -> int:
        return sum(node.pending for node in self.search.tree.nodes)


@pytest.fixture
def close() -> Any:
    rigs: list[Rig] = []
    yield rigs.append
    for rig in rigs:
        rig.thinker.close(at_rest=False)
        assert rig.num_pending == 0
        assert all(node.unobserved == 0 for node in rig.search.tree.nodes)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_hardware_has_work_while_the_model_thinks(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow)
    close(rig)
    assert rig.round() == ["random"] * 4 and rig.round() == ["random"] * 4
    assert not rig.clock.take()
    until(lambda: len(slow.asked) == 3)
    assert slow.num_answered == 0


def test_the_filler_leaves_the_model_its_share(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow, most=8)
    close(rig)
    assert [rig.round() for _ in range(2)] == [["random"] * 4] * 2
    threading.Timer(0.2, lambda: slow.permits.release(100)).start()
    assert "llm" in rig.round()
    assert rig.clock.take()["wait for the model"] > 0.1


def test_without_a_filler_it_waits(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow, filler=False)
    close(rig)
    threading.Timer(0.1, lambda: slow.permits.release(100)).start()
    assert rig.round() == ["llm"] * 4


def test_only_what_has_been_measured_is_asked_about_and_once_at_a_time(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow)
    close(rig)
    for _ in range(3):
        rig.thinker.ask(1)  # never measured
    until(lambda: len(slow.asked) == 1)
    assert [context.node.node for context in slow.asked] == [0]
    rig.search.tell([(step.node, measure(step)) for step in rig.thinker.ask(4)])
    rig.thinker.tend()
    until(lambda: len(slow.asked) == 3)
    under_way = [context.node for context in slow.asked]
    assert len({node.node for node in under_way}) == 3
    assert all(node.measurement is not None for node in under_way[1:])


def test_answers_that_come_late_are_taken_in(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow, most=100)
    close(rig)
    for _ in range(4):
        rig.round()
    assert not any(node.step.proposer == "llm" for node in rig.search.tree.nodes)
    slow.permits.release(3)
    until(lambda: slow.num_answered == 3)
    rig.thinker.tend()
    assert {node.step.proposer for node in rig.search.tree.nodes} >= {"llm"}
    assert "llm" in rig.round()


def test_at_the_end_what_has_come_back_is_kept_and_the_rest_forgotten(close: Any) -> None:
    slow = Slow(gate=True)
    rig = Rig(slow)
    for _ in range(2):
        rig.round()
    until(lambda: len(slow.asked) == 3)
    slow.permits.release(1)
    until(lambda: slow.num_answered == 1)
    time.sleep(0.05)
    assert rig.num_pending > 0
    rig.thinker.close(at_rest=True)
    assert slow.closed and rig.num_pending == 0
    assert any(node.step.proposer == "llm" for node in rig.search.tree.nodes)
    assert slow.num_answered == 3, "the threads have come back"


def test_a_proposer_that_fails_costs_an_answer_and_not_the_run(close: Any) -> None:
    def fail(context: Context, num: int, rng: np.random.Generator) -> Proposal:
        raise ZeroDivisionError("by sk-abcdefghijklmnop")

    rig = Rig(Slow(fail), filler=False)
    close(rig)
    assert rig.round() == ["random"] * 4
    assert (0, "llm", None, "the proposer failed with ZeroDivisionError: by [key]") in rig.refused


def test_some_failures_among_good_answers(close: Any) -> None:
    slow = Slow()

    def fail_sometimes(context: Context, num: int, rng: np.random.Generator) -> Proposal:
        if len(slow.asked) % 3 == 0:
            raise RuntimeError("now and then")
        return slow._by_chance(context, num, rng)

    slow.answer = fail_sometimes
    rig = Rig(slow)
    close(rig)
    for _ in range(8):
        assert len(rig.round()) == 4
    assert any("now and then" in why for *_, why in rig.refused)
    assert sum(node.step.proposer == "llm" for node in rig.search.tree.nodes) > 8


@pytest.mark.parametrize("error", [LLMSetupError("no such model"), JournalError("the disk is full")])
def test_what_no_later_call_mends_ends_the_run_before_it_measures(close: Any, error: Exception) -> None:
    def fail(context: Context, num: int, rng: np.random.Generator) -> Proposal:
        raise error

    rig = Rig(Slow(fail))
    close(rig)
    with pytest.raises(type(error), match=str(error)):
        rig.thinker.first_look()
    assert rig.search.num_samples == 0


def test_the_first_look_does_not_wait_for_a_slow_model(close: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoning_compiler.session.thinking._FIRST_LOOK_SECS", 0.1)
    rig = Rig(Slow(gate=True))
    close(rig)
    started = time.perf_counter()
    rig.thinker.first_look()  # the model never answers
    assert time.perf_counter() - started > 0.05
    assert len(rig.thinker._under_way) == 1


def test_the_first_look_goes_on_until_the_model_is_asked(close: Any) -> None:
    """The paper's preset draws the first nodes at random: its model is asked later, but before anything is measured."""

    def ask_at_depth_2(context: Context, num: int, rng: np.random.Generator) -> Proposal:
        if len(context.lineage) > 2:
            raise LLMSetupError("no such model")
        return slow._by_chance(context, num, rng)

    slow = Slow(ask_at_depth_2)
    slow.calls = False
    rig = Rig(slow, filler=False, concurrency=1, settled=False)
    close(rig)
    with pytest.raises(LLMSetupError):
        rig.thinker.first_look()


def test_many_rounds_leave_nothing_behind(close: Any) -> None:
    slow = Slow()
    rig = Rig(slow, concurrency=4)
    close(rig)
    rng = np.random.default_rng(0)
    slow.answer = lambda context, num, r: (time.sleep(float(rng.random()) * 0.01), slow._by_chance(context, num, r))[1]
    while rig.search.num_samples < 120:
        assert rig.round(3)
        rig.thinker.tend()
        under_way = sum(node.pending for node in rig.search.tree.nodes)
        assert (under_way > 0) == (len(rig.thinker._under_way) > 0)
    assert slow.most_at_once > 1
    nodes = rig.search.tree.nodes
    assert len({node.step.program for node in nodes}) == len(nodes)

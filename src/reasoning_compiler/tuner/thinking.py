"""Proposals under way while other things happen: a slow model thinks, the hardware measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.records import Proposal, Step
from reasoning_compiler.search.search import Expansion, TreeSearch

_FIRST_LOOK_SECS = 2.0  # a refused key or an unknown model shows within this time, before anything is measured


class Thinker:
    """Asks a slow proposer for several nodes at once, and a quick one when there is nothing left to measure.

    Nodes that wait for an answer count as visited without reward (virtual loss), so the next question goes
    elsewhere. What comes back is taken in between two batches of measurements, in the order of asking.

    Args:
        search: which nodes to expand, and where the answers go.
        proposer: the slow one; called from threads.
        concurrency: nodes under way at once.
        children: transformations asked for at once.
        stand_in: the quick one; None to wait instead.
        stand_in_share: most of the programs asked for that may be the stand-in's, in [0, 1).
    """

    def __init__(
        self,
        search: TreeSearch,
        proposer: Proposer,
        *,
        concurrency: int,
        children: int,
        stand_in: Proposer | None,
        stand_in_share: float,
    ) -> None:
        self._search, self._proposer = search, proposer
        self._concurrency, self._children = concurrency, children
        self._stand_in, self._stand_in_share = stand_in, stand_in_share
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="proposer")
        self._under_way: list[tuple[Expansion, Future[Proposal]]] = []
        self._num_asked = 0
        self._num_stood_in = 0
        self.waited_secs = 0.0

    def first_look(self) -> None:
        """Starts thinking, and raises at once what shows at once that the model cannot be used."""
        self._start()
        wait([future for _, future in self._under_way], timeout=_FIRST_LOOK_SECS, return_when=FIRST_COMPLETED)
        self._take_in()

    def ask(self, num: int) -> list[Step]:
        """Returns up to `num` programs to be measured; waits for the proposer only where nothing else can be done."""
        self._take_in()
        self._start()
        while self._search.num_waiting < num and (self._fill() or self._wait()):
            self._take_in()
            self._start()
        picked = self._search.pick(num)
        self._start()
        self._num_asked += len(picked)
        stand_in = self._stand_in.name if self._stand_in else None
        self._num_stood_in += sum(step.proposer == stand_in for step in picked)
        return picked

    def close(self) -> None:
        """Forgets what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while len(self._under_way) < self._concurrency:
            expansion = self._search.next_expansion(max_num=self._children)
            if expansion is None:
                return
            call: Callable[..., Proposal] = self._proposer.propose
            future = self._pool.submit(call, expansion.context, expansion.num, self._search.draws(expansion))
            self._under_way.append((expansion, future))

    def _take_in(self) -> None:
        done = [entry for entry in self._under_way if entry[1].done()]
        self._under_way = [entry for entry in self._under_way if not entry[1].done()]
        for expansion, future in done:
            self._search.expand(expansion, future.result())

    def _fill(self) -> bool:
        """Lets the stand-in expand one node; returns whether there is more to try."""
        if self._stand_in is None or self._num_stood_in > self._stand_in_share * (self._num_asked + self._children):
            return False
        expansion = self._search.next_expansion(max_num=self._children)
        if expansion is None:
            return False
        draws = self._search.draws(expansion)
        self._search.expand(expansion, self._stand_in.propose(expansion.context, expansion.num, draws))
        return True

    def _wait(self) -> bool:
        """Waits for the next answer; returns whether there was one to wait for."""
        if not self._under_way:
            return False
        started = time.perf_counter()
        wait([future for _, future in self._under_way], return_when=FIRST_COMPLETED)
        self.waited_secs += time.perf_counter() - started
        return True

"""Proposals under way while other things happen: a slow model thinks, the hardware measures."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reasoning_compiler.core.errors import JournalError, LLMSetupError
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.steps import Proposal, Step
from reasoning_compiler.proposer.llm.metered import ModelProposer
from reasoning_compiler.proposer.llm.scrub import Scrubber
from reasoning_compiler.proposer.llm.values import clip
from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.search.protocol import Expansion
from reasoning_compiler.search.search import TreeSearch

_FIRST_LOOK_SECS = 2.0  # a refused key or an unknown model shows within this time, before anything is measured
_FIRST_LOOK_EXPANSIONS = 16  # the paper's preset draws its first nodes at random
_MAX_WHY_CHARS = 300
_CLOSE_SECS = 5.0  # for threads to come back whose calls have ended


class Thinker:
    """Asks a slow proposer for several nodes at once, and a quick one when there is nothing left to measure.

    Nodes for which answers are under way count as visited (virtual loss), so the next question goes elsewhere. What
    comes back is taken in where the search is at rest: before a batch is asked for, and between two measurements.
    An answer that cannot be had, for whatever reason, is a refused one; the search then has its fallback propose.

    Args:
        search: which nodes to expand, and where the answers go.
        proposer: the slow one; called from threads.
        concurrency: nodes under way at once.
        children: transformations asked for at once.
        filler: the quick one; None to wait instead.
        max_filled: most of the programs picked that may be the stand-in's. It may use them all while the first
            answers are under way: later, more of them come at once.
        settled: ask only about programs that have been measured, one question about each at a time; otherwise about
            any, and for as many programs more than are measured as the search's configuration says.
        clock: counts the time that is spent waiting as the stage "wait for the model".
    """

    def __init__(
        self,
        search: TreeSearch,
        proposer: ModelProposer,
        *,
        concurrency: int,
        children: int,
        filler: Proposer | None,
        max_filled: int,
        settled: bool = True,
        clock: PhaseTimer,
    ) -> None:
        self._search, self._proposer = search, proposer
        self._concurrency, self._children = concurrency, children
        self._filler, self._max_filled = filler, max_filled
        self._settled = settled
        self._clock = clock
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="proposer")
        self._under_way: list[tuple[Expansion, Future[Proposal]]] = []
        self._num_filled = 0

    def first_look(self) -> None:
        """Starts thinking, and raises at once what shows at once that the model cannot be used.

        Raises:
            LLMSetupError: the key is refused, or there is no such model.
        """
        until = time.perf_counter() + _FIRST_LOOK_SECS
        for _ in range(_FIRST_LOOK_EXPANSIONS):
            self.tend()
            left = until - time.perf_counter()
            if self._proposer.model.stats.calls or left <= 0 or not self._under_way:
                return
            wait([future for _, future in self._under_way], timeout=left, return_when=FIRST_COMPLETED)

    def ask(self, num: int) -> list[Step]:
        """Returns up to `num` programs to be measured; waits for the proposer only where nothing else can be done.

        Raises:
            LLMSetupError: no call to the model can succeed, and none has.
            JournalError: what the model said could not be written.
        """
        self.tend()
        while self._wants_more(num) and (self._fill() or self._wait()):
            self.tend()
        picked = self._search.pick(num)
        filler = self._filler.name if self._filler else None
        self._num_filled += sum(step.proposer == filler for step in picked)
        return picked

    def tend(self) -> None:
        """Takes in what has come back, and asks anew; to be called when the search is at rest. Raises as `ask`."""
        self._take_in()
        while len(self._under_way) < self._concurrency:
            expansion = self._search.next_expansion(max_num=self._children, settled=self._settled)
            if expansion is None:
                return
            draws = self._search.draws(expansion)
            future = self._pool.submit(self._proposer.propose, expansion.context, expansion.num, draws)
            self._under_way.append((expansion, future))

    def close(self, *, at_rest: bool) -> None:
        """Ends the calls under way, and forgets for which nodes they were.

        Args:
            at_rest: the search is, so what has come back by now can be taken in.
        """
        if at_rest:
            self._take_in()
        self._proposer.model.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait([future for _, future in self._under_way], timeout=_CLOSE_SECS)
        for expansion, _ in self._under_way:
            self._search.forget(expansion)
        self._under_way = []

    def _wants_more(self, num: int) -> bool:
        return self._search.num_waiting < num if self._settled else self._search.wants_more(num)

    def _take_in(self) -> None:
        for expansion, future in [entry for entry in self._under_way if entry[1].done()]:
            try:
                proposal, said = future.result(), {}
            except (LLMSetupError, JournalError):
                raise
            except Exception as error:  # whatever is wrong with a proposer, the run goes on without it
                why = f"the proposer failed with {type(error).__name__}: {error}"
                proposal = Proposal(self._proposer.name, "", ())
                said = {"why_empty": Scrubber().scrub(clip(why, _MAX_WHY_CHARS))}
            self._under_way.remove((expansion, future))
            self._search.expand(expansion, proposal, **said)

    def _fill(self) -> bool:
        """Lets the stand-in expand one node; returns whether there is more to try."""
        if self._filler is None or self._num_filled >= self._max_filled:
            return False
        expansion = self._search.next_expansion(max_num=self._children)
        if expansion is None:
            return False
        draws = self._search.draws(expansion)
        self._search.expand(expansion, self._filler.propose(expansion.context, expansion.num, draws))
        return True

    def _wait(self) -> bool:
        """Waits for the next answer; returns whether there was one to wait for."""
        if not self._under_way:
            return False
        with self._clock.stage("wait for the model"):
            wait([future for _, future in self._under_way], return_when=FIRST_COMPLETED)
        return True

"""The search: ask it for programs worth measuring, tell it what they cost.

One round is the paper's (section 3): select a node by UCT, let a proposer expand it, predict the children, pass the
value back to the root. It differs where the paper leaves the hardware out: what was measured replaces what was
predicted, all over the tree. The search knows no TVM, no model and no clock; spaces, proposers and predictors are
given to it, and everything that it does is an event that a journal can keep and `replay` can repeat.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from reasoning_compiler.errors import IllegalProgramError
from reasoning_compiler.proposer.protocol import Context, Proposer, Rejection
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.records import (
    UNTUNED,
    Decision,
    Measurement,
    Program,
    Proposal,
    Step,
    Transformation,
)
from reasoning_compiler.rng import stream
from reasoning_compiler.search.tree import Node, Tree

_MAX_REJECTIONS = 12  # of one node, before it is given up
_REFRESHED = 1024  # unmeasured programs, best first, whose prediction follows every new measurement


class SearchSpace(Protocol):
    """What the search needs of a space."""

    def table(self, program: Program) -> tuple[Decision, ...]:
        """Returns a program's decisions."""
        ...

    def edit(self, program: Program, transformation: Transformation) -> Program:
        """Returns the program that a transformation leads to, or raises IllegalProgramError."""
        ...


Rank = tuple[bool, float]
"""Whether a stand-in proposed a program, and its predicted seconds."""

Known = tuple[Program, float]
"""A measured program and its latency in seconds."""


class Predictor(Protocol):
    """What the search needs of a surrogate."""

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> Sequence[float | None]:
        """Returns predicted latencies in seconds; None where nothing can be said.

        Args:
            programs: to be predicted.
            anchors: for each, its nearest measured ancestor, or None.
        """
        ...

    def learn(self, known: Sequence[Known]) -> None:
        """Takes in all measured programs so far."""
        ...


@dataclass(frozen=True)
class SearchConfig:
    """How the search searches.

    Args:
        exploration: UCT's constant c.
        branching: most children of a node.
        root_branching: most children of the untuned program: whole programs to start from.
        nodes_per_sample: programs proposed and predicted for each one that is measured.
        explore_share: share of the measured programs that is drawn blindly from the proposed ones.
        rollout_depth: random transformations after a new node, at whose end the surrogate is asked for the node's
            value; 0 asks it about the node itself.
        measured_feedback: whether measurements replace predictions in the tree.
    """

    exploration: float = math.sqrt(2)
    branching: int = 2
    root_branching: int = 8
    nodes_per_sample: int = 4
    explore_share: float = 0.1
    rollout_depth: int = 0
    measured_feedback: bool = True


@dataclass(frozen=True)
class Expansion:
    """A node waiting for a proposal: what `next_expansion` hands out and `expand` takes back."""

    node: int
    num: int
    context: Context
    draw: int


class TreeSearch:
    """Monte Carlo tree search over programs.

    Args:
        space: makes programs of transformations.
        proposer: proposes transformations.
        predictor: the surrogate.
        fallback: takes a node for which the proposer had nothing legal; None for a random decision.
        stand_ins: names of proposers that only fill in; their programs are measured when no others wait.
        config: see `SearchConfig`.
        seed: of every random draw.
        max_samples: the run's budget of measurements, told to proposers; None where there is none.
        on_node: is called with each new node.
        on_rejected: is called with the node's number, the proposer, the refused transformation (None where it
            proposed nothing) and why.
    """

    def __init__(
        self,
        space: SearchSpace,
        proposer: Proposer,
        predictor: Predictor,
        *,
        fallback: Proposer | None = None,
        stand_ins: Collection[str] = (),
        config: SearchConfig | None = None,
        seed: int = 0,
        max_samples: int | None = None,
        on_node: Callable[[Step], None] = lambda step: None,
        on_rejected: Callable[[int, str, Transformation | None, str], None] = lambda node, proposer, t, why: None,
    ) -> None:
        self.config = config or SearchConfig()
        self._space, self._proposer, self._predictor, self._fallback = space, proposer, predictor, fallback
        self._seed, self._max_samples = seed, max_samples
        self._on_node, self._on_rejected = on_node, on_rejected
        self._stand_ins = frozenset(stand_ins)
        self.tree = Tree(
            Step(0, None, UNTUNED),
            exploration=self.config.exploration,
            branching=self.config.branching,
            root_branching=self.config.root_branching,
        )
        self._node_of: dict[Program, int] = {UNTUNED: 0}
        self._rejected: dict[int, list[Rejection]] = {}
        self._measured: list[int] = []
        self._asked: set[int] = {0}
        self._num_asked = 0
        self._num_batches = 0
        self._best: int | None = None
        self._waiting: list[tuple[Rank, int]] = []  # a heap; stale entries are skipped
        self._unasked: list[int] = []

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def best(self) -> Step | None:
        """The fastest verified program so far; None before there is one."""
        return None if self._best is None else self.tree.nodes[self._best].step

    @property
    def num_samples(self) -> int:
        """Measured programs, the untuned one not counted."""
        return sum(1 for number in self._measured if number)

    @property
    def num_waiting(self) -> int:
        """Proposed programs that nobody has asked for yet."""
        return len(self._unasked)

    @property
    def best_speed(self) -> float:
        """The speed, in 1/s, that is a reward of 1: the best measured, or predicted before that."""
        if self.best is not None and self.best.measurement is not None:
            return 1.0 / self.best.measurement.latency_secs
        return max((node.value for node in self.tree.nodes), default=0.0)

    # -- ask and tell ---------------------------------------------------------------------------------------------

    def ask(self, num: int) -> list[Step]:
        """Returns up to `num` programs to be measured; fewer, or none, when there is nothing left to try."""
        while self.wants_more(num):
            expansion = self.next_expansion()
            if expansion is None:
                break
            self.expand(expansion, self._proposer.propose(expansion.context, expansion.num, self.draws(expansion)))
        return self.pick(num)

    def tell(self, results: Iterable[tuple[int, Measurement]]) -> None:
        """Takes in the measurements of a batch, by node, and refreshes what they change."""
        for number, measurement in results:
            node = self.tree.nodes[number]
            node.step = replace(node.step, measurement=measurement)
            self._asked.add(number)
            self._measured.append(number)
            if measurement.ok:
                if number == 0 or self.config.measured_feedback:
                    self.tree.revalue(number, 1.0 / measurement.latency_secs)
                self._crown(number)
            else:
                node.full = True  # nothing grows from a program that does not work
                self.tree.revalue(number, 0.0)
        self._predictor.learn(self._known())
        self._refresh()

    def wants_more(self, num: int) -> bool:
        """Tells whether more nodes are wanted before `num` further programs are picked."""
        wanted = 1 + self.config.nodes_per_sample * (self._num_asked + num)
        return len(self.tree) < wanted

    def next_expansion(self, *, max_num: int | None = None) -> Expansion | None:
        """Returns the next node to be expanded, marked as under way; None if the whole tree is full.

        Args:
            max_num: most children to ask for; None for as many as the node has room for.
        """
        number = self.tree.select(self.best_speed)
        if number is None:
            return None
        node = self.tree.nodes[number]
        num = min(self.tree.room(number), max_num or self.tree.room(number))
        node.pending += num
        return Expansion(number, num, self._context(number), len(node.children) + node.rejections)

    def draws(self, expansion: Expansion):
        """Returns the random stream of an expansion, the same whenever it is repeated."""
        return stream(self._seed, "expand", expansion.node, expansion.draw)

    def expand(self, expansion: Expansion, proposal: Proposal) -> list[Step]:
        """Returns the nodes that a proposal adds; what is illegal or known already is refused and counted."""
        self.tree.nodes[expansion.node].pending -= expansion.num
        added = self._adopt(expansion, proposal)
        if not added and self._fallback is not None:
            added = self._adopt(
                expansion, self._fallback.propose(expansion.context, expansion.num, self.draws(expansion))
            )
        return added or self._adopt(expansion, self._random(expansion))

    def pick(self, num: int) -> list[Step]:
        """Returns up to `num` unmeasured programs, the most promising first, some of them drawn blindly."""
        rng = stream(self._seed, "pick", self._num_batches)
        picked: list[Step] = []
        while len(picked) < num and self._unasked:
            blind = rng.random() < self.config.explore_share
            number = self._unasked[int(rng.integers(len(self._unasked)))] if blind else self._most_promising()
            self._mark_asked(number)
            picked.append(self.tree.nodes[number].step)
        if picked:
            self._num_batches += 1
        return picked

    def replay(self, nodes: Iterable[Step], rejected: Iterable[tuple[int, Transformation | None, str]]) -> None:
        """Adds nodes and rejections from a journal, as they were, without asking any proposer or predictor."""
        for step in nodes:
            self._insert(replace(step, measurement=None))
        for number, transformation, why in rejected:
            self._remember_refusal(number, transformation, why)

    def replay_asked(self, numbers: Sequence[int]) -> None:
        """Marks a batch from a journal as asked for."""
        for number in numbers:
            self._mark_asked(number)
        self._num_batches += 1

    # -- inside -----------------------------------------------------------------------------------------------------

    def _adopt(self, expansion: Expansion, proposal: Proposal) -> list[Step]:
        node = self.tree.nodes[expansion.node]
        children: list[Step] = []
        for transformation in proposal.transformations:
            if not self.tree.room(expansion.node) or len(children) >= expansion.num:
                break
            who = transformation.proposer or proposal.proposer
            try:
                program = self._space.edit(node.step.program, transformation)
            except IllegalProgramError as error:
                self._refuse(expansion.node, who, transformation, str(error))
                continue
            if program in self._node_of:
                why = f"the same program as node {self._node_of[program]}"
                self._refuse(expansion.node, who, transformation, why)
                continue
            step = Step(
                len(self.tree),
                expansion.node,
                program,
                transformation,
                who,
                transformation.reasoning or proposal.reasoning,
                self._predict_one(program, expansion.node),
            )
            self._insert(step)
            self._on_node(step)
            children.append(step)
        if not proposal.transformations:
            self._refuse(expansion.node, proposal.proposer, None, "nothing was proposed")
        return children

    def _insert(self, step: Step) -> None:
        speed = 1.0 / step.predicted_secs if step.predicted_secs else self._speed_of_parent(step)
        self.tree.add(step, speed)
        self._node_of[step.program] = step.node
        self._unasked.append(step.node)
        heapq.heappush(self._waiting, (self._rank(step), step.node))

    def _speed_of_parent(self, step: Step) -> float:
        return self.tree.nodes[step.parent or 0].value

    def _predict_one(self, program: Program, parent: int) -> float | None:
        if self.config.rollout_depth:
            program = self._roll_out(program, parent)
        return self._predictor.predict([program], [self._anchor(parent)])[0]

    def _roll_out(self, program: Program, parent: int) -> Program:
        rng = stream(self._seed, "rollout", len(self.tree), parent)
        for _ in range(self.config.rollout_depth):
            transformation = mutate(self._space.table(program), rng)
            if transformation is None:
                break
            try:
                program = self._space.edit(program, transformation)
            except IllegalProgramError:
                break
        return program

    def _random(self, expansion: Expansion) -> Proposal:
        rng = stream(self._seed, "fallback", expansion.node, expansion.draw)
        drawn = (mutate(expansion.context.table, rng) for _ in range(2 * expansion.num))
        return Proposal("random", "A random change, as nothing proposed was legal and new.", tuple(t for t in drawn if t))

    def _refuse(self, number: int, proposer: str, transformation: Transformation | None, why: str) -> None:
        self._remember_refusal(number, transformation, why)
        self._on_rejected(number, proposer, transformation, why)

    def _remember_refusal(self, number: int, transformation: Transformation | None, why: str) -> None:
        node = self.tree.nodes[number]
        node.rejections += 1
        node.full = node.full or node.rejections >= _MAX_REJECTIONS
        if transformation is not None:
            self._rejected.setdefault(number, []).append(Rejection(transformation, why))

    def _context(self, number: int) -> Context:
        nodes = self.tree.path(number)
        return Context(
            lineage=tuple(node.step for node in nodes),
            table=self._space.table(nodes[0].step.program),
            children=tuple(self.tree.nodes[c].step for c in nodes[0].children),
            best=self.best,
            measured=tuple(self.tree.nodes[m].step for m in self._measured),
            rejected=tuple(self._rejected.get(number, ())),
            num_samples=self.num_samples,
            max_samples=self._max_samples,
        )

    def _anchor(self, number: int) -> Known | None:
        """Returns the nearest measured program from a node upwards, the untuned one left out."""
        for node in self.tree.path(number):
            if node.step.node and node.step.measurement is not None and node.step.measurement.ok:
                return node.step.program, node.step.measurement.latency_secs
        return None

    def _known(self) -> list[Known]:
        steps = (self.tree.nodes[m].step for m in self._measured if m)
        return [(s.program, s.measurement.latency_secs) for s in steps if s.measurement and s.measurement.ok]

    def _crown(self, number: int) -> None:
        measurement = self.tree.nodes[number].step.measurement
        if number == 0 or measurement is None or measurement.cut or not measurement.verified:
            return
        best = self.best.measurement if self.best else None
        if best is None or measurement.latency_secs < best.latency_secs:
            self._best = number

    def _refresh(self) -> None:
        """Predicts the most promising unmeasured programs anew and passes the changes up the tree."""
        numbers: list[int] = []
        while self._waiting and len(numbers) < _REFRESHED:
            _, number = heapq.heappop(self._waiting)
            if number not in self._asked and number not in numbers[-1:]:
                numbers.append(number)
        numbers = list(dict.fromkeys(numbers))
        nodes = [self.tree.nodes[n] for n in numbers]
        anchors = [self._anchor(n.step.parent or 0) for n in nodes]
        predictions = self._predictor.predict([n.step.program for n in nodes], anchors) if nodes else []
        for node, secs in zip(nodes, predictions, strict=True):
            self._revise(node, secs)

    def _revise(self, node: Node, secs: float | None) -> None:
        if secs is not None and not self.config.rollout_depth:
            node.step = replace(node.step, predicted_secs=secs)
            self.tree.revalue(node.step.node, 1.0 / secs)
        heapq.heappush(self._waiting, (self._rank(node.step), node.step.node))

    def _most_promising(self) -> int:
        while True:
            rank, number = heapq.heappop(self._waiting)
            if number not in self._asked and rank == self._rank(self.tree.nodes[number].step):
                return number

    def _mark_asked(self, number: int) -> None:
        if number in self._asked:
            return
        self._asked.add(number)
        self._unasked.remove(number)
        self._num_asked += 1

    def _rank(self, step: Step) -> Rank:
        """Returns a key that sorts the most promising program first: a stand-in's come after the proposer's own."""
        secs = math.inf if step.predicted_secs is None else step.predicted_secs
        return step.proposer in self._stand_ins, secs

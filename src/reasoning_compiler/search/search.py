"""The search: ask it for programs worth measuring, tell it what they cost.

One round is the paper's (section 3): select a node by UCT, let a proposer expand it, predict the children, pass the
value back to the root. It differs where the paper leaves the hardware out: what was measured replaces what was
predicted, all over the tree. The search knows no TVM, no model and no clock; spaces, proposers and predictors are
given to it, and everything that it does is an event that a journal can keep and `replay` can repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Known, Proposal, Step
from reasoning_compiler.proposer.protocol import SAME_PROGRAM, Context, Proposer, ProposerSpace, Rejection
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.search.predictions import Predictions
from reasoning_compiler.search.protocol import Expansion, OnExpanded, Predictor, Refused
from reasoning_compiler.search.tree import Tree
from reasoning_compiler.search.waiting import Waiting

_MAX_REJECTIONS = 12  # of one node, before it is given up
_NOTHING = "nothing was proposed"
_NEWEST_TOLD = 16
_MAX_LOSSES = 3  # devices lost over one program, before it is asked for no more
_REFRESHED = 1024  # unmeasured programs, best first, whose prediction follows every new measurement


class TreeSearch:
    """Monte Carlo tree search over programs.

    Args:
        space: makes programs of transformations.
        proposer: proposes transformations.
        predictor: the surrogate.
        fallback: takes a node for which the proposer had nothing legal and new; where that has nothing either, or
            for None, decisions are drawn at random.
        fillers: names of proposers that only fill in; their programs are measured when no others wait.
        config: see `SearchConfig`.
        seed: of every random draw.
        max_samples: the run's budget of measurements, told to proposers; None where there is none.
        on_expanded: is called with a node's number, the nodes added below it and what was refused, once an expansion is
            complete: what is cut off before leaves no trace, and is repeated, draw for draw, by a search that replays
            the rest.
    """

    def __init__(
        self,
        space: ProposerSpace,
        proposer: Proposer,
        predictor: Predictor,
        *,
        fallback: Proposer | None = None,
        fillers: Collection[str] = (),
        config: SearchConfig | None = None,
        seed: int = 0,
        max_samples: int | None = None,
        on_expanded: OnExpanded = lambda node, added, refused: None,
    ) -> None:
        self.config = config or SearchConfig()
        self._space, self._proposer, self._predictor, self._fallback = space, proposer, predictor, fallback
        self._seed, self._max_samples = seed, max_samples
        self._on_expanded = on_expanded
        self.tree = Tree(
            Step(0, None, UNTUNED),
            exploration=self.config.exploration,
            branching=self.config.branching,
            root_branching=self.config.root_branching,
        )
        self._predictions = Predictions(space, predictor, self.tree, rollout_depth=self.config.rollout_depth, seed=seed)
        self._node_of: dict[Program, int] = {UNTUNED: 0}
        self._rejected: dict[int, list[Rejection]] = {}
        self._measured: tuple[Step, ...] = ()
        self._known: list[Known] = []
        self._losses: Counter[int] = Counter()
        self._num_batches = 0
        self._best: int | None = None
        self._fastest = 0.0  # the greatest value in the tree, in 1/s; kept up to date until there is a best
        self._waiting = Waiting(fillers)

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def best(self) -> Step | None:
        """The fastest program that was measured in full and verified, the untuned one aside; None without one."""
        return None if self._best is None else self.tree.nodes[self._best].step

    @property
    def num_samples(self) -> int:
        """Measured programs, the untuned one not counted."""
        return len(self._measured) - (self.tree.nodes[0].step.measurement is not None)

    @property
    def num_waiting(self) -> int:
        """Proposed programs that nobody has asked for yet."""
        return len(self._waiting)

    @property
    def best_speed(self) -> float:
        """The speed, in 1/s, that is a reward of 1: the best measured, or the greatest known of before that."""
        if self.best is not None and self.best.measurement is not None:
            return 1.0 / self.best.measurement.latency_secs
        return self._fastest

    # -- ask and tell ---------------------------------------------------------------------------------------------

    def ask(self, num: int) -> list[Step]:
        """Returns up to `num` programs to be measured; fewer, or none, when there is nothing left to try."""
        while missing := self._num_missing(num):
            expansion = self.next_expansion(max_num=max(missing, self.config.branching))
            if expansion is None:
                break
            self.expand(expansion, self._proposer.propose(expansion.context, expansion.num, self.draws(expansion)))
        return self.pick(num)

    def tell(self, results: Iterable[tuple[int, Measurement]]) -> None:
        """Takes in the measurements of a batch, by node, and refreshes what they change.

        A program whose device was lost says nothing of itself: it is asked for again, some times at most, and its node
        stays open.

        Raises:
            ValueError: a node was told of before.
        """
        for number, measurement in results:
            node = self.tree.nodes[number]
            if node.step.measurement is not None:
                raise ValueError(f"node {number} has a measurement already")
            lost = measurement.failure is not None and measurement.failure.kind == "device"
            if lost and number and self._is_asked_again(number):
                continue
            node.step = replace(node.step, measurement=measurement)
            self._waiting.discard(number)
            self._measured = (*self._measured, node.step)
            if lost:
                continue
            if not measurement.ok:
                node.full = node.full or number != 0  # nothing grows from it; whole programs grow from nothing
                self.tree.revalue(number, 0.0)
                continue
            if number:
                self._known.append(Known.of(node.step.program, measurement))
                self._crown(node.step)
            if number == 0 or self.config.measured_feedback or node.step.predicted_secs is None:
                self.tree.revalue(number, _speed(node.step, measurement))
        self._predictor.learn(self._known)
        self._refresh()
        if self._best is None:
            self._fastest = max(node.value for node in self.tree.nodes)

    def _is_asked_again(self, number: int) -> bool:
        """Lets a program wait once more whose device was lost; returns whether it does."""
        self._losses[number] += 1
        if self._losses[number] < _MAX_LOSSES:
            self._waiting.add(self.tree.nodes[number].step)
        return self._losses[number] < _MAX_LOSSES

    def wants_more(self, num: int) -> bool:
        """Tells whether more nodes are wanted before `num` further programs are picked."""
        return self._num_missing(num) > 0

    def _num_missing(self, num: int) -> int:
        num_proposed = len(self.tree) - 1
        num_asked = num_proposed - len(self._waiting)
        return max(0, self.config.nodes_per_sample * (num_asked + num) - num_proposed)

    def next_expansion(self, *, max_num: int | None = None, settled: bool = False) -> Expansion | None:
        """Returns the next node to be expanded, marked as under way until `expand` or `forget`; None if there is none.

        Args:
            max_num: most children to ask for; None for as many as the node has room for.
            settled: leave out nodes of which more will be known soon, see `Tree.select`.
        """
        while (number := self.tree.select(self.best_speed, settled=settled)) is not None:
            node = self.tree.nodes[number]
            try:
                context = self._context(number)
            except IllegalProgramError:  # the space knows better than when it made the program
                node.full = True
                continue
            num = min(self.tree.room(number), max_num or self.tree.room(number))
            draw = len(node.children) + node.rejections + node.pending
            self.tree.expect(number, num)
            return Expansion(number, num, context, draw)
        return None

    def forget(self, expansion: Expansion) -> None:
        """Takes back an expansion for which no proposal will come."""
        self.tree.expect(expansion.node, -expansion.num)

    def draws(self, expansion: Expansion) -> np.random.Generator:
        """Returns the random stream of an expansion, the same whenever it is repeated."""
        return self._stream("expand", expansion)

    def expand(self, expansion: Expansion, proposal: Proposal, *, why_empty: str = _NOTHING) -> list[Step]:
        """Returns the nodes that a proposal adds; what is illegal or known already is refused and counted.

        Args:
            expansion: from `next_expansion`.
            proposal: the answer to it.
            why_empty: why there is none, where it is empty.
        """
        self.forget(expansion)
        refused: list[Refused] = []
        added = self._adopt(expansion, proposal, refused, why_empty=why_empty)
        if not added and self._fallback is not None and self.tree.room(expansion.node):
            rng = self._stream("fallback", expansion)
            context = self._context(expansion.node)  # others may have been at the node in the meantime
            added = self._adopt(expansion, self._fallback.propose(context, expansion.num, rng), refused)
        if not added and self.tree.room(expansion.node):
            added = self._adopt(expansion, self._random(expansion), refused)
        self._on_expanded(expansion.node, added, refused)
        return added

    def pick(self, num: int) -> list[Step]:
        """Returns up to `num` of the waiting programs, the most promising first, but some of them drawn blindly."""
        rng = stream(self._seed, "pick", self._num_batches)
        picked: list[Step] = []
        while len(picked) < num and self._waiting:
            blind = rng.random() < self.config.explore_share
            number = self._waiting.pop_any(rng) if blind else self._waiting.pop_best()
            picked.append(self.tree.nodes[number].step)
        if picked:
            self._num_batches += 1
        return picked

    def replay(self, nodes: Iterable[Step], rejected: Iterable[tuple[int, Transformation | None, str]]) -> None:
        """Adds nodes and rejections from a journal, as they were.

        No proposer is asked. The predictor is, since it scores itself by what it said before a program was measured.
        """
        for step in nodes:
            assert step.parent is not None
            self._predictions.predict(step.program, step.parent)
            self._insert(replace(step, measurement=None))
        for number, transformation, why in rejected:
            self._remember_refusal(number, transformation, why)

    def repeat(self, step: Step) -> None:
        """Adds the next node of another search's tree, as it was proposed there, with a prediction of this one's own.

        Raises:
            IllegalProgramError: the space refuses it here.
        """
        assert step.parent is not None and step.transformation is not None and step.node == len(self.tree)
        program = self._space.edit(self.tree.nodes[step.parent].step.program, step.transformation)
        predicted_secs = self._predictions.predict(program, step.parent)
        step = replace(step, program=program, predicted_secs=predicted_secs, measurement=None)
        self._insert(step)
        self._on_expanded(step.parent, [step], [])

    def repeat_refusal(self, number: int, proposer: str, transformation: Transformation | None, why: str) -> None:
        """Notes what another search refused, as it was."""
        self._remember_refusal(number, transformation, why)
        self._on_expanded(number, [], [(proposer, transformation, why)])

    def pick_these(self, numbers: Sequence[int]) -> list[Step]:
        """Returns programs that wait, as another search picked them."""
        self.replay_asked(numbers)
        return [self.tree.nodes[number].step for number in numbers]

    def replay_asked(self, numbers: Sequence[int]) -> None:
        """Marks a batch from a journal as asked for."""
        for number in numbers:
            self._waiting.discard(number)
        self._num_batches += 1

    # -- inside -----------------------------------------------------------------------------------------------------

    def _adopt(
        self,
        expansion: Expansion,
        proposal: Proposal,
        refused: list[Refused],
        *,
        why_empty: str = _NOTHING,
    ) -> list[Step]:
        """Returns the nodes that a proposal adds, and appends what it refuses of it to `refused`."""
        node = self.tree.nodes[expansion.node]
        children: list[Step] = []

        def refuse(who: str, transformation: Transformation | None, why: str) -> None:
            self._remember_refusal(expansion.node, transformation, why)
            refused.append((who, transformation, why))

        for transformation in proposal.transformations:
            if not self.tree.room(expansion.node) or len(children) >= expansion.num:
                break
            who = transformation.proposer or proposal.proposer
            try:
                program = self._space.edit(node.step.program, transformation)
            except IllegalProgramError as error:
                refuse(who, transformation, str(error))
                continue
            if program in self._node_of:
                refuse(who, transformation, f"{SAME_PROGRAM} node {self._node_of[program]}")
                continue
            step = Step(
                len(self.tree),
                expansion.node,
                program,
                transformation,
                who,
                transformation.reasoning or proposal.reasoning,
                self._predictions.predict(program, expansion.node),
            )
            self._insert(step)
            children.append(step)
        if not proposal.transformations:
            refuse(proposal.proposer, None, why_empty)
        return children

    def _insert(self, step: Step) -> None:
        speed = self._unmeasured_speed(step)
        self.tree.add(step, speed)
        self._fastest = max(self._fastest, speed)
        self._node_of[step.program] = step.node
        self._waiting.add(step)

    def _unmeasured_speed(self, step: Step) -> float:
        """Returns what a program stands for before it is measured, in 1/s: without a prediction, what it comes from."""
        if step.predicted_secs is not None:
            return 1.0 / step.predicted_secs
        above = (n for n in self.tree.path(step.parent or 0) if n.step.measurement or n.step.predicted_secs is not None)
        return next((node.value for node in above), 0.0)

    def _random(self, expansion: Expansion) -> Proposal:
        rng = self._stream("random", expansion)
        drawn = (mutate(expansion.context.table, rng) for _ in range(2 * expansion.num))
        why = "A random change, as nothing proposed was legal and new."
        return Proposal("random", why, tuple(t for t in drawn if t is not None))

    def _stream(self, purpose: str, expansion: Expansion) -> np.random.Generator:
        return stream(self._seed, purpose, expansion.node, expansion.draw)

    def _remember_refusal(self, number: int, transformation: Transformation | None, why: str) -> None:
        node = self.tree.nodes[number]
        node.rejections += 1
        node.full = node.full or node.rejections >= _MAX_REJECTIONS
        if transformation is not None:
            self._rejected.setdefault(number, []).append(Rejection(transformation, why))

    def _context(self, number: int) -> Context:
        node = self.tree.nodes[number]
        newest = reversed(self.tree.nodes[-_NEWEST_TOLD:])
        return Context(
            lineage=tuple(above.step for above in self.tree.path(number)),
            table=self._space.table(node.step.program),
            children=tuple(self.tree.nodes[c].step for c in node.children),
            best=self.best,
            measured=self._measured,
            rejected=tuple(self._rejected.get(number, ())),
            unmeasured=tuple(n.step for n in newest if n.step.measurement is None and not n.step.program.is_untuned),
            num_samples=self.num_samples,
            max_samples=self._max_samples,
        )

    def _crown(self, step: Step) -> None:
        """Makes a program the best if its measurement counts and is faster than the best so far."""
        measurement = step.measurement
        if measurement is not None and measurement.counts:
            best = self.best.measurement if self.best else None
            if best is None or measurement.latency_secs < best.latency_secs:
                self._best = step.node

    def _refresh(self) -> None:
        """Predicts the most promising unmeasured programs anew and passes the changes up the tree."""
        nodes = [self.tree.nodes[number] for number in self._waiting.lift(_REFRESHED)]
        for node, secs in zip(nodes, self._predictions.predict_again(nodes), strict=True):
            if secs is not None:
                node.step = replace(node.step, predicted_secs=secs)
        for node in sorted(nodes, key=lambda node: node.step.node):  # parents first: children may follow them
            self.tree.revalue(node.step.node, self._unmeasured_speed(node.step))
            self._waiting.place(node.step)


def _speed(step: Step, measurement: Measurement) -> float:
    """Returns what a measured program is worth: of one that is only known to be slower than a bound, at most that."""
    secs = measurement.latency_secs
    return 1.0 / (max(secs, step.predicted_secs or 0.0) if measurement.censored else secs)

"""What the surrogate says of the programs in a tree."""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Known
from reasoning_compiler.proposer.protocol import ProposerSpace
from reasoning_compiler.proposer.random import mutate
from reasoning_compiler.search.protocol import Predictor
from reasoning_compiler.search.tree import Node, Tree


class Predictions:
    """Predictions of nodes, each told the nearest measured node above it.

    Args:
        space: makes programs of transformations.
        predictor: the surrogate.
        tree: whose nodes are predicted.
        rollout_depth: see `SearchConfig`.
        seed: of every random draw.
    """

    def __init__(
        self, space: ProposerSpace, predictor: Predictor, tree: Tree, *, rollout_depth: int, seed: int
    ) -> None:
        self._space, self._predictor, self._tree = space, predictor, tree
        self._rollout_depth, self._seed = rollout_depth, seed

    def predict(self, program: Program, parent: int) -> float | None:
        """Returns the prediction for the program that becomes the next node, below a parent."""
        if self._rollout_depth:
            program = self._roll_out(program, parent)
        return self._predictor.predict([program], [self._anchor(parent)])[0]

    def predict_again(self, nodes: Sequence[Node]) -> Sequence[float | None]:
        """Returns new predictions for nodes that are not measured; None where the old one stays, as after a rollout."""
        anchors = [self._anchor(node.step.parent or 0) for node in nodes]
        predicted = self._predictor.predict([node.step.program for node in nodes], anchors)
        return [None] * len(nodes) if self._rollout_depth else predicted

    def _roll_out(self, program: Program, parent: int) -> Program:
        rng = stream(self._seed, "rollout", len(self._tree), parent)
        for _ in range(self._rollout_depth):
            transformation = mutate(self._space.table(program), rng)
            if transformation is None:
                break
            try:
                program = self._space.edit(program, transformation)
            except IllegalProgramError:
                break
        return program

    def _anchor(self, number: int) -> Known | None:
        """Returns the nearest measured program from a node upwards, the untuned one left out."""
        for node in self._tree.path(number):
            if node.step.node and node.step.measurement is not None and node.step.measurement.ok:
                return Known.of(node.step.program, node.step.measurement)
        return None

"""The tree: nodes, upper confidence bounds, and values that follow the truth as it comes in.

A node's value is a speed, 1 / seconds, so that predictions and measurements add up in one unit; it becomes a reward in
[0, 1] only where it is compared, relative to the best speed measured so far. When a better estimate of a node arrives
(its measurement, or a refitted prediction), the difference is passed up to the root. Sums are kept as whole numbers:
then they are exact, whatever the order in which a run and its replay took them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from reasoning_compiler.core.steps import Step

_PARTS = 1 << 32  # of one 1/s, in which sums count


@dataclass
class Node:
    """One program in the tree.

    Args:
        step: the program, its edge and what is known of it.
        visits: nodes at or below it; the root, which is no result of an expansion, does not count.
        total: sum of these nodes' values, in 1/s / 2³².
        value: the speed that the node itself stands for at present, in 1/s.
        children: numbers of its children.
        rejections: proposals for it that were refused.
        pending: children of it that are being proposed.
        unobserved: nodes at or below it that are being proposed.
        full: it takes no more children.
        closed: neither does anything below it.
    """

    step: Step
    visits: int = 0
    total: int = 0
    value: float = 0.0
    children: list[int] = field(default_factory=list)
    rejections: int = 0
    pending: int = 0
    unobserved: int = 0
    full: bool = False
    closed: bool = False

    @property
    def mean(self) -> float:
        """The mean value of the nodes at or below it, in 1/s; 0 for a root without children."""
        return self.total / (self.visits * _PARTS) if self.visits else 0.0


class Tree:
    """A search tree under UCT (Kocsis and Szepesvári, "Bandit based Monte-Carlo planning", 2006).

    Nodes that are being proposed count as visits of their ancestors but not for their means, as in WU-UCT (Liu et al.,
    "Watch the Unobserved", 2020): several proposals may be under way at once, and each looks elsewhere.

    Args:
        root: the untuned program.
        exploration: the constant c of UCT; the paper's is √2.
        branching: most children of a node; the paper's B is 2.
        root_branching: most children of the root, where whole programs are proposed.
    """

    def __init__(self, root: Step, *, exploration: float, branching: int, root_branching: int) -> None:
        self.nodes: list[Node] = [Node(root)]
        self._exploration = exploration
        self._branching, self._root_branching = branching, root_branching

    def __len__(self) -> int:
        return len(self.nodes)

    def room(self, number: int) -> int:
        """Returns how many more children a node may have, those being proposed counted."""
        node = self.nodes[number]
        if node.full:
            return 0
        limit = self._branching if number else self._root_branching
        return max(0, limit - len(node.children) - node.pending)

    def select(self, best_speed: float, *, settled: bool = False) -> int | None:
        """Returns the node to expand next: down from the root by UCT to the first with room; None if there is none.

        Args:
            best_speed: what a reward of 1 is, in 1/s.
            settled: leave out nodes of which more will be known soon: those that wait for their measurement, and
                those for which something is being proposed.
        """
        busy: set[int] = set()  # subtrees without room until something under way comes back
        number = 0
        while not self.room(number) or (settled and not self._is_settled(number)):
            node = self.nodes[number]
            inner = [c for c in node.children if not self.nodes[c].closed and c not in busy]
            if inner:
                number = max(inner, key=lambda child: (self.uct(child, best_speed), -child))
                continue
            full = not self.room(number) and not node.pending
            node.closed = full and all(self.nodes[c].closed for c in node.children)
            busy.add(number)
            if node.step.parent is None:
                return None
            number = node.step.parent
        return number

    def _is_settled(self, number: int) -> bool:
        node = self.nodes[number]
        return not node.pending and (number == 0 or node.step.measurement is not None)

    def uct(self, number: int, best_speed: float) -> float:
        """Returns the upper confidence bound of a node that is not the root: Q/N + c·√(ln N_parent / N)."""
        node = self.nodes[number]
        assert node.step.parent is not None
        parent = self.nodes[node.step.parent]
        visits = node.visits + node.unobserved
        explored = math.log(parent.visits + parent.unobserved) / visits
        return self.reward(node.mean, best_speed) + self._exploration * math.sqrt(explored)

    @staticmethod
    def reward(speed: float, best_speed: float) -> float:
        """Returns a speed as a reward in [0, 1], relative to the best."""
        return min(1.0, speed / best_speed) if best_speed > 0 else 0.0

    def add(self, step: Step, speed: float) -> None:
        """Adds a node below its parent and backpropagates its speed, in 1/s, up to the root."""
        assert step.node == len(self.nodes) and step.parent is not None
        self.nodes.append(Node(step, value=speed))
        self.nodes[step.parent].children.append(step.node)
        parts = _parts(speed)
        for node in self.path(step.node):
            node.visits += 1
            node.total += parts

    def revalue(self, number: int, speed: float) -> None:
        """Replaces the speed that a node stands for, for all its ancestors too."""
        node = self.nodes[number]
        change = _parts(speed) - _parts(node.value)
        node.value = speed
        if change and number:
            for above in self.path(number):
                above.total += change

    def expect(self, number: int, num: int) -> None:
        """Notes that `num` children of a node are being proposed; with a negative `num`, that so many no longer are."""
        self.nodes[number].pending += num
        for node in self.path(number):
            node.unobserved += num

    def path(self, number: int) -> Iterator[Node]:
        """Yields the nodes from a node up to the root, both included."""
        at: int | None = number
        while at is not None:
            node = self.nodes[at]
            yield node
            at = node.step.parent


def _parts(speed: float) -> int:
    return round(speed * _PARTS)

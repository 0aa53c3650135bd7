"""The tree: nodes, upper confidence bounds, and values that follow the truth as it comes in.

A node's value is a speed, 1 / seconds, so that predictions and measurements add up in one unit; it becomes a reward in
[0, 1] only where it is compared, relative to the best speed measured so far. When a better estimate of a node arrives
(its measurement, or a refitted prediction), the difference is passed up to the root, and every mean stays exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reasoning_compiler.records import Step


@dataclass
class Node:
    """One program in the tree.

    Args:
        step: the program, its edge and what is known of it.
        depth: edges to the root.
        visits: expansions that went through it, its own included.
        total: sum of the speeds, in 1/s, that these brought back.
        value: the speed that the node itself stands for at present, in 1/s; part of `total`.
        children: numbers of its children.
        rejections: proposals for it that were refused.
        pending: expansions of it under way.
        full: it takes no more children.
        closed: neither does anything below it.
    """

    step: Step
    depth: int = 0
    visits: int = 0
    total: float = 0.0
    value: float = 0.0
    children: list[int] = field(default_factory=list)
    rejections: int = 0
    pending: int = 0
    full: bool = False
    closed: bool = False


class Tree:
    """A search tree under UCT (Kocsis and Szepesvári, "Bandit based Monte-Carlo planning", 2006).

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
        """Returns how many more children a node may have, those under way counted."""
        node = self.nodes[number]
        if node.full:
            return 0
        limit = self._branching if number else self._root_branching
        return max(0, limit - len(node.children) - node.pending)

    def select(self, best_speed: float) -> int | None:
        """Returns the node to expand next: down from the root by UCT to the first with room; None if there is none.

        Args:
            best_speed: what a reward of 1 is, in 1/s.
        """
        busy: set[int] = set()  # subtrees with room for no one until something under way comes back
        number = 0
        while not self.room(number):
            node = self.nodes[number]
            inner = [c for c in node.children if not self.nodes[c].closed and c not in busy]
            if inner:
                at = number
                number = max(inner, key=lambda c: (self.uct(c, at, best_speed), -c))
                continue
            node.closed = not node.pending and all(self.nodes[c].closed for c in node.children)
            busy.add(number)
            if node.step.parent is None:
                return None
            number = node.step.parent
        return number

    def uct(self, child: int, parent: int, best_speed: float) -> float:
        """Returns a child's upper confidence bound; unvisited children come first."""
        node = self.nodes[child]
        visits = node.visits + node.pending
        if visits == 0:
            return math.inf
        above = max(1, self.nodes[parent].visits + self.nodes[parent].pending)
        bound = self.reward(node.total / visits, best_speed) + self._exploration * math.sqrt(math.log(above) / visits)
        return round(bound, 9)  # sums taken in another order, as after a resume, must not decide between equals

    @staticmethod
    def reward(speed: float, best_speed: float) -> float:
        """Returns a speed as a reward in [0, 1], relative to the best."""
        return min(1.0, speed / best_speed) if best_speed > 0 else 0.0

    def add(self, step: Step, speed: float) -> None:
        """Adds a node below its parent and backpropagates its speed, in 1/s, up to the root."""
        assert step.node == len(self.nodes) and step.parent is not None
        parent = self.nodes[step.parent]
        self.nodes.append(Node(step, depth=parent.depth + 1, value=speed))
        parent.children.append(step.node)
        for node in self.path(step.node):
            node.visits += 1
            node.total += speed

    def revalue(self, number: int, speed: float) -> None:
        """Replaces the speed that a node stands for, for all its ancestors too."""
        node = self.nodes[number]
        change = speed - node.value
        node.value = speed
        if change and number:
            for above in self.path(number):
                above.total += change

    def path(self, number: int) -> list[Node]:
        """Returns the nodes from a node up to the root."""
        nodes = []
        at: int | None = number
        while at is not None:
            nodes.append(self.nodes[at])
            at = self.nodes[at].step.parent
        return nodes

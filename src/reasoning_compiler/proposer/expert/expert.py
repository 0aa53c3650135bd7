"""The expert: what an experienced kernel engineer would try, and why, computed from the analysis of the program.

From the analysis (`cost/analysis.py`) to proposals, with a sentence of reasoning for each:

1. What can be done. `ways.py`: how each block may be treated, with the best sizes of each way, as the rules and the
   cost model know them (`cost/sizing.py`). `sums.py`: sums that could fill the vector lanes.
2. What to try. Of the untuned program `openings.py` makes whole programs (`start.py` tells what the space and the
   analysis say of them), of any other `moves.py` changes single decisions. Both are ideas (`ideas.py`).
3. In which order: by the gain that the analysis sees, by what such changes have brought so far, and by a little
   curiosity.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.proposer.expert.ideas import CURIOSITY, Experience, Idea, varied
from reasoning_compiler.proposer.expert.moves import Moves
from reasoning_compiler.proposer.expert.openings import Openings
from reasoning_compiler.proposer.expert.start import Start
from reasoning_compiler.proposer.expert.sums import SumsInLanes
from reasoning_compiler.proposer.expert.ways import Ways
from reasoning_compiler.proposer.protocol import Context, ProposerSpace
from reasoning_compiler.proposer.random import mutate


class Expert:
    """Proposes from rules and a static analysis; learns which decisions matter from what was measured.

    For the untuned program it opens with the best tilings that the analysis knows, then with other structures.
    For every other program it moves single decisions towards what the analysis and the measurements so far favour.

    Args:
        space: the decisions, and the nests behind them.
        machine: what the program is to run on.
    """

    name = "expert"

    def __init__(self, space: ProposerSpace, machine: Machine) -> None:
        start = Start(space, machine)
        ways, sums = Ways(space, machine, start=start), SumsInLanes(space, machine)
        self._openings = Openings(start=start, ways=ways, sums=sums)
        self._moves = Moves(start=start, ways=ways, sums=sums)

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns up to `num` transformations, best first, each with a sentence of reasoning; see `Proposer`."""
        known = [*(r.transformation for r in context.rejected), *(c.transformation for c in context.children)]
        tried = {_key(t) for t in known if t}
        fresh: list[Transformation] = []
        for idea in self._ideas(context, num, rng):
            if len(fresh) == num:
                break
            if _key(idea) not in tried:
                tried.add(_key(idea))
                fresh.append(idea.transformation)
        return Proposal(self.name, fresh[0].reasoning if fresh else "", tuple(fresh))

    def _ideas(self, context: Context, num: int, rng: np.random.Generator) -> Iterator[Idea]:
        """Yields ideas, best first: what the rules say and, for a program of ours, a few guesses after that."""
        if context.node.program.is_untuned:
            yield from self._openings
        else:
            yield from self._refinements(context, rng)
            for guess in (mutate(context.table, rng) for _ in range(num)):
                if guess is not None:
                    yield Idea(guess.edits, "Nothing left that the rules favour: a random change.")

    def _refinements(self, context: Context, rng: np.random.Generator) -> list[Idea]:
        """Returns ideas for a program, by the analysis' gain, experience with each decision, and a little curiosity."""
        experience = Experience(context.measured)
        ideas = list(self._moves.of(context))
        noise = rng.normal(0.0, CURIOSITY, len(ideas))
        worth = [idea.gain + experience.gain(idea) + n for idea, n in zip(ideas, noise, strict=True)]
        order = sorted(range(len(ideas)), key=lambda i: -worth[i])
        return varied([ideas[i] for i in order])


def _key(change: Idea | Transformation) -> object:
    """Returns what is changed, whatever the order of the edits."""
    return frozenset(change.edits), change.primitives

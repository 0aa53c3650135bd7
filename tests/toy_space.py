"""A space without TVM: five decisions, a landscape that is a hash, and a search over them that records itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Program, TileDomain, Transformation, Value
from reasoning_compiler.core.steps import Known, Proposal, Step
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.proposer.random import RandomProposer, draw
from reasoning_compiler.search.protocol import OnExpanded, Refused
from reasoning_compiler.search.search import TreeSearch

DOMAINS: dict[str, TileDomain | ChoiceDomain] = {
    "C": ChoiceDomain(("plain", "packed")),
    "i tile": TileDomain(24, 2),
    "j tile": TileDomain(64, 3, max_innermost=16),
    "unroll": ChoiceDomain((0, 16, 64)),
    "C at": ChoiceDomain((-1, 0, 2)),
}
_KINDS = {"C": "structure", "unroll": "choice", "C at": "location"}


def unit(*parts: object) -> float:
    """Returns a number in [0, 1) that the parts determine, in every process."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def program(**values: Value) -> Program:
    """Returns the start program with some decisions, named with `_` for spaces, set."""
    new = {name.replace("_", " "): value for name, value in values.items()}
    start: dict[str, Value] = {"C": "plain", "i tile": (24, 1), "j tile": (64, 1, 1), "unroll": 0, "C at": -1}
    all_values = start | new
    return Program((("C", str(all_values.pop("C"))),), tuple(all_values.items()))


def edit(**values: Value) -> Transformation:
    """Returns a transformation that sets some decisions, named with `_` for spaces."""
    return Transformation(tuple((name.replace("_", " "), value) for name, value in values.items()))


class ToySpace:
    """Refuses what the domains do not hold, and a share of the rest by its hash."""

    def __init__(self, illegal_share: float = 0.0) -> None:
        self.start = program()
        self.illegal_share = illegal_share

    def table(self, program: Program) -> tuple[Decision, ...]:
        values = (self.start if program.is_untuned else program).values
        return tuple(Decision(n, _KINDS.get(n, "tile"), domain, values[n]) for n, domain in DOMAINS.items())

    def edit(self, program: Program, transformation: Transformation) -> Program:
        values = dict((self.start if program.is_untuned else program).values)
        for name, value in transformation.edits:
            if name not in DOMAINS:
                raise IllegalProgramError(f"there is no decision `{name}`")
            why = DOMAINS[name].why_not(value)
            if why:
                raise IllegalProgramError(f"`{name}` = {value} {why}")
            values[name] = value
        edited = Program((("C", str(values.pop("C"))),), tuple(values.items()))
        if edited != self.start and unit("illegal", edited.key) < self.illegal_share:
            raise IllegalProgramError("the schedule cannot be applied")
        return edited

    def sample(self, seed: int) -> Program:
        rng = np.random.default_rng(seed)
        values = {name: draw(domain, rng) for name, domain in DOMAINS.items()}
        return Program((("C", str(values.pop("C"))),), tuple(values.items()))


def latency_secs(program: Program) -> float:
    """Returns a rugged landscape: each decision has its own effect, and the whole program one more."""
    slow = 1.0
    for name, value in program.values.items():
        slow *= 0.5 + unit("effect", name, value)
    return 1e-3 * slow * (0.8 + 0.4 * unit("rugged", program.key))


def measure(step: Step, failing_share: float = 0.15) -> Measurement:
    """Returns a latency, or by hash a failure, a cut or an unverified one."""
    chance = unit("measure", step.program.key)
    if chance < failing_share:
        return Measurement(failure=Failure("crash", "by hash"))
    secs = latency_secs(step.program)
    return Measurement(latencies_secs=(secs,), cut=0.15 < chance < 0.2, verified=not 0.15 < chance < 0.25)


class Blind:
    """A predictor that says nothing."""

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        return [None] * len(programs)

    def learn(self, known: Sequence[Known]) -> None:
        self.known = list(known)


class Noisy(Blind):
    """Predicts the truth times a factor that changes with everything learnt and told; for some programs, nothing."""

    def __init__(self) -> None:
        self.known: list[Known] = []
        self.said: list[tuple[str, int]] = []  # what a surrogate would score itself by

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        said = []
        for program, anchor in zip(programs, anchors, strict=True):
            self.said.append((program.key, len(self.known)))
            factor = 0.6 + 0.8 * unit("noise", program.key, len(self.known), anchor[1] if anchor else 0.0)
            said.append(None if unit("silent", program.key) < 0.1 else latency_secs(program) * factor)
        return said


@dataclass
class Script:
    """A proposer that answers what it is told to, by the node's number; nothing elsewhere."""

    answers: dict[int, list[Transformation]] = field(default_factory=dict)
    name: str = "script"
    asked: list[Context] = field(default_factory=list)

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        self.asked.append(context)
        return Proposal(self.name, "as told", tuple(self.answers.get(context.node.node, ())))


@dataclass
class Tape:
    """A search and the events of it, in order, as a journal would hold them."""

    make: Callable[..., TreeSearch]
    events: list[tuple[str, Any]] = field(default_factory=list)

    def start(self) -> TreeSearch:
        """Returns a new search whose events are recorded."""
        return self.make(
            on_expanded=each(
                lambda step: self.events.append(("node", step)),
                lambda node, who, t, why: self.events.append(("rejected", (node, t, why))),
            )
        )

    def round(self, search: TreeSearch, num: int) -> list[Step]:
        """Returns the programs of one round, asked for and measured."""
        batch = search.ask(num)
        if batch:
            self.events.append(("asked", [step.node for step in batch]))
            results = [(step.node, measure(step)) for step in batch]
            self.events.append(("measured", results))
            search.tell(results)
        return batch

    def replayed(self) -> TreeSearch:
        """Returns a new search to which the events were told in their order."""
        search = self.start_silent()
        for kind, event in self.events:
            if kind == "node":
                search.replay([event], [])
            elif kind == "rejected":
                search.replay([], [event])
            elif kind == "asked":
                search.replay_asked(event)
            else:
                search.tell(event)
        return search

    def replayed_nodes_first(self) -> TreeSearch:
        """Returns a new search to which all nodes and rejections were told first, then the batches."""
        search = self.start_silent()
        search.replay(
            [event for kind, event in self.events if kind == "node"],
            [event for kind, event in self.events if kind == "rejected"],
        )
        for kind, event in self.events:
            if kind == "asked":
                search.replay_asked(event)
            elif kind == "measured":
                search.tell(event)
        return search

    def start_silent(self) -> TreeSearch:
        return self.make()


def each(on_node: Callable[[Step], Any], on_refused: Callable[..., Any]) -> OnExpanded:
    """Returns what calls `on_node` with each new node, and `on_refused` with (node, proposer, transformation, why)."""

    def on_expanded(node: int, added: Sequence[Step], refused: Sequence[Refused]) -> None:
        for step in added:
            on_node(step)
        for told in refused:
            on_refused(node, *told)

    return on_expanded


def chance_search(
    seed: int = 0, *, illegal_share: float = 0.1, predictor: Callable[[], Any] = Noisy, **options: Any
) -> TreeSearch:
    """Returns a search with random proposals."""
    space = ToySpace(illegal_share)
    return TreeSearch(space, RandomProposer(space), predictor(), seed=seed, **options)

"""Proposals, and the nodes of the tree that come of them, as proposers, the journal and the report see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import Program, Transformation
from reasoning_compiler.core.records import Record


@dataclass(frozen=True)
class Proposal:
    """What a proposer answers: its reasoning in words, and the transformations that follow from it, best first."""

    proposer: str
    reasoning: str
    transformations: tuple[Transformation, ...]


class Known(NamedTuple):
    """What a predictor learns from: a measured program, and its latency in seconds, or only that it takes longer."""

    program: Program
    secs: float
    is_bound: bool = False

    @classmethod
    def of(cls, program: Program, measurement: Measurement) -> Known:
        return cls(program, measurement.latency_secs, measurement.censored)


@dataclass(frozen=True)
class Step(Record):
    """One node of the tree as a proposer, the journal or the report sees it.

    Args:
        node: the node's number; 0 is the untuned program.
        parent: its parent's number; None for node 0.
        program: the program itself, as the space made it canonical.
        transformation: the edge from the parent; None for node 0.
        proposer: who proposed the edge ("untuned" for node 0).
        reasoning: the words that came with the proposal.
        predicted_secs: the prediction that the search ranks it by; None where there is none to trust.
        measurement: what the hardware said; None while it has not been asked.
    """

    node: int
    parent: int | None
    program: Program
    transformation: Transformation | None = None
    proposer: str = "untuned"
    reasoning: str = ""
    predicted_secs: float | None = None
    measurement: Measurement | None = field(default=None, compare=False)

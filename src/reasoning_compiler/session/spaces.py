"""The space of a task: which rules it has, for which part of a machine, and shared between threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from reasoning_compiler.core.crash_markers import CrashMarker
from reasoning_compiler.core.interrupts import uninterrupted
from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.cost.analysis import peak_of
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.extract import nests as nests_of
from reasoning_compiler.machine import tvm_target
from reasoning_compiler.proposer.protocol import Context, Proposer
from reasoning_compiler.rules.discovery import own_rules_of_tvm, rules_for
from reasoning_compiler.rules.rule import Rule
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.space.space import Space

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload

P = ParamSpec("P")
R = TypeVar("R")


def with_threads(machine: Machine, threads: int) -> Machine:
    """Returns the part of a machine that a session with that many threads uses."""
    peak = machine.peak_flops * threads / machine.num_cores
    target = json.dumps(json.loads(machine.target) | {"num-cores": threads})
    return replace(machine, num_cores=threads, peak_flops=peak, target=target)


def make_space(
    workload: Workload, machine: Machine, settings: Settings, *, fatal: Collection[CrashMarker] = ()
) -> Space:
    """Returns the space of a task.

    Args:
        workload: what is tuned.
        machine: what it is tuned for, with as many cores as programs may use.
        settings: of the session; in the paper's preset, what its mutator `Parallel` changes is a decision.
        fatal: see `Space`.
    """
    with uninterrupted():
        rules = space_rules(workload, machine, settings)
        return Space(workload.mod, tvm_target(machine), rules=rules, fatal=fatal)


def space_rules(workload: Workload, machine: Machine, settings: Settings) -> list[Rule]:
    """Returns the rules of a task's space: all that are known; the paper's preset has TVM's own alone."""
    target = tvm_target(machine)
    if settings.preset == "paper":
        return own_rules_of_tvm(workload.mod, target, open_jobs=True)
    return rules_for(workload.mod, target, stream_bytes=machine.l2_bytes)


def best_peak(workload: Workload, machine: Machine) -> Peak:
    """Returns what a machine can do at best of a workload's types."""
    return peak_of(nests_of(workload.mod), machine)


class SharedSpace:
    """A space for several threads, one at a time, and Ctrl-C after that.

    Its work in the main thread is counted as the stage "apply".
    """

    def __init__(self, space: Space, clock: PhaseTimer) -> None:
        self._space = space
        self.lock = RLock()
        self.start: Program = space.start
        self.takes_primitives = space.takes_primitives

        def shared(method: Callable[P, R]) -> Callable[P, R]:
            return clock.stage("apply")(self._alone()(method))

        self.table = shared(space.table)
        self.edit = shared(space.edit)
        self.why_not = shared(space.why_not)
        self.sample = shared(space.sample)
        self.nests = shared(space.nests)
        self.schedule = shared(space.schedule)
        self.named_blocks = shared(space.named_blocks)

    @property
    def sizings(self) -> tuple[Sizing, ...]:
        with self._alone():
            return self._space.sizings

    @property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        with self._alone():
            return self._space.tile_groups

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other threads, and Ctrl-C, waiting until the block's end, or that of a decorated call."""
        with self.lock, uninterrupted():
            yield


class SharedProposer:
    """A quick proposer for several threads, one at a time; its work is counted as the stage "propose"."""

    def __init__(self, proposer: Proposer, lock: RLock, clock: PhaseTimer) -> None:
        self.name = proposer.name
        self._propose, self._lock = clock.stage("propose")(proposer.propose), lock

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """See `Proposer.propose`."""
        with self._lock:
            return self._propose(context, num, rng)

"""The parts of a run, made for one workload, machine and settings, and wired to each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from reasoning_compiler.core.crash_markers import Risk
from reasoning_compiler.core.interrupts import holding_ctrl_c, uninterrupted
from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.phases import Stopwatch
from reasoning_compiler.core.programs import UNTUNED, Program
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Known, Proposal, Step
from reasoning_compiler.cost.analysis import Analysis, analyze, peak_of
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.ir.extract import nests as nests_of
from reasoning_compiler.ir.nest import Nest
from reasoning_compiler.machine import tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.protocol import Context, Proposer
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.rules.discovery import own_rules_of_tvm, rules_for
from reasoning_compiler.rules.rule import Rule
from reasoning_compiler.search.search import SearchConfig, TreeSearch
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.space.space import Space
from reasoning_compiler.surrogate.features import FeatureExtractor
from reasoning_compiler.surrogate.metaschedule import MetaScheduleSurrogate
from reasoning_compiler.surrogate.surrogate import Description, Surrogate

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload


P = ParamSpec("P")
R = TypeVar("R")

NO_PRIOR_SECS = 1.0  # the same for all programs: what is predicted then comes from measurements alone

# The paper's own search (section 3): B = 2, c = √2, rollouts by chance at whose end the cost model is asked, and no
# measurement in the tree. The depth of a rollout is not in the text; its code's, up to 500 steps, takes minutes.
PAPER_SEARCH = SearchConfig(
    branching=2, root_branching=3, nodes_per_sample=2, explore_share=0.05, rollout_depth=4, measured_feedback=False
)


def with_threads(machine: Machine, threads: int) -> Machine:
    """Returns the part of a machine that a run with that many threads uses."""
    peak = machine.peak_flops * threads / machine.num_cores
    target = json.dumps(json.loads(machine.target) | {"num-cores": threads})
    return replace(machine, num_cores=threads, peak_flops=peak, target=target)


def make_space(workload: Workload, machine: Machine, settings: Settings, *, fatal: Collection[Risk] = ()) -> Space:
    """Returns the space of a run.

    Args:
        workload: what is tuned.
        machine: what it is tuned for, with as many cores as programs may use.
        settings: of the run; in the paper's preset, what its mutator `Parallel` changes is a decision.
        fatal: see `Space`.
    """
    return Space(workload.mod, tvm_target(machine), rules=space_rules(workload, machine, settings), fatal=fatal)


def space_rules(workload: Workload, machine: Machine, settings: Settings) -> list[Rule]:
    """Returns the rules of a run's space: all that are known; the paper's preset has TVM's own alone."""
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

    def __init__(self, space: Space, clock: Stopwatch) -> None:
        self._space = space
        self.lock = RLock()
        self.start: Program = space.start
        self.takes_primitives = space.takes_primitives
        self.table = clock.timed("apply", self._one_at_a_time(space.table))
        self.edit = clock.timed("apply", self._one_at_a_time(space.edit))
        self.why_not = clock.timed("apply", self._one_at_a_time(space.why_not))
        self.sample = clock.timed("apply", self._one_at_a_time(space.sample))
        self.nests = clock.timed("apply", self._one_at_a_time(space.nests))
        self.schedule = clock.timed("apply", self._one_at_a_time(space.schedule))
        self.named_blocks = clock.timed("apply", self._one_at_a_time(space.named_blocks))

    @property
    def sizings(self) -> tuple[Sizing, ...]:
        with self.lock, uninterrupted():
            return self._space.sizings

    @property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        with self.lock, uninterrupted():
            return self._space.tile_groups

    def _one_at_a_time(self, function: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.lock, uninterrupted():
                return function(*args, **kwargs)

        return call


class SharedProposer:
    """A quick proposer for several threads, one at a time; its work is counted as the stage "propose"."""

    def __init__(self, proposer: Proposer, lock: RLock, clock: Stopwatch) -> None:
        self.name = proposer.name
        self._propose, self._lock = clock.timed("propose", proposer.propose), lock

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """See `Proposer.propose`."""
        with self._lock:
            return self._propose(context, num, rng)


class Parts:
    """Everything a run is made of but the instrument and the journal.

    Args:
        workload: what is tuned.
        machine: what it is tuned for.
        settings: how.
        threads: threads that a program may use; the machine that the expert sees has that many cores.
        fatal: what TVM has ended a process over; it is not tried again.
    """

    def __init__(
        self,
        workload: Workload,
        machine: Machine,
        settings: Settings,
        threads: int,
        *,
        fatal: Collection[Risk] = (),
    ) -> None:
        self.workload = workload
        self.machine = with_threads(machine, threads)
        self.settings = settings
        self.clock = Stopwatch()
        self._fatal = fatal
        self._features = FeatureExtractor()
        with uninterrupted():
            self.space = SharedSpace(self._make_space(), self.clock)
            self.surrogate = _sparing({r.program for r in fatal if not r.changes}, self._make_surrogate())

    @cached_property
    def target(self) -> Any:
        """The TVM target that programs are built for."""
        return tvm_target(self.machine)

    @property
    def peak(self) -> Peak:
        """What the machine can do at best of the workload's types; asks the space, as a recording has no module."""
        return peak_of(self.space.nests(UNTUNED), self.machine)

    def analyze(self, program: Program) -> Analysis:
        """Returns the static analysis of a program."""
        nests: tuple[Nest, ...] = self.space.nests(program)
        return analyze(nests, self.machine, kernel_flops=self.workload.flops, kernel_bytes=self.workload.bytes)

    @cached_property
    def proposer(self) -> Proposer:
        """The quick proposer: the run's own without a model, the one that stands in for a model with one."""
        paper = self.settings.preset == "paper"
        made = (
            Expert(self.space, self.machine)
            if self.settings.proposer == "expert" and not paper
            else RandomProposer(self.space)
        )
        return SharedProposer(made, self.space.lock, self.clock)

    def search(
        self, on_node: Callable[[Step], None], on_rejected: Callable[..., None], on_expanded: Callable[[], None]
    ) -> TreeSearch:
        """Returns a fresh search.

        Args:
            on_node: see `TreeSearch`.
            on_rejected: see `TreeSearch`.
            on_expanded: see `TreeSearch`.
        """
        with_model = self.settings.llm is not None and self.settings.preset != "paper"
        return TreeSearch(
            self.space,
            self.proposer,
            self.surrogate,
            fallback=self.proposer if self.settings.llm is not None else None,
            stand_ins=(self.proposer.name, "random") if with_model else (),
            config=PAPER_SEARCH if self.settings.preset == "paper" else self.settings.search,
            seed=self.settings.seed,
            max_samples=self.settings.samples,
            on_node=on_node,
            on_rejected=on_rejected,
            on_expanded=on_expanded,
        )

    def _make_space(self) -> Any:
        return make_space(self.workload, self.machine, self.settings, fatal=self._fatal)

    def _make_surrogate(self) -> Surrogate | MetaScheduleSurrogate:
        seed = int(stream(self.settings.seed, "surrogate").integers(2**31))
        if self.settings.preset == "paper":
            made: Any = MetaScheduleSurrogate(
                self.workload.mod, self.target, self.space.schedule, seed=seed, threads=self.machine.num_cores
            )
        else:
            made = Surrogate(self._describe, seed=seed)
        made.predict = self.clock.timed("predict", holding_ctrl_c(made.predict))
        made.learn = holding_ctrl_c(made.learn)
        return made

    def _describe(self, program: Program) -> Description:
        analysis = self.analyze(program)
        prior_secs = analysis.secs if self.settings.prior else NO_PRIOR_SECS
        return Description(prior_secs, self._features.row(program, analysis))


def _sparing(fatal: Collection[Program | None], surrogate: Any) -> Any:
    """Returns a surrogate that is not asked of programs that cannot be applied: it would have to apply them."""
    if not fatal:
        return surrogate
    ask, learn = surrogate.predict, surrogate.learn

    def predict(programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        near = [None if anchor and anchor[0] in fatal else anchor for anchor in anchors]
        known = [i for i, program in enumerate(programs) if program not in fatal]
        told = dict(zip(known, ask([programs[i] for i in known], [near[i] for i in known]), strict=True))
        return [told.get(i) for i in range(len(programs))]

    surrogate.predict = predict
    surrogate.learn = lambda known: learn([each for each in known if each[0] not in fatal])
    return surrogate

"""A task: one workload in a session, with its space, its surrogate, its tree and the best so far."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.crash_markers import CrashMarker
from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import UNTUNED, Program
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Step
from reasoning_compiler.cost.analysis import Analysis, analyze, peak_of
from reasoning_compiler.journal import Rejected, Run, Sample, unknown_here
from reasoning_compiler.machine import tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.search.protocol import OnExpanded, Predictor
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.session.predictor import SparingPredictor
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.session.spaces import SharedProposer, SharedSpace
from reasoning_compiler.surrogate.features import FeatureExtractor
from reasoning_compiler.surrogate.metaschedule import MetaScheduleSurrogate
from reasoning_compiler.surrogate.surrogate import Description, Surrogate

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload

NO_PRIOR_SECS = 1.0  # the same for all programs: what is predicted then comes from measurements alone

# The paper's own search (section 3): B = 2, c = √2, random rollouts that the cost model scores, and no
# measurement in the tree. The depth of a rollout is not in the text; its code's, up to 500 steps, takes minutes.
PAPER_SEARCH = SearchConfig(
    branching=2, root_branching=3, nodes_per_sample=2, explore_share=0.05, rollout_depth=4, measured_feedback=False
)

_FINALISTS = 3  # programs that are measured against each other at the end
_CLEARLY = 0.99  # the share of the best latency that counts as clearly faster, for `patience`


class Task:
    """What a session knows of one workload, and which of its programs it would try next.

    Args:
        name: of the task in the session.
        workload: what is tuned.
        machine: what it is tuned for, with as many cores as programs may use.
        settings: of the session.
        space: of the workload's programs.
        clock: of the session.
        weight: how often the workload runs, against the session's other tasks; > 0.
        max_samples: how many of the session's samples it may count on.
        fatal: what TVM has ended a process over; it is not tried again.
        on_expanded: see `TreeSearch`.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        machine: Machine,
        settings: Settings,
        space: Any,
        *,
        clock: PhaseTimer | None = None,
        weight: float = 1.0,
        max_samples: int | None = None,
        fatal: Collection[CrashMarker] = (),
        on_expanded: OnExpanded = lambda node, added, refused: None,
    ) -> None:
        clock = clock or PhaseTimer()
        self.name, self.workload, self.machine, self.settings = name, workload, machine, settings
        self.weight, self.max_samples = weight, max_samples or settings.samples
        self.space = SharedSpace(space, clock)
        paper, llm = settings.preset == "paper", settings.llm is not None
        quick = (
            Expert(self.space, machine) if settings.proposer == "expert" and not paper else RandomProposer(self.space)
        )
        self.proposer = SharedProposer(quick, self.space.lock, clock)
        """The quick proposer: the session's own without a model, the one that stands in for a model with one."""
        spared = {marker.program for marker in fatal if not marker.changes}
        self.surrogate = SparingPredictor(self._make_surrogate(), clock, spared)
        self.search = TreeSearch(
            self.space,
            self.proposer,
            self.surrogate,
            fallback=self.proposer if llm else None,
            fillers=(self.proposer.name, "random") if llm and not paper else (),
            config=PAPER_SEARCH if paper else settings.search,
            seed=settings.seed,
            max_samples=self.max_samples,
            on_expanded=on_expanded,
        )
        self.measured: dict[int, Measurement] = {}
        """The latest measurement of each node, the untuned program's included."""
        self.best_secs: float | None = None
        self.num_samples = 0
        self.num_since_better = 0
        self._untold: list[tuple[int, Measurement]] = []  # of a batch that is not complete

    # -- what is known ------------------------------------------------------------------------------------------------

    @cached_property
    def peak(self) -> Peak:
        """What the machine can do at best of the workload's types; asks the space, as a recording has no module."""
        return peak_of(self.space.nests(UNTUNED), self.machine)

    def analyze(self, program: Program) -> Analysis:
        """Returns the static analysis of a program."""
        nests = self.space.nests(program)
        return analyze(nests, self.machine, kernel_flops=self.workload.flops or 0, kernel_bytes=self.workload.bytes)

    @property
    def untuned(self) -> Measurement | None:
        """The untuned program's measurement; None before there is one."""
        return self.measured.get(0)

    @property
    def current_secs(self) -> float | None:
        """The least latency that was measured, the untuned program's included; None before there is one."""
        untuned = self.untuned
        known = [self.best_secs, untuned.latency_secs if untuned is not None and untuned.ok else None]
        return min((secs for secs in known if secs is not None), default=None)

    @property
    def best_node(self) -> int | None:
        """The fastest node so far, the untuned one among them; None where none has been verified."""
        best = self.search.best
        if best is not None and best.measurement is not None and self.beats_untuned(best.measurement):
            return best.node
        return 0 if self.untuned is not None and self.untuned.counts else None

    @property
    def may_be_kept(self) -> bool:
        """Whether the untuned program can be handed out: it runs, and is right or itself what is right."""
        untuned = self.untuned
        return untuned is not None and untuned.ok and (untuned.counts or self.workload.reference is None)

    def step(self, node: int) -> Step:
        """Returns a node with the latest measurement that the search was told of."""
        return self.search.tree.nodes[node].step

    def beats_untuned(self, measurement: Measurement, *, times: float = 1.0) -> bool:
        """Returns whether a latency is below 1 / `times` of the untuned program's, or that one has none."""
        untuned = self.untuned
        return untuned is None or not untuned.ok or times * measurement.latency_secs < untuned.latency_secs

    def finalists(self) -> list[int]:
        """Returns the nodes worth being measured once more, the fastest first."""
        worthy = [node for node, measurement in self.measured.items() if node and measurement.counts]
        return sorted(worthy, key=lambda node: self.measured[node].latency_secs)[:_FINALISTS]

    # -- what becomes known -------------------------------------------------------------------------------------------

    def note_untuned(self, measurement: Measurement) -> None:
        """Takes in what the hardware said of the untuned program."""
        self.measured[0] = measurement
        self.search.tell([(0, measurement)])

    def note(self, node: int, measurement: Measurement) -> bool:
        """Takes in what the hardware said of one program of a batch; returns whether it is the best so far."""
        self._untold.append((node, measurement))
        self.measured[node] = measurement
        self.num_samples += 1
        self.num_since_better += 1
        best = self.best_secs
        if not measurement.counts or (best is not None and measurement.latency_secs >= best):
            return False
        if best is None or measurement.latency_secs < _CLEARLY * best:
            self.num_since_better = 0
        self.best_secs = measurement.latency_secs
        return True

    def tell(self) -> None:
        """Tells the search of the batch, which is complete."""
        self.search.tell(self._untold)
        self._untold = []

    def replay(self, run: Run) -> list[Step]:
        """Brings the task to where its run in the journal ends; returns what was asked for and not measured.

        Raises:
            UsageError: the journal's programs are none of this version's.
        """
        batch: list[int] = []
        try:
            for event in run.events:
                match event:
                    case Step():
                        if event.node:
                            self.search.replay([event], [])
                    case Rejected():
                        self.search.replay([], [(event.node, event.transformation, event.why)])
                    case Sample(node=0):
                        self.note_untuned(event.measurement)
                    case Sample():
                        self.note(event.node, event.measurement)
                        batch = [node for node in batch if node != event.node]
                        if not batch:
                            self.tell()
                    case _:
                        self.search.replay_asked(event)
                        batch = list(event)
        except IllegalProgramError as error:
            raise unknown_here(run, error) from error
        return [self.step(node) for node in batch]

    def _make_surrogate(self) -> Predictor:
        seed = int(stream(self.settings.seed, "surrogate").integers(2**31))
        if self.settings.preset == "paper":
            target, threads = tvm_target(self.machine), self.machine.num_cores
            return MetaScheduleSurrogate(self.workload.mod, target, self.space.schedule, seed=seed, threads=threads)
        features = FeatureExtractor()

        def describe(program: Program) -> Description:
            analysis = self.analyze(program)
            prior_secs = analysis.secs if self.settings.prior else NO_PRIOR_SECS
            return Description(prior_secs, features.row(program, analysis))

        return Surrogate(describe, seed=seed)

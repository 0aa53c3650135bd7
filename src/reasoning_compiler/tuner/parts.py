"""The parts of a run, made for one workload, machine and settings, and wired to each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reasoning_compiler.machine import tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.records import Machine, Program
from reasoning_compiler.rng import stream
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.space.analysis import Analysis, analyze
from reasoning_compiler.space.nest import Nest
from reasoning_compiler.space.space import Space
from reasoning_compiler.space.tiling import TileGroup
from reasoning_compiler.stages import Stopwatch
from reasoning_compiler.surrogate.features import FeatureExtractor
from reasoning_compiler.surrogate.surrogate import Description, Surrogate
from reasoning_compiler.tuner.settings import Settings

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload


def with_threads(machine: Machine, threads: int) -> Machine:
    """Returns the part of a machine that a run with that many threads uses."""
    peak = machine.peak_flops * threads / machine.num_cores
    return replace(machine, num_cores=threads, peak_flops=peak)


class TimedSpace:
    """A space whose work is counted as the stage "apply"."""

    def __init__(self, space: Space, clock: Stopwatch) -> None:
        self._space = space
        self.start: Program = space.start
        self.table = clock.timed("apply", space.table)
        self.edit = clock.timed("apply", space.edit)
        self.sample = clock.timed("apply", space.sample)
        self.nests = clock.timed("apply", space.nests)
        self.schedule = clock.timed("apply", space.schedule)

    @property
    def tile_groups(self) -> tuple[TileGroup, ...]:
        return self._space.tile_groups


class Parts:
    """Everything a run is made of but the instrument and the journal.

    Args:
        workload: what is tuned.
        machine: what it is tuned for.
        settings: how.
        threads: threads that a program may use; the machine that the expert sees has that many cores.
    """

    def __init__(self, workload: Workload, machine: Machine, settings: Settings, threads: int) -> None:
        self.workload = workload
        self.machine = with_threads(machine, threads)
        self.target: Any = tvm_target(self.machine)
        self.settings = settings
        self.clock = Stopwatch()
        self.space = TimedSpace(Space(workload.mod, self.target), self.clock)
        self._features = FeatureExtractor(workload.mod, self.target)
        self.surrogate = Surrogate(
            self.clock.timed("predict", self._describe), seed=int(stream(settings.seed, "surrogate").integers(2**31))
        )
        self.surrogate.predict = self.clock.timed("predict", self.surrogate.predict)  # type: ignore[method-assign]

    def analyze(self, program: Program) -> Analysis:
        """Returns the static analysis of a program."""
        nests: tuple[Nest, ...] = self.space.nests(program)
        return analyze(
            nests, self.machine, kernel_flops=self.workload.flops, kernel_bytes=self.workload.bytes
        )

    def proposer(self) -> Proposer:
        """Returns the proposer that the settings name."""
        made: Proposer = (
            Expert(self.space, self.machine) if self.settings.proposer == "expert" else RandomProposer(self.space)
        )
        made.propose = self.clock.timed("propose", made.propose)  # type: ignore[method-assign]
        return made

    def search(self, on_node: Any, on_rejected: Any) -> TreeSearch:
        """Returns a fresh search.

        Args:
            on_node: see `TreeSearch`.
            on_rejected: see `TreeSearch`.
        """
        return TreeSearch(
            self.space,
            self.proposer(),
            self.surrogate,
            config=self.settings.search,
            seed=self.settings.seed,
            max_samples=self.settings.samples,
            on_node=on_node,
            on_rejected=on_rejected,
        )

    def _describe(self, program: Program) -> Description:
        analysis = self.analyze(program)
        return Description(analysis.secs, self._features.row(self.space.schedule(program), analysis))

"""The language model as a part of a session: client, budget, transcript, and a proposer for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, Transformation, Value
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import TRANSCRIPT_FILE, Journal, SessionRecord
from reasoning_compiler.proposer.llm.client import LLMClient
from reasoning_compiler.proposer.llm.language import worked_example
from reasoning_compiler.proposer.llm.metered import MeteredModel, ModelProposer
from reasoning_compiler.proposer.llm.node import Brings, ProgramFacts
from reasoning_compiler.proposer.llm.paper import PaperProposer
from reasoning_compiler.proposer.llm.prompt import Kernel, tiling_notes
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.proposer.llm.transcript import Transcript, read_transcript, spending
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.session.spaces import SharedSpace
from reasoning_compiler.session.task import Task
from reasoning_compiler.session.thinking import Thinker


def checked_client(settings: Settings) -> LLMClient:
    """Returns the client of a session's language model, which `settings.llm` names.

    Raises:
        LLMSetupError: the provider is unknown, or its key or package is missing.
        UsageError: a budget in USD without a known price.
    """
    llm = _seeded(settings)
    client = LLMClient(llm)
    MeteredModel(llm, client)  # says now what is wrong with the budget
    return client


class Model:
    """A session's language model: one client, one budget, one transcript, and a proposer for each task.

    Args:
        settings: of the session; `llm` is set.
        client: see `checked_client`.
        journal: of the session; calls are reserved in it before they are made.
        earlier: the session so far, whose spending counts; None for a new one.
    """

    def __init__(
        self, settings: Settings, client: LLMClient, journal: Journal, *, earlier: SessionRecord | None
    ) -> None:
        self._llm = _seeded(settings)
        self._is_paper = settings.preset == "paper"
        path = journal.folder / TRANSCRIPT_FILE
        self.transcript = Transcript(path, scrubber=client.scrubber)
        spent = earlier.spent if earlier else None
        if spent is None and path.exists():  # before version 4 of the journal, the transcript alone told
            spent = spending(read_transcript(path))
            journal.settled(0, spent)
        num_calls = earlier.num_calls if earlier else 0
        self.metered = MeteredModel(
            self._llm, client, transcript=self.transcript, spent=spent, num_calls=num_calls, ledger=journal
        )

    def proposer(self, task: Task) -> ModelProposer:
        """Returns the proposer that asks the model about a task's programs and records every exchange."""
        space = task.space
        if self._is_paper or self._llm.names_only:
            return PaperProposer(
                self.metered,
                source=lambda program: space.schedule(program).mod.script(),
                trace=lambda program: str(space.schedule(program).trace),
                score=_score,
                check=space.why_not,
                fallback=task.proposer,
                context_depth=self._llm.context_depth,
                task=task.name,
            )
        workload = task.workload
        kernel = Kernel(
            workload.name,
            workload.mod["main"].script(),
            workload.flops or 0,
            workload.arguments,
            notes=space_notes(task),
            takes_primitives=space.takes_primitives,
            example=_example(space) if space.takes_primitives else (),
            peak=task.peak,
        )
        brought = brought_by(space)

        def facts(program: Program, table: Sequence[Decision]) -> ProgramFacts:
            analysis = "" if program.is_untuned else task.analyze(program).describe()
            blocks = space.named_blocks(program) if space.takes_primitives else ()
            return ProgramFacts(analysis, brought(program, table), blocks)

        return LLMProposer(
            self.metered,
            kernel=kernel,
            machine=task.machine,
            check=space.why_not,
            fallback=task.proposer,
            facts=facts,
            context_depth=self._llm.context_depth,
            max_prompt_tokens=self._llm.prompt_tokens,
            task=task.name,
        )

    def thinker(self, task: Task, *, num_tasks: int, clock: PhaseTimer) -> Thinker:
        """Returns what grows a task's tree by the model's answers, while other things happen.

        Args:
            task: which.
            num_tasks: tasks of the session, which share the calls that may be under way at once, and the samples that
                the expert may fill in.
            clock: of the session.
        """
        llm = self._llm
        return Thinker(
            task.search,
            self.proposer(task),
            concurrency=1 if self._is_paper else max(1, llm.max_concurrent_calls // num_tasks),
            children=llm.children,
            filler=None if self._is_paper or llm.expert_share == 0 else task.proposer,
            max_filled=int(llm.expert_share * (task.max_samples - task.num_samples)),
            settled=not self._is_paper,
            clock=clock,
        )


def _example(space: SharedSpace) -> tuple[Primitive, ...]:
    def accepts(steps: tuple[Primitive, ...]) -> bool:
        return space.why_not(UNTUNED, Transformation((), primitives=steps)) is None

    return worked_example(space.named_blocks(UNTUNED), accepts)


def brought_by(space: SharedSpace) -> Callable[[Program, Sequence[Decision]], Brings]:
    """Returns a function that says what each other structure of a program would bring with it.

    Given a program (the untuned one stands for the start program) and its decisions, it returns the decisions that come
    with each other value of each structure decision, and what they would be. Each value is looked up once.
    """
    known: dict[tuple[str, Value], tuple[tuple[str, Value], ...]] = {}

    def new(program: Program, table: Sequence[Decision], other: tuple[str, Value]) -> tuple[tuple[str, Value], ...]:
        try:
            edited = space.edit(program, Transformation((other,)))
        except IllegalProgramError:
            return ()
        present = {decision.name for decision in table}
        return tuple((name, value) for name, value in edited.decisions if name not in present)

    def brings(program: Program, table: Sequence[Decision]) -> Brings:
        structures = [d for d in table if d.kind == "structure" and isinstance(d.domain, ChoiceDomain)]
        others = [(d.name, value) for d in structures for value in d.domain.values if value != d.value]
        for other in others:
            if other not in known:
                known[other] = new(program, table, other)
        return {other: known[other] for other in others}

    return brings


def space_notes(task: Task) -> str:
    """Returns what a model must know to understand the decisions: what they do to the loops, and in which order."""
    lines = [tiling_notes(task.space.tile_groups)]
    if lines[0]:
        lines.append(
            "Sums stay in vector registers if the loops inside the innermost reduction are unrolled (unroll is the "
            "largest body that is) and vectorized, and few enough for the registers."
        )
    if any(argument.role == "weight" for argument in task.workload.arguments):
        lines.append("Constant weights are laid out ahead of time in the order in which the tiles read them, for free.")
    return "\n".join(line for line in lines if line)


def _score(step: Step) -> float | None:
    """Returns the paper's predicted score of a node: its surrogate gives one over it as seconds."""
    return 1.0 / step.predicted_secs if step.predicted_secs else None


def _seeded(settings: Settings) -> LLMSettings:
    assert settings.llm is not None
    return replace(settings.llm, seed=settings.seed)

"""The language model as a part of a run: client, budget, transcript and proposer for one run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, Transformation, Value
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import TRANSCRIPT_FILE
from reasoning_compiler.proposer.llm.language import worked_example
from reasoning_compiler.proposer.llm.node import Brings
from reasoning_compiler.proposer.llm.paper import PaperProposer
from reasoning_compiler.proposer.llm.prompt import Kernel, tiling_notes
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.proposer.llm.settings import open_client, open_model
from reasoning_compiler.proposer.llm.transcript import Transcript, read_transcript, spending
from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.session.settings import Settings

if TYPE_CHECKING:
    from reasoning_compiler.session.parts import Parts, SharedSpace


class Model:
    """A run's language model, checked before the run has a folder and at work once it has one.

    Args:
        settings: of the run; `llm` is set.

    Raises:
        LLMSetupError: the provider is unknown, or its key or package is missing.
        UsageError: a budget in USD without a known price.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.llm is not None
        self._names_only = settings.preset == "paper" or settings.llm.names_only
        self._llm = replace(settings.llm, seed=settings.seed)
        self._client = open_client(self._llm)
        open_model(self._llm, client=self._client)  # says now what is wrong with the budget

    def proposer(self, parts: Parts, folder: Path, stand_in: Proposer) -> LLMProposer | PaperProposer:
        """Returns the proposer that asks the model and records every exchange in the run's folder.

        Args:
            parts: of the run.
            folder: the run folder; what its transcript says was spent counts.
            stand_in: proposes where the model does not.
        """
        path = folder / TRANSCRIPT_FILE
        self.transcript = Transcript(path, scrubber=self._client.scrubber)
        spent = spending(read_transcript(path)) if path.exists() else None
        model = open_model(self._llm, transcript=self.transcript, spent=spent, client=self._client)
        space = parts.space
        if self._names_only:
            return PaperProposer(
                model,
                source=lambda program: space.schedule(program).mod.script(),
                trace=lambda program: str(space.schedule(program).trace),
                score=_score,
                check=space.why_not,
                fallback=stand_in,
                context_depth=self._llm.context_depth,
            )
        workload = parts.workload
        script = workload.mod["main"].script()
        kernel = Kernel(
            workload.name,
            script,
            workload.flops,
            workload.arguments,
            notes=space_notes(parts),
            takes_primitives=space.takes_primitives,
            example=_example(space) if space.takes_primitives else (),
            peak=parts.peak,
        )
        return LLMProposer(
            model,
            kernel=kernel,
            machine=parts.machine,
            check=space.why_not,
            fallback=stand_in,
            explain=lambda program: self._explain(parts, program),
            named_blocks=space.named_blocks,
            brings=Brought(parts),
            context_depth=self._llm.context_depth,
            max_prompt_tokens=self._llm.prompt_tokens,
        )

    @staticmethod
    def _explain(parts: Parts, program: Program) -> str:
        return "" if program.is_untuned else parts.analyze(program).describe()


def _example(space: SharedSpace) -> tuple[Primitive, ...]:
    def accepts(steps: tuple[Primitive, ...]) -> bool:
        return space.why_not(UNTUNED, Transformation((), primitives=steps)) is None

    return worked_example(space.named_blocks(UNTUNED), accepts)


class Brought:
    """What each other structure of a program would bring with it, looked up once for each.

    Args:
        parts: of the run.
    """

    def __init__(self, parts: Parts) -> None:
        self._space = parts.space
        self._known: dict[tuple[str, Value], tuple[tuple[str, Value], ...]] = {}

    def __call__(self, program: Program, table: Sequence[Decision]) -> Brings:
        """Returns the decisions that come with each other value of each structure decision, and what they would be.

        Args:
            program: it is asked about; the untuned one stands for the start program.
            table: its decisions.
        """
        structures = [d for d in table if d.kind == "structure" and isinstance(d.domain, ChoiceDomain)]
        others = [(d.name, value) for d in structures for value in d.domain.values if value != d.value]
        for name, value in others:
            if (name, value) not in self._known:
                self._known[name, value] = self._new(program, table, name, value)
        return {other: self._known[other] for other in others}

    def _new(
        self, program: Program, table: Sequence[Decision], name: str, value: Value
    ) -> tuple[tuple[str, Value], ...]:
        try:
            edited = self._space.edit(program, Transformation(((name, value),)))
        except IllegalProgramError:
            return ()
        present = {decision.name for decision in table}
        return tuple((name, value) for name, value in edited.decisions if name not in present)


def space_notes(parts: Parts) -> str:
    """Returns what a model must know to understand the decisions: what they do to the loops, and in which order."""
    lines = [tiling_notes(parts.space.tile_groups)]
    if lines[0]:
        lines.append(
            "Sums stay in vector registers if the loops inside the innermost reduction are unrolled (unroll is the "
            "largest body that is) and vectorized, and few enough for the registers."
        )
    if any(argument.role == "weight" for argument in parts.workload.arguments):
        lines.append("Constant weights are laid out ahead of time in the order in which the tiles read them, for free.")
    return "\n".join(line for line in lines if line)


def _score(step: Step) -> float | None:
    """Returns the paper's predicted score of a node: its surrogate gives one over it as seconds."""
    return 1.0 / step.predicted_secs if step.predicted_secs else None

"""The language model as a part of a run: client, budget, transcript and proposer for one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reasoning_compiler.proposer.llm.budget import Budget
from reasoning_compiler.proposer.llm.metered import MeteredModel
from reasoning_compiler.proposer.llm.paper import PaperProposer
from reasoning_compiler.proposer.llm.prices import Price, PriceList
from reasoning_compiler.proposer.llm.prompt import Kernel, tiling_notes
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.proposer.llm.transcript import Transcript, read_transcript, spending
from reasoning_compiler.proposer.protocol import Proposer
from reasoning_compiler.records import Program, Step
from reasoning_compiler.tuner.settings import LLMSettings, Settings

if TYPE_CHECKING:
    from reasoning_compiler.proposer.llm.calls import Client
    from reasoning_compiler.tuner.parts import Parts

TRANSCRIPT_FILE = "transcript.jsonl"


def make_client(llm: LLMSettings, *, seed: int | None = None) -> Client:
    """Returns who answers: the model, or a recorded run in its place.

    Raises:
        LLMSetupError: the provider is unknown, or its key or package is missing.
        UsageError: there is nothing to replay.
    """
    if llm.replay is not None:
        from reasoning_compiler.proposer.llm.replay import ReplayClient

        return ReplayClient.open(Path(llm.replay))
    from reasoning_compiler.proposer.llm.client import ClientOptions, LLMClient

    return LLMClient(
        ClientOptions(
            llm.model,
            base_url=llm.base_url,
            api_key_env=llm.api_key_env,
            timeout_secs=llm.timeout_secs,
            temperature=llm.temperature,
            seed=seed,
            max_concurrent_calls=llm.concurrency,
        )
    )


class Model:
    """A run's language model, checked before the run has a folder and at work once it has one.

    Args:
        settings: of the run; `llm` is set.

    Raises:
        LLMSetupError: the provider is unknown, or its key or package is missing.
        UsageError: a budget in USD without a known price, or nothing to replay.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.llm is not None
        self._settings, self._llm = settings, settings.llm
        self._client = make_client(self._llm, seed=settings.seed)
        override = Price.parse(self._llm.price) if self._llm.price else None
        self._prices = PriceList(self._llm.model, base_url=self._llm.base_url, override=override)
        self._budget().check_priced(self._prices, self._llm.model)

    def proposer(self, parts: Parts, folder: Path, stand_in: Proposer) -> LLMProposer | PaperProposer:
        """Returns the proposer that asks the model and records every exchange in the run's folder.

        Args:
            parts: of the run.
            folder: the run folder; what its transcript says was spent counts.
            stand_in: proposes where the model does not.
        """
        path = folder / TRANSCRIPT_FILE
        self.transcript = Transcript(path, scrubber=getattr(self._client, "scrubber", None))
        earlier = read_transcript(path) if path.exists() else []
        model = MeteredModel(
            self._client,
            budget=self._budget(earlier),
            prices=self._prices,
            transcript=self.transcript,
        )
        space = parts.space
        if self._settings.preset == "paper":
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
        kernel = Kernel(workload.name, script, workload.flops, workload.arguments, notes=space_notes(parts))
        return LLMProposer(
            model,
            kernel=kernel,
            machine=parts.machine,
            check=space.why_not,
            fallback=stand_in,
            explain=lambda program: self._explain(parts, program),
            context_depth=self._llm.context_depth,
        )

    def close(self) -> None:
        """Ends the calls under way."""
        self._client.close()

    def _budget(self, earlier: list | None = None) -> Budget:
        llm = self._llm
        return Budget(
            max_calls=llm.max_calls,
            max_tokens=llm.budget_tokens,
            max_usd=llm.budget_usd,
            spent=spending(earlier) if earlier else None,
        )

    @staticmethod
    def _explain(parts: Parts, program: Program) -> str:
        return "" if program.is_untuned else parts.analyze(program).describe()


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

"""The proposer that asks a language model, checks what it says, and has the rest done by the expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.programs import Decision, Program, Transformation, Value
from reasoning_compiler.core.steps import Proposal, Step
from reasoning_compiler.proposer.llm.answer import Outcome, parse_answer
from reasoning_compiler.proposer.llm.calls import Message
from reasoning_compiler.proposer.llm.metered import MeteredModel, ModelProposer
from reasoning_compiler.proposer.llm.node import ProgramFacts
from reasoning_compiler.proposer.llm.prompt import PROMPT_VERSION, Kernel, build_prompt, repair_text
from reasoning_compiler.proposer.llm.refusals import Check, Refusals
from reasoning_compiler.proposer.llm.settings import DEFAULT_PROMPT_TOKENS
from reasoning_compiler.proposer.llm.transcript import Exchange, Question
from reasoning_compiler.proposer.llm.values import clip
from reasoning_compiler.proposer.protocol import Context, Proposer

MIN_PROMPT_TOKENS = 1_500
_MAX_REPEATED_ANSWER_CHARS = 4_000


class LLMProposer(ModelProposer):
    """Proposes what a language model proposes, as far as it is valid; the fallback supplies the rest.

    An answer's faults are returned to the model once. Every exchange is counted and recorded. When the budget
    ends or the model is out of reach, the fallback proposes alone, and `notices` says so. Calls block the calling
    thread; several threads may call at once.

    Args:
        model: the model with its budget and transcript.
        kernel: the workload.
        machine: what it runs on.
        check: says why the space refuses a transformation, None where it does not.
        fallback: who proposes what the model does not; the expert.
        facts: what a prompt says of a program with such a table.
        context_depth: how many ancestors the prompt tells of; the paper's is two.
        max_prompt_tokens: about how long a prompt may be.
        task: the session's task that it proposes for, as the transcript names it.
    """

    name = "llm"

    def __init__(
        self,
        model: MeteredModel,
        *,
        kernel: Kernel,
        machine: Machine,
        check: Check,
        fallback: Proposer,
        facts: Callable[[Program, Sequence[Decision]], ProgramFacts] = lambda program, table: ProgramFacts(),
        context_depth: int = 2,
        max_prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
        task: str = "",
    ) -> None:
        self.model, self._fallback, self._task = model, fallback, task
        self._kernel, self._machine = kernel, machine
        self._check, self._facts = check, facts
        self._context_depth = context_depth
        self._max_prompt_tokens = max_prompt_tokens
        self._refused = Refusals(check)

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns up to `num` transformations: the model's valid ones first, then the fallback's.

        A transformation's `proposer` is empty for the model's own and names the fallback for the others.
        """
        accepted = _Accepted(context, num, self._check, self._refused)
        self._ask(context, num, accepted)
        own = tuple(accepted.transformations)
        if len(own) >= num:
            return Proposal(self.name, accepted.reasoning, own)
        rest = self._fallback.propose(context, num, rng)
        if not own:
            self.model.count_fallback(len(rest.transformations[:num]))
            return replace(rest, transformations=rest.transformations[:num])
        more = [
            replace(t, proposer=t.proposer or rest.proposer, reasoning=t.reasoning or rest.reasoning)
            for t in rest.transformations
            if not accepted.is_known(t)
        ][: num - len(own)]
        self.model.count_fallback(len(more))
        return Proposal(self.name, accepted.reasoning, (*own, *more))

    def _ask(self, context: Context, num: int, accepted: _Accepted) -> None:
        """Asks the model, once more where its answer has faults, and keeps what is accepted."""
        exchange = self.model.ask(self._question(context, num))
        if exchange is None:
            return
        if exchange.finish == "context_window" and self._max_prompt_tokens > MIN_PROMPT_TOKENS:
            self.model.record(exchange)
            self._max_prompt_tokens = max(self._max_prompt_tokens // 2, MIN_PROMPT_TOKENS)
            limit = self._max_prompt_tokens
            self.model.notice(f"the prompt is too long for the model; from here on at most {limit} tokens")
            exchange = self.model.ask(self._question(context, num))
        if exchange is not None:
            number, faults = self._judge(exchange, accepted)
            missing = num - len(accepted.transformations)
            if exchange.finish == "closed":
                return  # no fault of the model's
            if faults and missing > 0 and not exchange.never_began:
                self._repair(exchange, number, faults, missing, accepted)
        self.model.count_expansion(usable=bool(accepted.transformations))

    def _question(self, context: Context, num: int) -> Question:
        program = context.node.program
        messages = build_prompt(
            context,
            num,
            self._facts(program, context.table),
            kernel=self._kernel,
            machine=self._machine,
            refused=self._refused.of(program),
            context_depth=self._context_depth,
            max_tokens=self._max_prompt_tokens,
        )
        return Question(messages, self._task, context.node.node, program.key, num, PROMPT_VERSION)

    def _repair(
        self, exchange: Exchange, number: int | None, faults: Mapping[int, str], missing: int, accepted: _Accepted
    ) -> None:
        said = clip(exchange.answer or "", _MAX_REPEATED_ANSWER_CHARS)
        messages = (
            *exchange.messages,
            Message("assistant", said if said.strip() else "(no answer)"),
            Message("user", repair_text(faults, missing)),
        )
        repair = Question(
            messages, self._task, exchange.node, exchange.program, missing, PROMPT_VERSION, repair_of=number or 0
        )
        repaired = self.model.ask(repair)
        if repaired is not None:
            self._judge(repaired, accepted)

    def _judge(self, exchange: Exchange, accepted: _Accepted) -> tuple[int | None, dict[int, str]]:
        """Returns an exchange's number in the transcript, and the faults of its answer, see `repair_text`."""
        if exchange.answer is None:
            return self.model.record(exchange), {}
        context = accepted.context
        answer = parse_answer(exchange.answer, context.table, allow_unchanged=context.node.program.is_untuned)
        if answer.reasoning:
            accepted.reasoning = "\n\n".join(part for part in (accepted.reasoning, answer.reasoning) if part)
        outcomes = [accepted.take(item) for item in answer.items]
        rejected = [(number if o.what else 0, o.why) for number, o in enumerate(outcomes, 1) if o.kind is not None]
        return self.model.record(exchange, outcomes), dict(rejected)


@dataclass
class _Accepted:
    """The valid transformations of a node's answers, none of them twice and none known before."""

    context: Context
    num: int
    check: Check
    refusals: Refusals
    transformations: list[Transformation] = field(default_factory=list)
    reasoning: str = ""

    def __post_init__(self) -> None:
        self._present = {d.name: d.value for d in self.context.table}
        self._structure = {d.name for d in self.context.table if d.kind == "structure"}
        self._known: dict[object, str] = {}
        for step in (*self.context.lineage, *self.context.measured, *self.context.children):
            if not step.program.is_untuned:
                self._known[self._signature(step.program.values), step.program.primitives] = _told(step)
        for rejection in self.context.rejected:
            self._known[self._edited(rejection.transformation)] = f"it was refused before: {rejection.why}"

    def take(self, item: Outcome) -> Outcome:
        """Keeps a valid transformation while there is room; returns what became of it."""
        transformation = item.transformation
        if transformation is None:
            return item
        if len(self.transformations) >= self.num:
            return replace(item, why="more than was asked for")
        edited = self._edited(transformation)
        if edited in self._known:
            return replace(item, kind="repeated", why=f"This program is known: {self._known[edited]}.")
        refusal = self.check(self.context.node.program, transformation)
        if refusal is not None:
            self._known[edited] = f"it was refused before: {refusal}"
            refusal = self.refusals.add(self.context.node.program, transformation, refusal)
            return replace(item, kind="illegal", why=clip(refusal, 700))
        self._known[edited] = "it is in your answer twice"
        self.transformations.append(transformation)
        return replace(item, used=True)

    def is_known(self, transformation: Transformation) -> bool:
        return self._edited(transformation) in self._known

    def _edited(self, transformation: Transformation) -> object:
        if any(n in self._structure and v != self._present[n] for n, v in transformation.edits):
            # What else changes with the structure is the space's to know.
            return frozenset(transformation.edits), transformation.primitives
        primitives = (*self.context.node.program.primitives, *transformation.primitives)
        return self._signature(self._present | dict(transformation.edits)), primitives

    def _signature(self, values: dict[str, Value]) -> object:
        return tuple(values.get(name) for name in self._present)


def _told(step: Step) -> str:
    if step.measurement is None:
        return f"node {step.node}, not measured yet"
    if step.measurement.failure is not None:
        return f"node {step.node}, which failed ({step.measurement.failure.kind})"
    more = "> " if step.measurement.censored else ""
    return f"node {step.node}, {more}{step.measurement.latency_secs * 1e3:.3g} ms"

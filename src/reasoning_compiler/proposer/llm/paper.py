"""The paper's own proposer, for `--preset paper`: the model names transformations, values are random.

After the text of "Reasoning Compiler: LLM-guided optimizations for efficient model serving" (section 3): the
prompt holds the program, the traces and predicted scores of the node, its parent and its grandparent, and what
differs between them; the answer is reasoning and a sequence of short names, with repetition. Values are drawn at
random, as TVM's mutators do. The paper's text does not settle what is asked of a name without a decision to
change (it is skipped) and of a refused value (up to three draws, as its code does for random expansion). Where
its code differs from its text we follow the text: names without object addresses, a failed first name makes no
duplicate child, every call counts against the budget.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from reasoning_compiler.core.programs import Decision, Program, Transformation, Value
from reasoning_compiler.core.steps import Proposal, Step
from reasoning_compiler.proposer.llm.answer import MAX_REASONING_CHARS, Outcome
from reasoning_compiler.proposer.llm.calls import Message
from reasoning_compiler.proposer.llm.loose_json import find_containers
from reasoning_compiler.proposer.llm.metered import MeteredModel, ModelProposer
from reasoning_compiler.proposer.llm.proposer import Check
from reasoning_compiler.proposer.llm.transcript import Exchange, Question
from reasoning_compiler.proposer.llm.values import clip, shown
from reasoning_compiler.proposer.protocol import Context, Proposer
from reasoning_compiler.proposer.random import draw_other

Mutator = Literal["TileSize", "Parallel", "ComputeLocation", "Unroll"]
MUTATORS: tuple[Mutator, ...] = get_args(Mutator)
PAPER_PROMPT_VERSION = "paper-1"

MAX_SEQUENCE = 64
_MIN_DEPTH = 2  # from which on the model is asked; the untuned program has depth 0
_MAX_DRAWS = 3
_MARKED = re.compile(r"^[\s*#_>-]*(?:transformations(?: to apply)?|mutators)[\s*_]*:(.*)", re.I | re.M)
_ADDRESS = re.compile(r"\(0x[0-9a-f]+\)?|^s_tir\.|^mutate", re.I)

_ROLE = """\
You are an expert in compiler optimization. You help a Monte Carlo tree search that looks for a fast schedule of a \
tensor program: from the present program, the transformations that led to it and the scores that a cost model \
predicts, you propose the sequence of transformations to apply next."""

_REQUEST = """\
Available transformations: TileSize, Parallel, ComputeLocation, Unroll.
TileSize changes the tile sizes of a loop, Parallel how much of the outer loops runs in parallel, ComputeLocation \
where a block is computed, Unroll how far loops are unrolled. You may repeat a transformation to use its effect \
again; they are applied in the order in which you give them.
Think step by step: compare the program with its parent and grandparent, say how the differences may have changed \
the scores, and what follows for the next transformations. Then give the sequence on one last line:
Transformations to apply: <name>, <name>, ..."""


def build_paper_prompt(
    context: Context,
    *,
    source: Callable[[Program], str],
    trace: Callable[[Program], str],
    score: Callable[[Step], float | None],
    context_depth: int = 2,
) -> tuple[Message, ...]:
    """Returns the paper's prompt for the context's node.

    Args:
        context: what the search knows.
        source: the code of a scheduled program, as TVMScript.
        trace: the transformations that made a program, as TVM prints its trace.
        score: the cost model's prediction for a node, higher is better; None where there is none.
        context_depth: how many ancestors to show.
    """
    steps = context.lineage[: context_depth + 1]
    titles = ["The current program", "Its parent", "Its grandparent", "Its great-grandparent"]
    code = [source(step.program) for step in steps]
    parts = [f"{titles[0]}:\n{code[0].strip()}"]
    for i in range(len(steps) - 1):
        newer, older = titles[min(i, 3)].lower(), titles[min(i + 1, 3)].lower()
        changed = _differences(code[i + 1], code[i])
        parts.append(f"What differs between {older} (-) and {newer} (+):\n{changed or 'nothing'}")
    for i, step in enumerate(steps):
        predicted = score(step)
        said = "none yet" if predicted is None else f"{predicted:.4f}"
        parts.append(f"{titles[min(i, 3)]}: predicted score {said}. Its trace:\n{trace(step.program).strip()}")
    parts.append(_REQUEST)
    return Message("system", _ROLE), Message("user", "\n\n".join(parts))


def parse_mutators(text: str) -> tuple[tuple[Mutator, ...], tuple[str, ...]]:
    """Returns the named transformations in their order, and the names that are none.

    They are read from the marked line, else from the last list, else from a last line of nothing but names; a
    name that the reasoning mentions is no proposal. Never raises.
    """
    text = clip(text, 200_000)
    if marked := list(_MARKED.finditer(text)):
        # The names stand behind the mark or on the next line.
        words = _words(marked[-1][1]) or _words(text[marked[-1].end() :].strip().partition("\n")[0])
    else:
        lists = [found.value for found in find_containers(text) if isinstance(found.value, list)]
        named = [[w for w in one if isinstance(w, str)] for one in lists]
        words = next((one for one in reversed(named) if any(_mutator(w) for w in one)), [])
        if not words:
            last = _words(text.strip().rpartition("\n")[2])
            words = last if last and all(_mutator(w) for w in last) else []
    words = words[:MAX_SEQUENCE]
    known = tuple(mutator for word in words if (mutator := _mutator(word)) is not None)
    return known, tuple(shown(word, 40) for word in words if _mutator(word) is None)


class PaperProposer(ModelProposer):
    """Proposes as the paper does: one child per call, named by the model and drawn at random.

    The untuned program and its children, and nodes for which all names fail, are left to the fallback, which for the
    paper is random.

    Args:
        model: the model with its budget and transcript.
        source: the code of a scheduled program, as TVMScript.
        trace: the transformations that made a program, as TVM prints its trace.
        score: the cost model's prediction for a node; random below its 100 warm-up samples, as in the paper.
        check: says why the space refuses a transformation, None where it does not.
        fallback: who proposes otherwise; random.
        context_depth: how many ancestors the prompt shows.
        task: the session's task that it proposes for, as the transcript names it.
    """

    name = "paper"

    def __init__(
        self,
        model: MeteredModel,
        *,
        source: Callable[[Program], str],
        trace: Callable[[Program], str],
        score: Callable[[Step], float | None],
        check: Check,
        fallback: Proposer,
        context_depth: int = 2,
        task: str = "",
    ) -> None:
        self.model, self._fallback, self._task = model, fallback, task
        self._source, self._trace, self._score = source, trace, score
        self._check, self._context_depth = check, context_depth

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        """Returns one transformation of the model's, or the fallback's up to `num`."""
        if len(context.lineage) > _MIN_DEPTH:
            exchange = self.model.ask(self._question(context))
            if exchange is not None:
                proposal = self._judge(exchange, context, rng)
                self.model.count_expansion(usable=proposal is not None)
                if proposal is not None:
                    return proposal
        rest = self._fallback.propose(context, num, rng)
        self.model.count_fallback(len(rest.transformations))
        return rest

    def _question(self, context: Context) -> Question:
        messages = build_paper_prompt(
            context,
            source=self._source,
            trace=self._trace,
            score=self._score,
            context_depth=self._context_depth,
        )
        return Question(messages, self._task, context.node.node, context.node.program.key, 1, PAPER_PROMPT_VERSION)

    def _judge(self, exchange: Exchange, context: Context, rng: np.random.Generator) -> Proposal | None:
        text = exchange.answer
        if text is None:
            self.model.record(exchange)
            return None
        mutators, unknown = parse_mutators(text)
        outcomes = [Outcome(name, None, "unknown_decision", f"There is no transformation {name}.") for name in unknown]
        what = ", ".join(mutators)
        transformation = None
        if not mutators:
            kind = "no_answer" if text.strip() else "empty"
            outcomes.append(Outcome("", None, kind, "The answer names no transformation."))
        else:
            transformation, refusal = self._drawn(context, mutators, rng)
            if transformation is None:
                outcomes.append(Outcome(what, None, "illegal" if refusal else "no_change", refusal))
            else:
                outcomes.append(Outcome(what, transformation, used=True))
        self.model.record(exchange, outcomes)
        if transformation is None:
            return None
        return Proposal(self.name, clip(text.strip(), MAX_REASONING_CHARS), (transformation,))

    def _drawn(
        self, context: Context, mutators: Sequence[Mutator], rng: np.random.Generator
    ) -> tuple[Transformation | None, str]:
        """Returns the legal part of a sequence, up to the first name that fails, or None and why."""
        values = {d.name: d.value for d in context.table}
        made: Transformation | None = None
        refusal = ""
        for mutator in mutators:
            for _ in range(_MAX_DRAWS):
                edit = draw_edit(context.table, values, mutator, rng)
                if edit is None:
                    break
                tried = values | {edit[0]: edit[1]}
                edits = tuple((d.name, tried[d.name]) for d in context.table if tried[d.name] != d.value)
                refusal = self._check(context.node.program, Transformation(edits)) or ""
                if not refusal:
                    values, made = tried, Transformation(edits, f"after {', '.join(mutators)}")
                    break
            else:
                break
        return (made, "") if made is not None and made.edits else (None, refusal)


def draw_edit(
    table: Sequence[Decision], values: dict[str, Value], mutator: Mutator, rng: np.random.Generator
) -> tuple[str, Value] | None:
    """Returns one decision and another value for it, None where the transformation has nothing to change.

    TileSize draws another tiling for one tile, ComputeLocation another place for one block, Unroll and Parallel
    another value for one decision of that role.

    Args:
        table: the decisions.
        values: their present values.
        mutator: what is to be changed.
        rng: of the draws.
    """
    decisions = [d for d in table if _is_for(mutator, d)]
    for index in rng.permutation(len(decisions)):
        decision = decisions[index]
        value = draw_other(decision.domain, values[decision.name], rng)
        if value is not None:
            return decision.name, value
    return None


def _is_for(mutator: Mutator, decision: Decision) -> bool:
    if mutator == "TileSize":
        return decision.kind == "tile"
    if mutator == "ComputeLocation":
        return decision.kind == "location"
    return decision.kind == "choice" and decision.role == mutator.lower()


def _differences(older: str, newer: str) -> str:
    lines = difflib.unified_diff(older.splitlines(), newer.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _words(line: str) -> list[str]:
    return [word for part in re.split(r"[,;]|->|→|\bthen\b", line) if (word := part.strip(" \t.*`'\"[]()"))]


def _mutator(word: str) -> Mutator | None:
    plain = re.sub(r"^\d+[.)]|[\s_.`'\"*]+", "", _ADDRESS.sub("", word.strip())).lower()
    plain = plain.removeprefix("mutate")
    return next((m for m in MUTATORS if m.lower() == plain), None)

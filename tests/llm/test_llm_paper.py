from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conv_context import conv_context, program, root_context

from reasoning_compiler.core.programs import ChoiceDomain, Decision, Program, Transformation
from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.proposer.llm.calls import CallFailure, Message, Reply
from reasoning_compiler.proposer.llm.metered import MeteredModel
from reasoning_compiler.proposer.llm.paper import (
    MUTATORS,
    PaperProposer,
    build_paper_prompt,
    draw_edit,
    parse_mutators,
)
from reasoning_compiler.proposer.llm.prices import Usage
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.proposer.llm.transcript import Transcript, read_transcript
from reasoning_compiler.proposer.protocol import Context

TABLE = conv_context().table
VALUES = {d.name: d.value for d in TABLE}


class Canned:
    model = "openai:fake"

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list[Any] = []

    def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Any:
        self.prompts.append(messages)
        text = self.texts.pop(0)
        return Reply(text, "stop", Usage(100, 10), 0.0) if text != "FAIL" else CallFailure("server", "500", 0.0)

    def close(self) -> None:
        pass


class Chance:
    name = "random"

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        return Proposal("random", "", (Transformation((("unroll", 0),)),) * num)


def source(p: Program) -> str:
    return "def main():\n" + "\n".join(f"    for {n} in T.serial({v}):" for n, v in p.values.items())


def trace(p: Program) -> str:
    return "\n".join(f"v = sch.sample_perfect_tile(decision={v})" for v in p.values.values())


def proposer(*texts: str, check: Any = lambda p, t: None, **kwargs: Any) -> PaperProposer:
    model = MeteredModel(LLMSettings("canned"), Canned(*texts), transcript=kwargs.pop("transcript", None))
    return PaperProposer(model, source=source, trace=trace, score=lambda s: 0.25 * s.node, check=check,
                         fallback=Chance(), **kwargs)  # fmt: skip


def propose(p: PaperProposer, context: Context | None = None, seed: int = 0) -> Proposal:
    return p.propose(context or conv_context(), 2, np.random.default_rng(seed))


def test_golden_prompt(golden) -> None:
    messages = build_paper_prompt(conv_context(), source=source, trace=trace, score=lambda s: 0.25 * s.node)
    golden("llm_prompt_paper.txt", "\n=== USER ===\n".join(m.text for m in messages) + "\n")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Reasoning...\nTransformations to apply: TileSize, TileSize, Unroll", "TileSize TileSize Unroll"),
        ("**Transformations to apply:** Parallel, ComputeLocation.", "Parallel ComputeLocation"),
        ("Transformations to apply:\nTileSize, Parallel", "TileSize Parallel"),
        ("Mutators: MutateTileSize(0x55d1), MutateComputeLocation", "TileSize ComputeLocation"),
        ("Avoid Parallel here.\nTransformations to apply: 1. Tile Size, 2. unroll", "TileSize Unroll"),
        ('I avoid Parallel. ["TileSize", "Unroll"]', "TileSize Unroll"),
        ("So:\nTileSize -> Unroll -> TileSize", "TileSize Unroll TileSize"),
        ("Avoid Parallel, and maybe try Unroll later.", ""),
        ("", ""),
        ("Transformations to apply: none", ""),
    ],
)
def test_reads_the_sequence_and_no_mere_mention(text: str, names: str) -> None:
    assert parse_mutators(text)[0] == tuple(names.split())


def test_unknown_names_are_told_apart() -> None:
    assert parse_mutators("Mutators: Vectorize, TileSize") == (("TileSize",), ("Vectorize",))


def test_the_sequence_has_an_end() -> None:
    assert len(parse_mutators("Mutators: " + "TileSize," * 5000)[0]) == 64


def test_draws_are_legal_changes_of_the_named_kind_and_reach_all_decisions() -> None:
    domains = {d.name: d for d in TABLE}
    kinds = {"TileSize": {"tile"}, "Unroll": {"choice"}, "ComputeLocation": {"location"}}
    for mutator, allowed in kinds.items():
        touched: Counter[str] = Counter()
        for seed in range(200):
            edit = draw_edit(TABLE, VALUES, mutator, np.random.default_rng(seed))
            assert edit is not None
            assert domains[edit[0]].kind in allowed and domains[edit[0]].domain.why_not(edit[1]) is None
            assert edit[1] != domains[edit[0]].value
            touched[edit[0]] += 1
        movable = {d.name for d in TABLE if d.kind in allowed} - {"conv2d.n tile"}
        assert set(touched) == movable


def test_draws_repeat_for_a_seed_and_leave_out_what_has_nothing_to_change() -> None:
    for mutator in MUTATORS:
        once, again = (draw_edit(TABLE, VALUES, mutator, np.random.default_rng(3)) for _ in range(2))
        assert once == again
    assert draw_edit(TABLE, VALUES, "Parallel", np.random.default_rng(0)) is None
    parallel = (Decision("parallel grain", "choice", ChoiceDomain((16, 32)), 16, role="parallel"),)
    values = {"parallel grain": 16}
    assert draw_edit(parallel, values, "Parallel", np.random.default_rng(0)) == ("parallel grain", 32)


def test_one_call_makes_one_child(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl")
    p = proposer("Deep.\nTransformations to apply: TileSize, Unroll, Vectorize", transcript=transcript)
    proposal = propose(p)
    assert proposal.proposer == "paper" and proposal.reasoning.startswith("Deep.")
    (transformation,) = proposal.transformations
    assert len(transformation.edits) == 2
    assert p.model.stats.rejections == {"unknown_decision": 1} and p.model.stats.fallback_rate == 0
    (exchange,) = read_transcript(tmp_path / "t.jsonl")
    assert exchange.prompt_version == "paper-1" and [o.used for o in exchange.outcomes] == [False, True]


@pytest.mark.parametrize("text", ["no idea", "", "Mutators: Foo", "Mutators: Parallel", "FAIL"])
def test_an_expansion_without_a_valid_name_falls_back_to_chance(text: str) -> None:
    p = proposer(text)
    assert propose(p).proposer == "random"
    assert p.model.stats.fallback_rate == 1.0 and p.model.stats.calls == 1  # no repair in the paper


def test_a_sequence_ends_at_the_first_name_that_fails() -> None:
    def no_unroll(_: Program, t: Transformation) -> str | None:
        return "no unrolling" if "unroll" in dict(t.edits) else None

    p = proposer("Mutators: TileSize, Unroll, ComputeLocation", check=no_unroll)
    (transformation,) = propose(p).transformations
    assert [name.endswith("tile") for name, _ in transformation.edits] == [True]
    p = proposer("Mutators: Unroll", check=no_unroll)
    assert propose(p).proposer == "random" and p.model.stats.rejections == {"illegal": 1}


def test_the_model_is_asked_from_depth_two_on() -> None:
    p = proposer("Mutators: TileSize")
    assert propose(p, root_context()).proposer == "random"
    assert p.model.stats.calls == 0
    assert propose(p).proposer == "paper"


def test_prompt_texts_are_messages() -> None:
    messages = build_paper_prompt(root_context(), source=source, trace=trace, score=lambda s: None)
    assert [type(m) for m in messages] == [Message, Message]
    assert "predicted score none yet" in messages[1].text
    assert json.dumps([m.text for m in messages])
    assert set(MUTATORS) <= set(messages[1].text.replace(",", " ").replace(".", " ").split())
    assert program  # the fixture's programs are what the sources are made of

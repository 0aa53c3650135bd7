"""Ablations of the model: on a recording, and of what it is asked for on (fake) hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_server import FakeServer, Script
from scripted_models import chance, nonsense, served

pytest.importorskip("tvm")
pytest.importorskip("pydantic_ai", reason="the `llm` extra is not installed")

from fake_instrument import FakeInstrument
from reasoning_compiler.experiment import ablate, compare
from reasoning_compiler.experiment.outcome import Outcome
from reasoning_compiler.experiment.tables import page_of, to_text
from reasoning_compiler.journal import TRANSCRIPT_FILE, read_run
from reasoning_compiler.measure import instrument
from reasoning_compiler.proposer.llm.transcript import read_transcript
from reasoning_compiler.session import LLMSettings, Settings, tune

pytestmark = [pytest.mark.tvm, pytest.mark.filterwarnings("ignore:coroutine.*never awaited")]

RECORDING = str(Path(__file__).parents[1] / "landscapes" / "gemm.landscape.gz")
SETTINGS = Settings(samples=8, batch=2)


def model(server: FakeServer, **changes: object) -> LLMSettings:
    return LLMSettings("fake", base_url=server.base_url, price="1/2", expert_share=0.0, **changes)  # type: ignore[arg-type]


def test_a_model_on_a_recording_against_chance(tmp_path: Path) -> None:
    with FakeServer(respond=served(chance, seed=1)) as server:
        results = compare(
            [RECORDING], ["mcts", "llm"], settings=SETTINGS, llm=model(server), repeats=1, out=tmp_path / "out"
        )
    without, row = Outcome(results).rows()
    assert row.calls > 0 and row.tokens > 0 and row.usd is not None and row.usd > 0 and row.fallback_rate == 0
    assert without.calls == 0
    text = to_text(page_of(results))
    assert "fallback rate" in text and "(fake)" in text
    (folder,) = (path for path in (tmp_path / "out" / "cells").iterdir() if path.is_dir() and "llm" in path.name)
    assert "llm" in {step.proposer for step in read_run(folder).steps}


def test_context_depth_is_what_the_prompts_tell(tmp_path: Path) -> None:
    with FakeServer(respond=served(chance, seed=1)) as server:
        results = ablate(
            [RECORDING],
            "context-depth",
            ["0", "5"],
            settings=replace(SETTINGS, samples=20),  # enough for children of children
            llm=model(server),
            repeats=1,
            out=tmp_path / "out",
        )
    assert [variant["settings"]["llm"]["context_depth"] for variant in results["variants"]] == [0, 5]
    told = {}
    for depth in (0, 5):
        (path,) = (tmp_path / "out" / "cells").glob(f"*context-depth={depth}-0/{TRANSCRIPT_FILE}")
        told[depth] = "".join(message.text for exchange in read_transcript(path) for message in exchange.messages)
    assert "(its parent, by" in told[5] and "(its parent, by" not in told[0]


def test_the_fallback_that_is_asked_for_stands_in(tmp_path: Path) -> None:
    with FakeServer(respond=served(nonsense, seed=1)) as server:
        results = ablate([RECORDING], "fallback", settings=SETTINGS, llm=model(server), repeats=1, out=tmp_path / "out")
    rates = [cell["fallback_rate"] for cell in results["cells"]]
    assert all(rate > 0.5 for rate in rates)
    for name in ("expert", "random"):
        (folder,) = (path for path in (tmp_path / "out" / "cells").glob(f"*fallback={name}-0"))
        assert name in {step.proposer for step in read_run(folder).steps}


def test_names_only_asks_as_the_paper_does_and_draws_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrument, "Instrument", FakeInstrument)
    with FakeServer(respond=lambda request: Script("Transformations to apply: TileSize, Unroll")) as server:
        run = tune(
            "gemm[64,64,64]",
            out=tmp_path / "run",
            settings=Settings(samples=24, batch=2, llm=model(server, names_only=True)),
        ).run
    ours = [step for step in run.steps if step.proposer == "paper"]
    assert ours and all(step.transformation is not None for step in ours)
    assert run.config["preset"] == "default"

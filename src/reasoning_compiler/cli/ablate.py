"""`reasonc ablate`: one setting in several values."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoning_compiler.cli.compare import Out, Repeats, Samples, Seed, Workloads
from reasoning_compiler.cli.experimenting import conduct
from reasoning_compiler.cli.model_options import (
    ApiKeyEnv,
    BaseUrl,
    BudgetUsd,
    Llm,
    MaxLlmCalls,
    PriceOption,
    model_settings,
)
from reasoning_compiler.cli.options import Json, Quiet, Threads, Timeout, command_line
from reasoning_compiler.core.errors import UsageError

_ALL = "all"


def _values(help: str) -> typer.models.OptionInfo:
    return typer.Option(help=f"{help}; comma-separated, or all.", rich_help_panel="One of these")


def ablate(
    workloads: Workloads,
    context_depth: Annotated[str | None, _values("Ancestors included in each prompt")] = None,
    branching: Annotated[str | None, _values("Maximum number of children per node")] = None,
    models: Annotated[str | None, _values("Language models, such as openai:gpt-4o-mini")] = None,
    exploration: Annotated[str | None, _values("Exploration constant of UCT")] = None,
    proposals: Annotated[str | None, _values("`concrete` values or `names` of transformations")] = None,
    prior: Annotated[str | None, _values("Analytical prior for predictions: on, off")] = None,
    feedback: Annotated[str | None, _values("Measured latencies in the tree: on, off")] = None,
    nodes: Annotated[str | None, _values("Programs proposed per measured program")] = None,
    batch: Annotated[str | None, _values("Programs measured per batch")] = None,
    fallback: Annotated[str | None, _values("Fallback proposer: expert, random")] = None,
    proposer: Annotated[str, typer.Option(help="Proposer when no model is used: expert or random.")] = "expert",
    samples: Samples = 64,
    repeats: Repeats = 3,
    seed: Seed = 0,
    threads: Threads = None,
    timeout: Timeout = 30.0,
    out: Out = None,
    llm: Llm = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    budget_usd: BudgetUsd = None,
    max_llm_calls: MaxLlmCalls = None,
    price: PriceOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs that differ in one setting."""
    from reasoning_compiler.experiment.compare import ablate as ablate_setting
    from reasoning_compiler.experiment.compare import new_folder
    from reasoning_compiler.session import Settings

    given = {
        "context-depth": context_depth,
        "branching": branching,
        "model": models,
        "exploration": exploration,
        "proposals": proposals,
        "prior": prior,
        "feedback": feedback,
        "nodes": nodes,
        "batch": batch,
        "fallback": fallback,
    }
    chosen = [(what, text) for what, text in given.items() if text is not None]
    if len(chosen) != 1:
        names = ", ".join(f"--{'models' if what == 'model' else what}" for what in given)
        raise UsageError(f"{len(chosen)} settings to ablate are given; give one of {names}")
    what, text = chosen[0]
    values = [] if text == _ALL else [part.strip() for part in text.split(",") if part.strip()]
    if what == "model" and llm is None and values:
        llm = values[0]
    model = model_settings(
        llm,
        base_url=base_url,
        api_key_env=api_key_env,
        budget_usd=budget_usd,
        max_llm_calls=max_llm_calls,
        price=price,
    )
    folder = out or new_folder("ablate")
    conduct(
        lambda watch: ablate_setting(
            workloads,
            what,
            values,
            settings=Settings(samples=samples, seed=seed, threads=threads, timeout_secs=timeout, proposer=proposer),
            repeats=repeats,
            llm=model,
            out=folder,
            command=command_line(),
            watch=watch,
        ),
        folder=folder,
        quiet=quiet,
        as_json=json,
    )

"""`reasonc ablate`: one setting in several values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import typer

from reasoning_compiler.cli.experimenting import ExperimentOptions, Workloads, run_and_show
from reasoning_compiler.cli.model_options import ModelOptions
from reasoning_compiler.cli.options import with_options_of_records
from reasoning_compiler.core.errors import UsageError

_ALL = "all"


def _values(help: str, *flag: str) -> typer.models.OptionInfo:
    return typer.Option(*flag, help=f"{help}; comma-separated, or all.", rich_help_panel="One of these")


@dataclass(frozen=True)
class Varied:
    """The values of the setting that is varied; the others are None. Named as in `ABLATIONS`, with underscores."""

    context_depth: Annotated[str | None, _values("Ancestors included in each prompt")] = None
    branching: Annotated[str | None, _values("Maximum number of children per node")] = None
    model: Annotated[str | None, _values("Language models, such as openai:gpt-4o-mini", "--models")] = None
    exploration: Annotated[str | None, _values("Exploration constant of UCT")] = None
    proposals: Annotated[str | None, _values("`concrete` values or `names` of transformations")] = None
    prior: Annotated[str | None, _values("Analytical prior for predictions: on, off")] = None
    feedback: Annotated[str | None, _values("Measured latencies in the tree: on, off")] = None
    nodes: Annotated[str | None, _values("Programs proposed per measured program")] = None
    batch: Annotated[str | None, _values("Programs measured per batch")] = None
    fallback: Annotated[str | None, _values("Fallback proposer: expert, random")] = None


@with_options_of_records
def ablate(
    workloads: Workloads,
    varied: Varied,
    proposer: Annotated[str, typer.Option(help="Proposer when no model is used: expert or random.")] = "expert",
    *,
    options: ExperimentOptions,
    model: ModelOptions,
) -> None:
    """Compare runs that differ in one setting."""
    from reasoning_compiler.experiment.compare import ablate as ablate_setting

    chosen = {name.replace("_", "-"): text for name, text in vars(varied).items() if text is not None}
    if len(chosen) != 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in vars(varied)).replace("--model", "--models")
        raise UsageError(f"{len(chosen)} settings to ablate are given; give one of {names}")
    ((what, text),) = chosen.items()
    values = [] if text == _ALL else [part.strip() for part in text.split(",") if part.strip()]
    if what == "model" and model.llm is None and values:
        model = replace(model, llm=values[0])
    settings = options.settings(proposer=proposer)
    ablation = partial(ablate_setting, workloads, what, values, settings=settings, llm=model.settings())
    run_and_show("ablate", ablation, options)

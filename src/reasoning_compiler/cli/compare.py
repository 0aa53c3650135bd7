"""`reasonc compare`: methods against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
from reasoning_compiler.cli.options import Batch, Json, Quiet, Threads, Timeout, command_line

Workloads = Annotated[
    list[str],
    typer.Argument(help="Kernels, as for `reasonc tune`, or tabular benchmarks (*.landscape.gz)."),
]
Samples = Annotated[int, typer.Option(help="Number of programs measured per run.")]
Repeats = Annotated[int, typer.Option(help="Runs of each configuration, with consecutive seeds.")]
Seed = Annotated[int, typer.Option(help="First random seed.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Results folder, new or to be resumed. Default: a new one in experiments/."),
]


def compare(
    workloads: Workloads,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated: evolutionary, evolutionary+space, random, mcts, expert, llm, paper."),
    ] = "evolutionary,mcts,expert",
    samples: Samples = 64,
    repeats: Repeats = 3,
    seed: Seed = 0,
    reference: Annotated[
        int | None,
        typer.Option(help="Also run TVM's search once per workload with this many samples, as a reference line."),
    ] = None,
    batch: Batch = 4,
    threads: Threads = None,
    timeout: Timeout = 30.0,
    out: Out = None,
    replay: Annotated[
        list[Path] | None, typer.Option(help="Recorded run that llm or paper replays instead of calling a model.")
    ] = None,
    llm: Llm = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    budget_usd: BudgetUsd = None,
    max_llm_calls: MaxLlmCalls = None,
    price: PriceOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare search methods on equal samples, and test whether the differences are significant."""
    from reasoning_compiler.experiment.compare import compare as compare_methods
    from reasoning_compiler.experiment.compare import new_folder
    from reasoning_compiler.session import Settings

    folder = out or new_folder("compare")
    model = model_settings(
        llm,
        base_url=base_url,
        api_key_env=api_key_env,
        budget_usd=budget_usd,
        max_llm_calls=max_llm_calls,
        price=price,
    )
    conduct(
        lambda watch: compare_methods(
            workloads,
            [name.strip() for name in methods.split(",") if name.strip()],
            settings=Settings(samples=samples, seed=seed, batch=batch, threads=threads, timeout_secs=timeout),
            repeats=repeats,
            reference=reference,
            llm=model,
            replays=replay or (),
            out=folder,
            command=command_line(),
            watch=watch,
        ),
        folder=folder,
        quiet=quiet,
        as_json=json,
    )

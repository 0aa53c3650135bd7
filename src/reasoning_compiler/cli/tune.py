"""`reasonc tune`: tune kernels, on this machine or on devices elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.model_options import LLM_PANEL, ModelOptions
from reasoning_compiler.cli.options import Batch, Json, Quiet, Threads, Timeout, command_line, with_options_of_records
from reasoning_compiler.cli.watch import run_and_show

_DEVICES = {"rich_help_panel": "Other machines"}
Rpc = Annotated[
    str | None, typer.Option(help="Measure on devices registered with this RPC tracker (HOST:PORT).", **_DEVICES)
]
Key = Annotated[str | None, typer.Option(help="The device key used at the tracker.", **_DEVICES)]


@dataclass(frozen=True)
class RunOptions:
    """What a run is told to do, as the command line says it; the fields are those of `Settings`."""

    samples: Annotated[int, typer.Option(help="Number of programs to measure, over all kernels.")] = 64
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None
    patience: Annotated[int | None, typer.Option(help="Stop after this many samples in a row without improvement.")] = (
        None
    )
    proposer: Annotated[str, typer.Option(help="Proposer when no model is used: expert, random, or replay:RUN.")] = (
        "expert"
    )
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0
    batch: Batch = 4
    threads: Threads = None
    target: Annotated[str | None, typer.Option(help="TVM target as JSON. Default: this machine.")] = None
    timeout_secs: Timeout = 30.0
    flush_cache: Annotated[bool, typer.Option("--flush-cache", help="Flush the caches before each timing.")] = False
    preset: Annotated[str, typer.Option(help="`default`, or `paper` for the method of the paper.")] = "default"
    rpc: Rpc = None
    key: Key = None
    machine: Annotated[
        str | None,
        typer.Option(help="Preset that describes the devices (`reasonc machine --preset list`).", **_DEVICES),
    ] = None


@with_options_of_records
def tune(
    workload: Annotated[
        list[str],
        typer.Argument(
            help="Named kernels (`reasonc workloads`), such as llama3-attention[seq_len=512], "
            "or your own, such as kernels.py:my_matmul. Several kernels share the samples."
        ),
    ],
    run: RunOptions,
    model: ModelOptions,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; must be new or empty. Default: a new one under runs/.")
    ] = None,
    context_depth: Annotated[int, typer.Option(help="Ancestors included in each prompt.", **LLM_PANEL)] = 2,
    budget_tokens: Annotated[int | None, typer.Option(help="Maximum number of tokens.", **LLM_PANEL)] = None,
    llm_timeout: Annotated[float, typer.Option(help="Timeout of one call, in seconds.", **LLM_PANEL)] = 120.0,
    llm_concurrency: Annotated[int, typer.Option(help="Number of concurrent calls.", **LLM_PANEL)] = 4,
    expert_share: Annotated[
        float, typer.Option(help="Maximum share of samples from the expert while the model is thinking.", **LLM_PANEL)
    ] = 0.5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune one or more kernels: search for fast programs, verify them and save them as libraries."""
    from reasoning_compiler.session import Settings
    from reasoning_compiler.session import tune as tune_workload

    llm = model.settings(
        context_depth=context_depth,
        budget_tokens=budget_tokens,
        timeout_secs=llm_timeout,
        max_concurrent_calls=llm_concurrency,
        expert_share=expert_share,
    )
    settings = Settings(llm=llm, **vars(run))
    run_and_show(
        lambda watch: tune_workload(
            workload if len(workload) > 1 else workload[0],
            out=out,
            settings=settings,
            on_progress=watch,
            command=command_line(),
        ),
        quiet=quiet,
        as_json=json,
    )

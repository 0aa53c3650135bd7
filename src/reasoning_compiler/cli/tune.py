"""`reasonc tune`: tune kernels, on this machine or on devices elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.model_options import LLM_PANEL, ApiKeyEnv, BaseUrl, Llm, PriceOption, model_settings
from reasoning_compiler.cli.options import Batch, Json, Quiet, Threads, Timeout, command_line
from reasoning_compiler.cli.watch import conduct

_DEVICES = {"rich_help_panel": "Other machines"}
Rpc = Annotated[str | None, typer.Option(help="Measure on the devices of this RPC tracker, as HOST:PORT.", **_DEVICES)]
Key = Annotated[str | None, typer.Option(help="The name under which the devices have registered.", **_DEVICES)]


def register(app: typer.Typer) -> None:
    app.command("tune")(tune)


def tune(
    workload: Annotated[
        list[str],
        typer.Argument(
            help="A named kernel (`reasonc workloads`), as llama3-attention or llama3-attention[seq_len=512], "
            "or a kernel of yours, as kernels.py:my_matmul; or several, which share the samples."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Programs to measure, of all kernels together.")] = 64,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many samples in a row without a faster one.")
    ] = None,
    proposer: Annotated[
        str, typer.Option(help="Who proposes without a model: expert, random, or replay:RUN to do a run again.")
    ] = "expert",
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    batch: Batch = 4,
    threads: Threads = None,
    target: Annotated[str | None, typer.Option(help="The TVM target, as JSON; the machine's own if not given.")] = None,
    timeout: Timeout = 30.0,
    flush_cache: Annotated[bool, typer.Option("--flush-cache", help="Empty the caches before each timing.")] = False,
    out: Annotated[Path | None, typer.Option(help="The run folder; a new one under runs/ if not given.")] = None,
    preset: Annotated[str, typer.Option(help="default, or paper for the paper's own method.")] = "default",
    rpc: Rpc = None,
    key: Key = None,
    machine: Annotated[
        str | None,
        typer.Option(help="What the devices are (`reasonc machine --preset list`), if not as this one.", **_DEVICES),
    ] = None,
    llm: Llm = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    context_depth: Annotated[int, typer.Option(help="Ancestors that a prompt tells of.", **LLM_PANEL)] = 2,
    budget_usd: Annotated[float | None, typer.Option(help="US dollars at most.", **LLM_PANEL)] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Tokens at most.", **LLM_PANEL)] = None,
    max_llm_calls: Annotated[int | None, typer.Option(help="Calls at most.", **LLM_PANEL)] = None,
    price: PriceOption = None,
    llm_timeout: Annotated[float, typer.Option(help="Seconds that one call may take.", **LLM_PANEL)] = 120.0,
    llm_concurrency: Annotated[int, typer.Option(help="Calls under way at once.", **LLM_PANEL)] = 4,
    expert_share: Annotated[
        float, typer.Option(help="Most of the samples that the expert may fill in while the model thinks.", **LLM_PANEL)
    ] = 0.5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a kernel, or several: search for fast programs, verify them, save them as libraries."""
    from reasoning_compiler.session import Settings
    from reasoning_compiler.session import tune as tune_workload

    model = model_settings(
        llm,
        base_url=base_url,
        api_key_env=api_key_env,
        context_depth=context_depth,
        max_llm_calls=max_llm_calls,
        budget_tokens=budget_tokens,
        budget_usd=budget_usd,
        price=price,
        timeout_secs=llm_timeout,
        max_concurrent_calls=llm_concurrency,
        expert_share=expert_share,
    )
    settings = Settings(
        samples=samples,
        minutes=minutes,
        patience=patience,
        proposer=proposer,
        llm=model,
        preset=preset,
        seed=seed,
        batch=batch,
        threads=threads,
        target=target,
        machine=machine,
        rpc=rpc,
        key=key,
        timeout_secs=timeout,
        flush_cache=flush_cache,
    )
    conduct(
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

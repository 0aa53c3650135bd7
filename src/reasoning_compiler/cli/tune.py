"""`reasonc tune`: tune a kernel on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.watch import finish, watching

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def register(app: typer.Typer) -> None:
    app.command("tune")(tune)


def tune(
    workload: Annotated[
        str,
        typer.Argument(
            help="A named kernel (`reasonc workloads`), as llama3-attention or llama3-attention[seq_len=512], "
            "or a kernel of yours, as kernels.py:my_matmul."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Programs to measure.")] = 64,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many samples in a row without a faster one.")
    ] = None,
    proposer: Annotated[str, typer.Option(help="Who proposes: expert or random.")] = "expert",
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    batch: Annotated[int, typer.Option(help="Programs measured between two looks at the tree.")] = 4,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all physical cores if not given.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one program may take.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="The run folder; a new one under runs/ if not given.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a kernel: search for a fast program, verify it, save it as a library."""
    from reasoning_compiler.tuner import Settings
    from reasoning_compiler.tuner import tune as tune_workload

    settings = Settings(
        samples=samples,
        minutes=minutes,
        patience=patience,
        proposer=proposer,
        seed=seed,
        batch=batch,
        threads=threads,
        timeout_secs=timeout,
    )
    with watching(quiet=quiet or json) as watch:
        result = tune_workload(
            workload,
            out=out,
            settings=settings,
            on_progress=watch,
            command=shlex.join(["reasonc", *sys.argv[1:]]),
        )
    finish(result, as_json=json)

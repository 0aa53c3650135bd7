"""`reasonc compare`: methods against each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.experimenting import ExperimentOptions, Workloads, run_and_show
from reasoning_compiler.cli.model_options import ModelOptions
from reasoning_compiler.cli.options import Batch, with_options_of_records


@with_options_of_records
def compare(
    workloads: Workloads,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated: evolutionary, evolutionary+space, random, mcts, expert, llm, paper."),
    ] = "evolutionary,mcts,expert",
    reference: Annotated[
        int | None,
        typer.Option(help="Also run TVM's search once per workload with this many samples, as a reference line."),
    ] = None,
    batch: Batch = 4,
    replay: Annotated[
        list[Path] | None, typer.Option(help="Recorded run that llm or paper replays instead of calling a model.")
    ] = None,
    *,
    options: ExperimentOptions,
    model: ModelOptions,
) -> None:
    """Compare search methods on equal samples, and test whether the differences are significant."""
    from reasoning_compiler.experiment.compare import compare as compare_methods

    comparison = partial(
        compare_methods,
        workloads,
        [name.strip() for name in methods.split(",") if name.strip()],
        settings=options.settings(batch=batch),
        reference=reference,
        llm=model.settings(),
        replays=replay or (),
    )
    run_and_show("compare", comparison, options)

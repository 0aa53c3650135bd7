"""`reasonc fidelity`: how well predictions agree with the hardware."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json, command_line
from reasoning_compiler.cli.output import print_json

_WIDTH = 100


def fidelity(
    paths: Annotated[
        list[str],
        typer.Argument(help="Run folders, results of `compare` and `ablate`, or tabular benchmarks (*.landscape.gz)."),
    ],
    json: Json = False,
) -> None:
    """Show how well predictions agree with measurements: Kendall's τ, top-k hits and error, by stage."""
    from reasoning_compiler.experiment.fidelity import fidelity as measure_fidelity
    from reasoning_compiler.report.fidelity import AGREEMENT_WORDS, Stage, agreement_lines

    found, transfers = measure_fidelity(paths)
    if json:
        record = {
            "kind": "fidelity",
            "command": command_line(),
            "kernels": [asdict(f) for f in found],
            "machines": [asdict(t) for t in transfers],
        }
        print_json(record)
        return
    for each in found:
        typer.echo(f"{each.workload}, {each.machine}, {each.source}")
        total = () if each.source == "recording" else (Stage("all", each.total),)
        typer.echo("\n".join([*agreement_lines((*total, *each.stages), _WIDTH), ""]))
    for transfer in transfers:
        tau = "no order" if transfer.tau is None else f"τ = {transfer.tau:.2f}"
        typer.echo(
            f"{transfer.workload}: measurements on {transfer.one} rank those on {transfer.other} with {tau} "
            f"({transfer.num_programs} programs)"
        )
    typer.echo(AGREEMENT_WORDS)

"""`reasonc fidelity`: how well predictions agree with the hardware."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from reasoning_compiler.cli.options import Json, command_line
from reasoning_compiler.cli.output import print_json

if TYPE_CHECKING:
    from reasoning_compiler.experiment.fidelity import Agreement


def fidelity(
    paths: Annotated[
        list[str],
        typer.Argument(help="Run folders, results of `compare` and `ablate`, or tabular benchmarks (*.landscape.gz)."),
    ],
    json: Json = False,
) -> None:
    """Show how well predictions agree with measurements: Kendall's τ, top-k hits and error, by stage."""
    from reasoning_compiler.experiment.fidelity import fidelity as measure_fidelity

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
        typer.echo(f"  {'':22} {'programs':>8} {'τ':>6} {'top 1':>6} {'top 5':>6} {'error':>7}")
        lines = [("all", each.total)] if each.source != "recording" else []
        for name, agreement in [*lines, *((stage.name, stage.agreement) for stage in each.stages)]:
            typer.echo(f"  {name:22} {_figures(agreement)}")
        typer.echo("")
    for transfer in transfers:
        tau = "no order" if transfer.tau is None else f"τ = {transfer.tau:.2f}"
        typer.echo(
            f"{transfer.workload}: measurements on {transfer.one} rank those on {transfer.other} with {tau} "
            f"({transfer.num_programs} programs)"
        )
    typer.echo(
        "τ: 1 where predictions rank as the hardware does, 0 where they know nothing. Top 1 and 5: the share of the\n"
        "fastest programs that were predicted to be. Error: the median factor between prediction and measurement."
    )


def _figures(agreement: Agreement) -> str:
    def text(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return (
        f"{agreement.num_programs:>8} {text(agreement.tau, '.2f'):>6} {text(agreement.top1, '.0%'):>6} "
        f"{text(agreement.top5, '.0%'):>6} {text(agreement.error, '.2f') + ('×' if agreement.error else ''):>7}"
    )

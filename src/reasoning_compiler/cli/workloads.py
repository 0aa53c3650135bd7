"""`reasonc workloads`: the named kernels."""

from __future__ import annotations

import typer

from reasoning_compiler.cli.options import Json


def register(app: typer.Typer) -> None:
    app.command("workloads")(workloads)


def workloads(json: Json = False) -> None:
    """List the named kernels with their shapes, FLOPs, bytes and parameters."""
    import json as json_module
    from dataclasses import asdict

    from reasoning_compiler.workload import CATALOGUE, describe

    described = [describe(entry) for entry in CATALOGUE.values()]
    if json:
        typer.echo(json_module.dumps([asdict(d) for d in described], indent=2))
        return
    for number, entry in enumerate(described):
        typer.echo(("\n" if number else "") + str(entry))

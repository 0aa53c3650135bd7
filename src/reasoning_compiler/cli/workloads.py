"""`reasonc workloads`: the named kernels."""

from __future__ import annotations

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.cli.output import print_json


def workloads(json: Json = False) -> None:
    """List the named kernels with their shapes, FLOPs, bytes and parameters."""
    from dataclasses import asdict

    from reasoning_compiler.workload import CATALOGUE, describe

    described = [describe(entry) for entry in CATALOGUE.values()]
    if json:
        print_json([asdict(d) for d in described])
        return
    for number, entry in enumerate(described):
        typer.echo(("\n" if number else "") + str(entry))

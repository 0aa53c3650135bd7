"""`reasonc workloads`: the named kernels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.cli.output import print_json

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload


def workloads(json: Json = False) -> None:
    """List the named kernels with their shapes, FLOPs, bytes and parameters."""
    from reasoning_compiler.workload import CATALOGUE, in_a_line, parse

    records = []
    for entry in CATALOGUE.values():
        default, full_size = entry.make(), parse(entry.full_size)
        parameters = [str(parameter) for parameter in entry.parameters]
        sizes = {"default": _figures(default), "full_size": _figures(full_size)}
        records.append({"name": entry.name, "doc": entry.doc, "parameters": parameters, **sizes})
        if not json:
            typer.echo(("\n" if len(records) > 1 else "") + f"{entry.name}: {entry.doc}")
            typer.echo(f"  parameters: {', '.join(parameters)}\n  default: {in_a_line(default)}")
            if full_size.arguments != default.arguments:
                typer.echo(f"  full size, {full_size.spec}: {in_a_line(full_size)}")
    if json:
        print_json(records)


def _figures(workload: Workload) -> dict[str, Any]:
    arguments = [asdict(argument) for argument in workload.arguments]
    return {"spec": workload.spec, "arguments": arguments, "flops": workload.flops, "bytes": workload.bytes}

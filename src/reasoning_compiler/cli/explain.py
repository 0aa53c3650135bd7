"""`reasonc explain`: what limits the programs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json, TaskName
from reasoning_compiler.cli.output import one_or_by_task, print_json


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    node: Annotated[
        int | None, typer.Option(help="Node of the tree. Default: the untuned and the best program.", min=0)
    ] = None,
    task: TaskName = None,
    json: Json = False,
) -> None:
    """Show what limits a program, by block: register tile, vectors, cores, caches, memory traffic, roofline.

    The figures are those of the cost model. The time and the share of the roofline are measured.
    """
    from reasoning_compiler.journal import read_session
    from reasoning_compiler.report.explain import explain_json, explain_text
    from reasoning_compiler.session import explained, machine_of

    session = read_session(run)
    runs = session.chosen(task) if node is None else (session.run(task),)
    told = [(each, explained(each, node), machine_of(each)) for each in runs]
    if json:
        records = [explain_json(programs, each.header, machine) for each, programs, machine in told]
        print_json(one_or_by_task(runs, records))
        return
    for each, programs, machine in told:
        typer.echo(explain_text(programs, each.header, machine), nl=False)
        if node is None and each.outcome.step is None:
            typer.echo("\nThere is no best program: nothing has been measured and verified.")

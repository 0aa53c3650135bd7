"""`reasonc export`: take the best program along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_compiler.cli.options import TaskName, saved_library
from reasoning_compiler.core.errors import UsageError


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Library to write, such as lib.so; its signature is written next to it.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(help="Folder for a MetaSchedule JSON database of all fully measured programs.")
    ] = None,
    task: TaskName = None,
) -> None:
    """Export the best program as a library, or all measured programs as a MetaSchedule database."""
    from reasoning_compiler.deploy import export_database, loading_code, save
    from reasoning_compiler.journal import read_session

    session = read_session(run)
    if out is None and database is None:
        raise UsageError("nothing to write: give `--out lib.so`, `--database FOLDER`, or both")
    if out is not None:
        found = session.run(task)
        about = {"workload": found.header.spec, "num_threads": int(found.header.fingerprint["threads"])}
        save(saved_library(found), out, about=about)
        typer.echo(f"# {out} holds the best program of {run}. To use it:\n\n{loading_code(out)}")
    if database is not None:
        from reasoning_compiler.session import space_of

        count = export_database([(each, space_of(each)) for each in session.chosen(task)], database)
        typer.echo(f"# {database} holds {count} tuning records in MetaSchedule's format.")

"""`reasonc doctor`: whether this machine can tune, and what to do if not."""

from __future__ import annotations

import typer

from reasoning_compiler.cli.tune import Json


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(json: Json = False) -> None:
    """Check everything that tuning needs, and say what mends what is missing."""
    import json as json_module
    from dataclasses import asdict

    from reasoning_compiler.machine.doctor import checks

    found = []
    for check in checks():
        found.append(check)
        if not json:
            typer.echo(f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.detail}")
            if not check.ok:
                typer.echo(f"     {check.advice}")
    if json:
        typer.echo(json_module.dumps([asdict(c) for c in found], indent=2))
    if not all(check.ok for check in found):
        raise typer.Exit(1)

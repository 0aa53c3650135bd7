"""`reasonc doctor`: whether this machine can tune, and what to do if not."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.cli.output import print_json


def doctor(
    llm: Annotated[
        str | None, typer.Option(help="Also check this model, such as openai:gpt-4o-mini, with one small call.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the API key.")] = None,
    json: Json = False,
) -> None:
    """Check everything that tuning needs, and say how to fix what is missing."""
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
        print_json([asdict(c) for c in found])
    if llm is not None:
        from reasoning_compiler.proposer.llm.client import LLMClient
        from reasoning_compiler.proposer.llm.settings import LLMSettings

        with LLMClient(LLMSettings(llm, base_url=base_url, api_key_env=api_key_env, timeout_secs=30)) as client:
            reply = client.check_connection()
        if not json:
            typer.echo(f"ok   model: {llm} answered in {reply.latency_secs:.1f} s, {reply.usage.total} tokens")
    if not all(check.ok for check in found):
        raise typer.Exit(1)

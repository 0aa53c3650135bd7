"""The command's entry: its commands, its options for all, and how errors become one line and an exit code.

Exit codes: 0 done; 1 failed; 2 bad input, or an environment that does not fit; 3 nothing could be measured; 4 the run
folder could not be read or written; 5 TVM crashed repeatedly; 6 no device is available; 130 interrupted (what
was measured is kept); 137 killed.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from reasoning_compiler.cli.ablate import ablate
from reasoning_compiler.cli.compare import compare
from reasoning_compiler.cli.device import app as device_app
from reasoning_compiler.cli.doctor import doctor
from reasoning_compiler.cli.explain import explain
from reasoning_compiler.cli.export import export
from reasoning_compiler.cli.fidelity import fidelity
from reasoning_compiler.cli.machine import machine
from reasoning_compiler.cli.record import record
from reasoning_compiler.cli.report import report
from reasoning_compiler.cli.resume import resume
from reasoning_compiler.cli.run import run
from reasoning_compiler.cli.transcript import transcript
from reasoning_compiler.cli.tune import tune
from reasoning_compiler.cli.workloads import workloads
from reasoning_compiler.core.errors import ReasoningCompilerError

app = typer.Typer(
    name="reasonc",
    help="Tune tensor programs with a search that reasons about them.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # brackets in help texts are workload parameters
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    tune,
    resume,
    report,
    explain,
    run,
    export,
    transcript,
    workloads,
    machine,
    doctor,
    compare,
    ablate,
    fidelity,
    record,
):
    app.command(command.__name__)(command)
app.add_typer(device_app)


def show_version(wanted: bool) -> None:
    """Prints the version and ends the command, where that is wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"reasonc {version('reasoning-compiler')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    os.environ["REASONC_DEBUG"] = "1" if debug else ""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        code = app(prog_name="reasonc", standalone_mode=False)
    except Exception as error:
        if os.environ.get("REASONC_DEBUG"):
            traceback.print_exc()
        text, code = _told(error)
        sys.stderr.write(f"reasonc: {' '.join(text.split())}\n")
    sys.exit(code)


def _told(error: Exception) -> tuple[str, int]:
    """Returns an error as a text for people, and the exit code."""
    if isinstance(error, ReasoningCompilerError):
        return str(error), error.exit_code
    # Typer's own errors: it brings a copy of click or uses click's, depending on its version, so none can be named.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "reasonc"
        return f"{error.format_message().rstrip('.')}; see `{command} --help`", error.exit_code
    return f"unexpected {type(error).__name__}: {error}; please report it with what `reasonc --debug ...` shows", 1

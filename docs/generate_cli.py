"""Writes docs/cli.md from the commands themselves.

python docs/generate_cli.py
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from reasoning_compiler.cli.main import app, options

PAGE = Path(__file__).parent / "cli.md"

INTRODUCTION = """\
# Commands

<!-- Written by docs/generate_cli.py from the commands themselves; do not edit. -->

`reasonc COMMAND --help` (or `-h`) shows the same text. `python -m reasoning_compiler` is the same command.
[first-run.md](first-run.md) explains how to use the commands, and [language-models.md](language-models.md) the
options for language models.

## Exit codes

| code | meaning |
|---|---|
| 0 | success |
| 1 | failure; `reasonc doctor` also returns it if a check fails |
| 2 | bad input, or an unsuitable environment; nothing was lost |
| 3 | no program could be measured and verified |
| 4 | the run folder could not be written or read |
| 5 | TVM crashed repeatedly; all measurements are kept |
| 6 | no device is available; all measurements are kept, and `reasonc resume` continues |
| 130 | interrupted with Ctrl-C; all measurements are kept, and `reasonc resume` continues |
| 137 | the search was killed (SIGKILL, for example out of memory); `reasonc resume` continues |

An error is one line on stderr that says what to do. `reasonc --debug COMMAND …` also shows the traceback.

With `--json`, a command prints one JSON object or list on stdout and nothing else; progress goes to stderr.
"""

_TYPES = {int: "integer", float: "number", str: "text", Path: "path", bool: ""}


class Parameter(NamedTuple):
    """One argument or option: how it is written, its type in a word, its default, its help, and its group."""

    written: str
    type: str
    default: str
    help: str
    panel: str
    is_argument: bool


def page() -> str:
    """Returns the whole page."""
    common = "## Options of all commands\n\nWrite them before the command.\n\n" + _table(parameters(options))
    parts = [INTRODUCTION, common]
    commands = [("", command) for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.typer_instance.info.name
        commands += [(f"{name} ", command) for command in group.typer_instance.registered_commands]
    for group_name, command in commands:
        assert command.name is not None and command.callback is not None
        parts.append(_section(group_name + command.name, command.callback))
    return "\n".join(parts)


def parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    """Yields the parameters of a command, from its signature."""
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.annotation is typer.Context:
            continue
        annotation, info = get_args(parameter.annotation)
        assert isinstance(info, ArgumentInfo | OptionInfo)
        is_argument = isinstance(info, ArgumentInfo)
        kind = _type(annotation)
        required = parameter.default is parameter.empty
        shown = not required and parameter.default is not None and parameter.default is not False
        # In an annotation, typer keeps the first declared name where the default used to be.
        declared = [text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("-")]
        written = name.upper() if is_argument else ", ".join(declared or ["--" + name.replace("_", "-")])
        if is_argument and not required:
            written = f"[{written}]"
        default = f"`{parameter.default}`" if shown else ""
        yield Parameter(written, kind, default, info.help or "", info.rich_help_panel or "", is_argument)


def _section(name: str, callback: Callable[..., Any]) -> str:
    found = list(parameters(callback))
    arguments = [p for p in found if p.is_argument]
    usage = " ".join(["reasonc", name, "[OPTIONS]", *(p.written for p in arguments)])
    lines = [f"## reasonc {name}", "", inspect.cleandoc(callback.__doc__ or ""), "", f"    {usage}", ""]
    panels = dict.fromkeys(p.panel for p in found if not p.is_argument)
    if arguments:
        lines += [_table(arguments)]
    for panel in panels:
        lines += [f"{panel}:\n"] if panel else []
        lines += [_table([p for p in found if not p.is_argument and p.panel == panel])]
    return "\n".join(lines)


def _table(rows: Iterator[Parameter] | list[Parameter]) -> str:
    lines = ["| | type | default | |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.written}`", row.type, row.default, row.help.replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not NoneType)
    if get_origin(annotation) is list:
        return f"{_TYPES[get_args(annotation)[0]]}, several"
    return _TYPES[annotation]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

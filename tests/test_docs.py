"""The documentation against the code: commands, exit codes, settings, formats, links."""

from __future__ import annotations

import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import typer

from reasoning_compiler.cli.main import app
from reasoning_compiler.core import errors
from reasoning_compiler.core import primitives as language
from reasoning_compiler.core.measurements import FailureKind
from reasoning_compiler.core.programs import DecisionKind
from reasoning_compiler.journal import reading
from reasoning_compiler.proposer.llm import answer, calls
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.session import Settings
from reasoning_compiler.workload import CATALOGUE
from test_architecture import ROOMS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_the_page_of_commands_is_what_the_commands_say():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == generator["page"](), "run `python docs/generate_cli.py`, then look at `git diff`"


def test_the_page_of_transformations_is_what_the_code_says():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_transformations.py"))
    written = (ROOT / "docs" / "transformations.md").read_text(encoding="utf-8")
    assert written == generator["page"](), "run `python docs/generate_transformations.py`, then look at `git diff`"


def test_every_primitive_has_an_example_of_its_own():
    for name, signature in language.SIGNATURES.items():
        example = language.Primitive(name, signature.example)
        assert language.checked(example) == example
        assert "{" not in example.words and str(example).startswith(f"{name}(")
    assert set(get_args(language.ArgumentKind)) == set(language.KIND_MEANINGS)
    assert set(get_args(DecisionKind)) == set(language.DECISION_MEANINGS)


def test_every_exit_code_is_told():
    family = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.ReasoningCompilerError)]
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for error in family:
        assert f"\n| {error.exit_code} | " in text, error.__name__


def missing(page, words):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [word for word in words if f"`{word}`" not in text]


def test_every_workload_is_told_with_its_parameters_and_full_size():
    for entry in CATALOGUE.values():
        assert not missing("workloads.md", [entry.name, entry.full_size, *map(str, entry.parameters)]), entry.name


def test_every_setting_is_told():
    names = [field.name for record in (Settings, SearchConfig, LLMSettings) for field in fields(record)]
    assert not missing("python-api.md", names)


def test_every_kind_of_failure_is_told():
    assert not missing("file-formats.md", get_args(FailureKind))
    assert not missing("language-models.md", get_args(answer.RejectionKind))
    assert not missing("language-models.md", get_args(calls.CallFailureKind))


def test_every_event_of_the_journal_is_told():
    taken = [name for draft in (reading._SessionDraft, reading._TaskDraft) for name in vars(draft)]
    events = [name.removeprefix("take_") for name in taken if name.startswith("take_")]
    assert "measured" in events
    assert not missing("file-formats.md", ["run", *events])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_sections_lead_somewhere(page):
    for target, section in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert section in anchors, f"{page.name} links to {target}#{section}"


def test_the_readme_lists_the_folders_in_the_order_of_imports():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    package = ROOT / "src" / "reasoning_compiler"
    assert listed == [room for room in ROOMS if (package / room).is_dir()]


def test_every_page_can_be_reached_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, page.name


def shell_commands(page):
    """Returns the calls of `reasonc` in a page's shell blocks, as lists of arguments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    pieces = [piece for block in blocks for piece in re.split(r"&&|\|\||[\n;|]", block)]
    calls = [shlex.split(piece, comments=True) for piece in pieces if re.search(r"^\s*(\w+=\S+ )*reasonc\b", piece)]
    return [call[call.index("reasonc") + 1 :] for call in calls]


@pytest.mark.parametrize("page", [page for page in PAGES if shell_commands(page)], ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page):
    for call in shell_commands(page):
        command, arguments = typer.main.get_command(app), [argument for argument in call if argument != "--debug"]
        while isinstance(command, typer.core.TyperGroup) and arguments and not arguments[0].startswith("-"):
            assert arguments[0] in command.commands, call
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context("reasonc", arguments, resilient_parsing=False)

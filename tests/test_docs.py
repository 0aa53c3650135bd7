"""The documentation against the code: the commands' page, exit codes, links, and the words that must not appear."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from reasoning_compiler import errors

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_the_page_of_commands_is_what_the_commands_say():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == generator["page"](), "run `python docs/generate_cli.py`, then look at `git diff`"


def test_every_exit_code_is_told():
    family = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.ReasoningCompilerError)]
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for error in family:
        assert f"\n| {error.exit_code} | " in text, error.__name__


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


def test_every_page_can_be_reached_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, page.name

"""Rules speak for themselves: nobody else knows them by name, any can be missing, and others bring theirs."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.machine import preset, tvm_target
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.llm.node import node_text
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.rules import discovery, metaschedule
from reasoning_compiler.rules.rule import Rule
from reasoning_compiler.space.space import Space
from space_kernels import Kernel, attention, gemm, make, te
from test_architecture import MODULES, room_of

pytestmark = pytest.mark.tvm

MACHINE = replace(preset("core-i9"), num_cores=2)
KERNELS = {"product": lambda: gemm(37, 72, 64), "attention": lambda: attention(2, 32, 16)}
DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


@cache
def kernel(name: str) -> Kernel:
    return KERNELS[name]()


def space_of(mod: Any) -> Space:
    target = tvm_target(MACHINE)
    return Space(mod, target, rules=discovery.rules_for(mod, target))


def openings(space: Space, num: int) -> tuple[Transformation, ...]:
    context = Context((Step(0, None, UNTUNED),), space.table(UNTUNED))
    return Expert(space, MACHINE).propose(context, num, np.random.default_rng(0)).transformations


# -- nobody knows a rule by name --------------------------------------------------------------------------------------


def elsewhere() -> Iterator[tuple[Path, ast.AST]]:
    """Yields the nodes of all modules outside `rules/`, their docstrings left out."""
    for path, tree in MODULES.items():
        if room_of(path) != "rules":
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
            told = {id(n.body[0]) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
            todo: list[ast.AST] = [tree]
            while todo:
                node = todo.pop()
                todo += [child for child in ast.iter_child_nodes(node) if id(child) not in told]
                yield path, node


def test_no_rules_class_or_module_is_named_outside_its_room() -> None:
    classes = {rule.__name__ for rule in discovery.known_rules()} | set(metaschedule._NAMES)
    open_doors = {f"reasoning_compiler.rules.{name}" for name in ("rule", "discovery", "metaschedule")}
    found = []
    for path, node in elsewhere():
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reasoning_compiler.rules"):
            found += [f"{path}:{node.lineno} {node.module}"] * (node.module not in open_doors)
        if isinstance(node, ast.Name | ast.Attribute | ast.Constant):
            text = str(getattr(node, "id", getattr(node, "attr", getattr(node, "value", ""))))
            found += [f"{path}:{node.lineno} {text}" for name in classes if name in text]
    assert not found, "\n".join(found)


def test_no_rules_words_are_compared_or_taken_apart_outside_its_room() -> None:
    """A word like "padding" may be said anywhere. But nobody looks for it in a decision's name or value."""
    words = {str(rule.name) for rule in discovery.known_rules()} | set(metaschedule._NAMES.values())
    asking = {"startswith", "endswith", "removesuffix", "removeprefix", "partition", "rpartition", "split", "find"}
    found = []
    for path, node in elsewhere():
        asked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in asking:
            asked = list(node.args)
        for part in (inner for each in asked for inner in ast.walk(each)):
            text = part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
            if text.strip() in words or any(text.endswith(f" {word}") for word in words):
                found.append(f"{path}:{part.lineno} {text}")
    assert not found, "\n".join(found)


def test_no_rule_needs_another_one() -> None:
    names = {rule.__module__.split(".")[2] for rule in discovery.known_rules()}
    found = [
        f"{path} imports {node.module}"
        for path, tree in MODULES.items()
        if room_of(path) == "rules"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reasoning_compiler.rules.")
        if (other := node.module.split(".")[2]) in names and other != path.parts[1].removesuffix(".py")
    ]
    assert len(names) == 7 and not found, "\n".join(found)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("left_out", discovery.known_rules(), ids=lambda rule: rule.__name__)
def test_without_any_one_rule_everything_else_runs(
    name: str, left_out: type[Rule], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [rule for rule in discovery.known_rules() if rule is not left_out]
    monkeypatch.setattr(discovery, "_built_in", lambda: iter(others))
    space = space_of(kernel(name).mod)
    decisions = {decision.rule for decision in space.table(UNTUNED)}
    assert left_out.name not in decisions and "tiling" in decisions
    programs = {space.edit(UNTUNED, proposed) for proposed in openings(space, 3)}
    assert len(programs) == 3 and all(space.nests(program) for program in programs)


# -- a rule of an installed package ---------------------------------------------------------------------------------


def transposition() -> Kernel:
    a = te.placeholder((96, 128), name="A")
    return make([a, te.compute((128, 96), lambda i, j: a[j, i], name="B")], lambda x: x.T)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the documentation's example, as `pip install` would leave it."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    project = DOCS.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    points = re.search(r'\[project\.entry-points\."(.+)"\]\n(.+) = "(.+)"', project)
    assert points is not None
    folder = tmp_path / "site"
    (folder / "blocked_transpose-1.0.dist-info").mkdir(parents=True)
    (folder / "blocked_transpose.py").write_text(code, encoding="utf-8")
    about = folder / "blocked_transpose-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: blocked-transpose\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{points[1]}]\n{points[2]} = {points[3]}\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("blocked_transpose", None)


def test_a_rule_of_a_package_is_found_explained_and_prompted_like_ours(installed: Path) -> None:
    space = space_of(transposition().mod)
    (site,) = (d for d in space.table(UNTUNED) if d.rule == "blocks")
    assert (site.name, site.block, site.domain.values) == ("B blocks", "B", ("as written", "block by block"))
    blocked = space.edit(UNTUNED, Transformation((("B blocks", "block by block"), ("B.i tile", (8, 16)))))
    tiles = [(d.name, d.loop, d.rule) for d in space.table(blocked) if d.kind == "tile"]
    assert tiles == [("B.i tile", "i", "blocks"), ("B.j tile", "j", "blocks")]
    proposed = openings(space, 8)
    assert any(("B blocks", "block by block") in each.edits for each in proposed)
    assert any("B blocks: block by block" in each.reasoning for each in proposed)
    context = Context((Step(1, 0, blocked), Step(0, None, UNTUNED)), space.table(blocked))
    text = node_text(context, 2)
    assert "B blocks" in text and "block by block" in text and "B.i tile" in text


def test_a_rule_of_a_package_takes_part_in_a_run(installed: Path, tmp_path: Path) -> None:
    import reasoning_compiler as rc
    from reasoning_compiler.journal import read_run
    from reasoning_compiler.session.stored import explained

    settings = {"samples": 4, "seed": 1, "threads": 1}
    rc.tune(transposition().mod, out=tmp_path / "run", **settings)
    run = read_run(tmp_path / "run")
    tried = [step for step in run.steps if dict(step.program.structure).get("B blocks") == "block by block"]
    assert any(step.measurement is not None and step.measurement.counts for step in tried)
    (told,) = explained(run, tried[0].node)
    assert isinstance(told.program, Program) and told.analysis.blocks


@pytest.mark.parametrize(
    ("value", "name", "says"),
    [
        ("no_such_module:Rule", "blocks", "cannot be loaded"),
        ("blocked_transpose:_split", "blocks", "no subclass of"),
        ("blocked_transpose:BlockedTranspose", "packing", "two rules are called `packing`"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_line(installed: Path, value: str, name: str, says: str) -> None:
    module = installed / "blocked_transpose.py"
    module.write_text(module.read_text(encoding="utf-8").replace('"blocks"', f'"{name}"'), encoding="utf-8")
    about = installed / "blocked_transpose-1.0.dist-info" / "entry_points.txt"
    about.write_text(f"[{discovery.GROUP}]\nmine = {value}\n")
    with pytest.raises(UsageError, match=says) as refused:
        discovery.known_rules()
    assert "\n" not in str(refused.value)

"""What holds of the package as a whole: imports go one way, TVM stays in its rooms, the library is silent."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "reasoning_compiler"
NAME = "reasoning_compiler"

# In the order in which data flows.
ROOMS = [
    "core",
    "machine",
    "ir",
    "workload",
    "codegen",
    "cost",
    "rules",
    "space",
    "surrogate",
    "proposer",
    "search",
    "measure",
    "journal",
    "report",
    "deploy",
    "session",
    "experiment",
    "cli",
]
DOORS = ["__init__", "__main__"]  # the package's own; they may reach into any room
WITH_TVM = {
    *("machine", "workload", "ir", "codegen", "cost", "rules", "space", "surrogate"),
    *("measure", "deploy", "session", "experiment", "cli"),
}
LIGHT = [
    "search.search",
    "proposer.random",
    "proposer.expert",
    "surrogate.surrogate",
    "cost.analysis",
    "cost.tiling",
    "journal",
    "report",
    "cli.main",
]

MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def place(room: str) -> int:
    """Returns a room's place in the order."""
    assert room in ROOMS, f"give `{room}` a place in ROOMS, and in the design"
    return ROOMS.index(room)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the line and the full name of everything that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def upward(path: Path, tree: ast.AST) -> list[str]:
    """Returns what a module imports from rooms after its own, a line each."""
    here = place(room_of(path))
    found = []
    for line, name in imports(tree):
        parts = name.split(".")
        if parts[0] == NAME and len(parts) > 1 and place(parts[1]) > here:
            found.append(f"{path}:{line} imports {name}")
    return found


def test_imports_go_one_way() -> None:
    found = [line for path, tree in MODULES.items() if room_of(path) not in DOORS for line in upward(path, tree)]
    assert MODULES and not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import reasoning_compiler.cli.main",
        "from reasoning_compiler import cli",
        "def f():\n    from reasoning_compiler.session.session import Session",
        "if TYPE_CHECKING:\n    from reasoning_compiler.measure.instrument import Instrument",
        "import importlib\nimportlib.import_module('reasoning_compiler.cli')",
    ],
)
def test_an_upward_import_is_found_wherever_it_hides(code: str) -> None:
    assert upward(Path("search/search.py"), ast.parse(code))
    assert not upward(Path("cli/tune.py"), ast.parse(code))


def test_tvm_stays_in_its_rooms() -> None:
    found = [
        f"{path}:{line} imports {name}"
        for path, tree in MODULES.items()
        for line, name in imports(tree)
        if room_of(path) not in WITH_TVM and (name.split(".")[0] in ("tvm", "tvm_ffi") or name.endswith(".import_tvm"))
    ]
    assert not found, "\n".join(found)


def test_what_is_light_loads_nothing_heavy() -> None:
    """Also through others: neither TVM nor XGBoost, SciPy, PyTorch or a model's client."""
    heavy = ["tvm", "xgboost", "scipy", "torch", "onnx", "pydantic_ai", "ray", "plotly"]
    code = (
        f"import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        f"    importlib.import_module('{NAME}.' + name)\n"
        f"    print(name, *[heavy for heavy in {heavy!r} if heavy in sys.modules])\n"
    )
    env = {"PYTHONPATH": str(PACKAGE.parent)}
    told = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == LIGHT


def test_the_library_never_prints() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if room_of(path) != "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "pprint")
    ]
    assert not found, "\n".join(found)


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yields a module's public classes and functions, and the public functions of its public protocols."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
                yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


def test_what_is_public_says_what_it_is() -> None:
    found = [f"{path} says nothing" for path, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)]
    found += [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in MODULES.items()
        for node in public(tree)
        if room_of(path) != "cli" and not ast.get_docstring(node)
    ]
    assert not found, "\n".join(found)


def test_no_name_says_nothing() -> None:
    empty = ("manager", "handler", "helper", "utils", "util", "misc", "common")
    found = [str(path) for path in MODULES if path.stem.lower() in empty]
    found += [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.lower().endswith(empty)
    ]
    assert not found, "\n".join(found)

"""Every public function takes a path as a string, a `Path`, or anything else that is like one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reasoning_compiler as rc
from reasoning_compiler import deploy, experiment, session
from reasoning_compiler.core.errors import ReasoningCompilerError
from reasoning_compiler.journal import Journal

PUBLIC = ("", ".deploy", ".experiment", ".report", ".session")
ANY_PATH = "str | os.PathLike[str]"


def callables() -> list[tuple[str, Callable[..., Any]]]:
    """Returns what is public, with its name: functions, classes that take something, and their methods; no records."""
    found = {}
    for room in PUBLIC:
        module = importlib.import_module(f"reasoning_compiler{room}")
        for name in module.__all__:
            each = getattr(module, name)
            if inspect.isfunction(each):
                found[f"{room}.{name}"] = each
            elif inspect.isclass(each) and not dataclasses.is_dataclass(each):
                methods = inspect.getmembers(each, lambda m: inspect.isfunction(m) or inspect.ismethod(m))
                found |= {f"{room}.{name}.{n}": m for n, m in methods if n == "__init__" or not n.startswith("_")}
    return sorted(found.items())


def test_what_takes_a_path_takes_any() -> None:
    takes = {}
    for name, each in callables():
        for parameter in inspect.signature(each).parameters.values():
            said = str(parameter.annotation)
            if "Path" in said or parameter.name in ("out", "folder", "path", "paths", "library", "replays"):
                takes[f"{name}({parameter.name})"] = said
    assert {name: said for name, said in takes.items() if ANY_PATH not in said} == {}
    assert len(takes) > 10


class Anything:
    """A path that is neither a string nor a `Path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, Anything])
@pytest.mark.parametrize(
    "use",
    [
        rc.load,
        rc.read_run,
        rc.resume,
        Journal.resume,
        deploy.TunedKernel,
        deploy.loading_code,
        lambda path: deploy.save(path, path),
        lambda path: deploy.time_against_untuned(path, None, num_threads=1),
        lambda path: experiment.fidelity([path]),
        lambda path: experiment.compare([path], ["mcts"], settings=session.Settings(samples=2), repeats=1),
        lambda path: experiment.record("gemm[8,8,8]", out=path),
        lambda path: rc.tune("gemm[8,8,8]", out=path),
    ],
)
def test_a_path_that_leads_nowhere_is_a_clear_error(
    use: Callable[[Any], Any], kind: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "gone.landscape.gz"
    with pytest.raises(ReasoningCompilerError, match=r"file") as caught:
        use(kind(path))
    assert "object at 0x" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]

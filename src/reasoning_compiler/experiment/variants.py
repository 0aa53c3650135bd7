"""What is compared: methods by name, and the variants of an ablation. Each is a run's settings, or TVM's own search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.journal import read_session
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.session.settings import LLMSettings, Settings

METHODS = {
    "evolutionary": "TVM's evolutionary search in TVM's space, with TVM's defaults",
    "evolutionary+space": "TVM's evolutionary search in our space",
    "random": "independent random programs; no tree, no predictions",
    "mcts": "our tree search with random proposals",
    "expert": "our tree search with the expert",
    "llm": "our tree search with a language model",
    "paper": "the method of the paper: a language model names transformations, values are random",
}
BASELINE = "evolutionary"
_NO_TREE = SearchConfig(root_branching=10**9, nodes_per_sample=1, explore_share=0.0)  # every program is the root's


@dataclass(frozen=True)
class Variant:
    """One thing that is compared.

    Args:
        name: in tables.
        says: what it is, in a phrase.
        settings: of its runs, seed aside; None for TVM's evolutionary search.
        in_our_space: TVM's search with our schedule rules.
        replays: run folders that it repeats in place of asking a model; the workload's own is taken.
    """

    name: str
    says: str
    settings: Settings | None
    in_our_space: bool = False
    replays: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "says": self.says,
            "settings": self.settings.to_json() if self.settings else None,
            "replays": [str(path) for path in self.replays],
        }

    def seeded(self, seed: int, *, key: str) -> Settings:
        """Returns the settings of one run.

        Args:
            seed: of the run.
            key: the workload's; a replay is of the same.

        Raises:
            UsageError: none of the replays is of this workload.
        """
        assert self.settings is not None
        settings = replace(self.settings, seed=seed)
        if not self.replays:
            return settings
        for folder in self.replays:
            if key in [run.header.key for run in read_session(folder).runs]:
                return replace(settings, proposer=f"replay:{folder.resolve()}", llm=None)
        raise UsageError(f"`replay`: none of {', '.join(map(str, self.replays))} is a run of this workload")


def methods(
    names: Sequence[str], base: Settings, *, llm: LLMSettings | None = None, replays: Sequence[Path] = ()
) -> tuple[Variant, ...]:
    """Returns the methods with these names.

    Args:
        names: of `METHODS`, each once.
        base: samples, threads and the like, for all of them.
        llm: the language model of those that need one.
        replays: run folders that stand for the model.

    Raises:
        UsageError: a name is unknown or given twice, or a method needs a model and has neither model nor replay.
    """
    if not names:
        raise UsageError(f"`methods` is empty; there are {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise UsageError(f"there is no method `{name}`; there are {', '.join(METHODS)}")
        if names.count(name) > 1:
            raise UsageError(f"`methods` has {name} twice; name each once")
    presets = {folder: read_session(folder).config.get("preset") for folder in replays}
    unused = [folder for folder, preset in presets.items() if ("paper" if preset == "paper" else "llm") not in names]
    if unused:
        raise UsageError(f"`replay` {unused[0]} is a run with the preset {presets[unused[0]]}: no method repeats it")
    return tuple(_method(name, base, llm, tuple(replays)) for name in names)


def _method(name: str, base: Settings, llm: LLMSettings | None, replays: tuple[Path, ...]) -> Variant:
    says = METHODS[name]
    if name.startswith("evolutionary"):
        return Variant(name, says, None, in_our_space=name == "evolutionary+space")
    if name == "random":
        return Variant(name, says, replace(base, proposer="random", search=_NO_TREE))
    if name == "mcts":
        return Variant(name, says, replace(base, proposer="random"))
    if name == "expert":
        return Variant(name, says, replace(base, proposer="expert"))
    preset = "paper" if name == "paper" else "default"
    mine = tuple(folder for folder in replays if read_session(folder).config.get("preset") == preset)
    if mine:
        replayed = replace(base, proposer=f"replay:{mine[0].resolve()}", preset=preset)
        return Variant(name, f"{says} (replayed)", replayed, replays=mine)
    if llm is None:
        raise UsageError(
            f"`{name}` needs a language model: give `--llm PROVIDER:MODEL`, or `--replay RUN` of such a run"
        )
    return Variant(name, f"{says} ({llm.model})", replace(base, llm=llm, preset=preset))


def line_to_reach(samples: int) -> Variant:
    """Returns TVM's search to so many samples, the line that the methods of a comparison are held against.

    Raises:
        UsageError: samples is less than 1.
    """
    if samples < 1:
        raise UsageError(f"`reference` is {samples}; it must be at least 1")
    return Variant(f"{BASELINE} to {samples}", f"{METHODS[BASELINE]}, once, to {samples} samples", None)


# -- ablations --------------------------------------------------------------------------------------------------------

ABLATIONS = {
    "context-depth": "ancestors included in each prompt; the paper uses 2 (parent and grandparent)",
    "branching": "maximum number of children of a node, B",
    "model": "the language model",
    "exploration": "exploration constant c of UCT; the paper uses √2",
    "proposals": "concrete values, or names of transformations with random values",
    "prior": "analytical prior for predictions",
    "feedback": "whether measured latencies replace predictions in the tree",
    "nodes": "programs proposed and predicted per measured program",
    "batch": "programs measured per batch",
    "fallback": "the proposer that replaces unusable proposals of the model",
}
VALUES: dict[str, tuple[str, ...]] = {
    "context-depth": ("0", "1", "2", "3", "5", "8"),
    "branching": ("1", "2", "4", "8"),
    "exploration": ("0", "0.1", "0.5", "1.414", "3"),
    "proposals": ("concrete", "names"),
    "prior": ("on", "off"),
    "feedback": ("on", "off"),
    "nodes": ("1", "2", "4", "8"),
    "batch": ("1", "2", "4", "8", "16"),
    "fallback": ("expert", "random"),
}
_DEFAULT = {"context-depth": "2", "branching": "2", "exploration": "1.414", "nodes": "4", "batch": "4"}
_NEEDS_MODEL = ("context-depth", "model", "proposals", "fallback")
_SQRT2_TEXT = "1.414"


def ablation(
    what: str, values: Sequence[str], base: Settings, *, llm: LLMSettings | None = None
) -> tuple[tuple[Variant, ...], str]:
    """Returns the variants of an ablation, and the name of the one that the others are compared with.

    Args:
        what: of `ABLATIONS`.
        values: to be tried; empty for all of `VALUES`.
        base: the settings of which one is changed.
        llm: the language model, where one proposes.

    Raises:
        UsageError: what or a value is unknown, or it needs a model and there is none.
    """
    if what not in ABLATIONS:
        raise UsageError(f"there is no ablation `{what}`; there are {', '.join(ABLATIONS)}")
    if what in _NEEDS_MODEL and llm is None:
        raise UsageError(f"`{what}` is about a language model: give `--llm PROVIDER:MODEL`")
    chosen = list(values) or list(VALUES.get(what, ()))
    if len(set(chosen)) < 2:
        raise UsageError(f"`{what}` needs two values or more to compare, and has {', '.join(chosen) or 'none'}")
    base = replace(base, llm=llm)
    variants = tuple(
        Variant(f"{what}={value}", f"{ABLATIONS[what]}: {value}", _changed(what, value, base)) for value in chosen
    )
    default = _DEFAULT.get(what, chosen[0])
    return variants, f"{what}={default if default in chosen else chosen[0]}"


def _changed(what: str, value: str, base: Settings) -> Settings:
    search, llm = base.search, base.llm
    if what == "branching":
        return replace(base, search=replace(search, branching=_whole(what, value)))
    if what == "exploration":
        constant = math.sqrt(2) if value == _SQRT2_TEXT else _number(what, value)
        return replace(base, search=replace(search, exploration=constant))
    if what == "nodes":
        return replace(base, search=replace(search, nodes_per_sample=_whole(what, value)))
    if what == "batch":
        return replace(base, batch=_whole(what, value))
    if what == "prior":
        return replace(base, prior=_one_of(what, value) == "on")
    if what == "feedback":
        return replace(base, search=replace(search, measured_feedback=_one_of(what, value) == "on"))
    assert llm is not None
    if what == "context-depth":
        return replace(base, llm=replace(llm, context_depth=_whole(what, value)))
    if what == "proposals":
        return replace(base, llm=replace(llm, names_only=_one_of(what, value) == "names"))
    if what == "fallback":
        return replace(base, proposer=_one_of(what, value))
    return replace(base, llm=replace(llm, model=value))


def _whole(what: str, text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"`{what}` is {text}; it must be a whole number")
    return int(text)


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"`{what}` is {text}; it must be a number") from None


def _one_of(what: str, text: str) -> str:
    if text not in VALUES[what]:
        raise UsageError(f"`{what}` is {text}; allowed: {', '.join(VALUES[what])}")
    return text

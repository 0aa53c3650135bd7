"""What is compared: methods by name, and the variants of an ablation. Each is a run's settings, or TVM's own search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.journal import read_session
from reasoning_compiler.search.config import SearchConfig
from reasoning_compiler.session.settings import PROPOSERS, LLMSettings, Settings

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


def reference_run(samples: int) -> Variant:
    """Returns TVM's search to so many samples, the line that the methods of a comparison are held against.

    Raises:
        UsageError: samples is less than 1.
    """
    if samples < 1:
        raise UsageError(f"`reference` is {samples}; it must be at least 1")
    return Variant(f"{BASELINE} to {samples}", f"{METHODS[BASELINE]}, once, to {samples} samples", None)


# -- ablations --------------------------------------------------------------------------------------------------------

_RECORDS = {"": Settings, "search": SearchConfig, "llm": LLMSettings}
_MEANINGS = {"on": True, "off": False, "names": True, "concrete": False, "1.414": math.sqrt(2)}


@dataclass(frozen=True)
class Ablation:
    """A setting that an ablation varies.

    Args:
        says: what it is, in a phrase.
        field: its name in `Settings`, or in one of its records, as "search.branching".
        values: what "all" stands for, as text; empty for none.
    """

    says: str
    field: str
    values: tuple[str, ...] = ()

    @property
    def default(self) -> Any:
        """The setting's default, with which the others are compared."""
        record, _, name = self.field.rpartition(".")
        return next(each.default for each in fields(_RECORDS[record]) if each.name == name)

    def read(self, text: str) -> Any:
        """Returns the value that a text means. Raises UsageError where it means none."""
        kind, name = type(self.default), self.field.rpartition(".")[2]
        if kind in (bool, str) and text not in self.values:
            raise UsageError(f"`{name}` is {text}; allowed: {', '.join(self.values)}")
        try:
            return kind(_MEANINGS.get(text, text)) if kind in (bool, int, float) else text
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise UsageError(f"`{name}` is {text}; it must be {number}") from None

    def changed(self, settings: Settings, text: str) -> Settings:
        """Returns the settings with the value that a text means."""
        record, _, name = self.field.rpartition(".")
        change = {name: self.read(text)}
        return replace(settings, **({record: replace(getattr(settings, record), **change)} if record else change))


ABLATIONS = {
    "context-depth": Ablation(
        "ancestors included in each prompt; the paper uses 2 (parent and grandparent)",
        "llm.context_depth",
        ("0", "1", "2", "3", "5", "8"),
    ),
    "branching": Ablation("maximum number of children of a node, B", "search.branching", ("1", "2", "4", "8")),
    "model": Ablation("the language model", "llm.model"),
    "exploration": Ablation(
        "exploration constant c of UCT; the paper uses √2", "search.exploration", ("0", "0.1", "0.5", "1.414", "3")
    ),
    "proposals": Ablation(
        "concrete values, or names of transformations with random values", "llm.names_only", ("concrete", "names")
    ),
    "prior": Ablation("analytical prior for predictions", "prior", ("on", "off")),
    "feedback": Ablation(
        "whether measured latencies replace predictions in the tree", "search.measured_feedback", ("on", "off")
    ),
    "nodes": Ablation(
        "programs proposed and predicted per measured program", "search.nodes_per_sample", ("1", "2", "4", "8")
    ),
    "batch": Ablation("programs measured per batch", "batch", ("1", "2", "4", "8", "16")),
    "fallback": Ablation("the proposer that replaces unusable proposals of the model", "proposer", PROPOSERS),
}


def ablation(
    what: str, values: Sequence[str], base: Settings, *, llm: LLMSettings | None = None
) -> tuple[tuple[Variant, ...], str]:
    """Returns the variants of an ablation, and the name of the one that the others are compared with.

    Args:
        what: of `ABLATIONS`.
        values: to be tried; empty for all.
        base: the settings of which one is changed.
        llm: the language model, where one proposes.

    Raises:
        UsageError: what or a value is unknown, or it needs a model and there is none.
    """
    varied = ABLATIONS.get(what)
    if varied is None:
        raise UsageError(f"there is no ablation `{what}`; there are {', '.join(ABLATIONS)}")
    if llm is None and (what == "fallback" or varied.field.startswith("llm.")):
        raise UsageError(f"`{what}` is about a language model: give `--llm PROVIDER:MODEL`")
    chosen = list(values) or list(varied.values)
    if len(set(chosen)) < 2:
        raise UsageError(f"`{what}` needs two values or more to compare, and has {', '.join(chosen) or 'none'}")
    base = replace(base, llm=llm)
    variants = tuple(Variant(f"{what}={v}", f"{varied.says}: {v}", varied.changed(base, v)) for v in chosen)
    baseline = next((v for v in chosen if varied.read(v) == varied.default), chosen[0])
    return variants, f"{what}={baseline}"

"""Finding rules: those of this folder, and those that installed packages bring.

A module of this folder that has a `RULE` is a rule. A package of anybody's brings one by an entry point:

    [project.entry-points."reasoning_compiler.rules"]
    my-rule = "my_package.my_module:MyRule"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import reasoning_compiler.rules as here
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine.toolchain import last_line
from reasoning_compiler.rules.metaschedule import MetaSchedule, OpenJobs
from reasoning_compiler.rules.rule import Kernel, Rule

GROUP = "reasoning_compiler.rules"
"""The entry points' group."""


def known_rules() -> list[type[Rule]]:
    """Returns all rules but TVM's own: built in, then installed, each in the order of their names.

    Raises:
        UsageError: an installed rule cannot be loaded, is no `Rule`, or has the name of another one.
    """
    found: dict[str, type[Rule]] = {}
    for rule in (*_built_in(), *_installed()):
        other = found.setdefault(str(rule.name), rule)
        if other is not rule:
            raise UsageError(
                f"two rules are called `{rule.name}`: `{_place(other)}` and `{_place(rule)}`; give one another `name`"
            )
    return list(found.values())


def rules_for(mod: Any, target: Any, *, stream_bytes: int | None = None) -> list[Rule]:
    """Returns the rules of a kernel's space, TVM's own and all that are known, in their order.

    Args:
        mod: an IRModule with one schedulable PrimFunc `main`.
        target: the TVM target.
        stream_bytes: what fits into a core's caches; None for a usual second-level cache.
    """
    kernel = Kernel(mod, target) if stream_bytes is None else Kernel(mod, target, stream_bytes)
    return _in_order(kernel, [*MetaSchedule(mod, target).rules(kernel), *(rule(kernel) for rule in known_rules())])


def own_rules_of_tvm(mod: Any, target: Any, *, open_jobs: bool = False) -> list[Rule]:
    """Returns TVM's own rules alone.

    Args:
        mod: see `rules_for`.
        target: see `rules_for`.
        open_jobs: the number of parallel jobs becomes a decision, as in the paper's search.
    """
    kernel = Kernel(mod, target)
    return _in_order(kernel, [*MetaSchedule(mod, target).rules(kernel), *([OpenJobs(kernel)] if open_jobs else [])])


def coarse_rules(mod: Any, target: Any, tiling: str) -> list[Rule]:
    """Returns TVM's own rules with another tiling structure, for spaces small enough to be recorded whole.

    Args:
        mod: see `rules_for`.
        target: see `rules_for`.
        tiling: as "SSRSRS".
    """
    kernel = Kernel(mod, target)
    return _in_order(kernel, MetaSchedule(mod, target).coarse_rules(kernel, tiling))


def _in_order(kernel: Kernel, rules: list[Rule]) -> list[Rule]:
    """Returns rules by phase, those of one phase as they come, and tells the kernel of them."""
    kernel.rules = sorted(rules, key=lambda rule: rule.phase)
    return list(kernel.rules)


def _built_in() -> Iterator[type[Rule]]:
    for module in sorted(pkgutil.iter_modules(here.__path__), key=lambda each: each.name):
        rule = getattr(import_module(f"{here.__name__}.{module.name}"), "RULE", None)
        if rule is not None:
            yield rule


def _installed() -> Iterator[type[Rule]]:
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            rule = point.load()
        except Exception as error:
            raise UsageError(
                f"the rule `{point.name}` ({point.value}) cannot be loaded: {last_line(error)}; "
                "mend or uninstall the package that brings it"
            ) from error
        if not (isinstance(rule, type) and issubclass(rule, Rule)):
            raise UsageError(f"the entry point `{point.name}` ({point.value}) is no subclass of `rules.rule.Rule`")
        yield rule


def _place(rule: type[Rule]) -> str:
    return f"{rule.__module__}.{rule.__qualname__}"

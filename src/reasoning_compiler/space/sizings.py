"""Which decisions of a space size its blocks: tiles, in each way of tiling that rules offer, and what rules size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from reasoning_compiler.core.programs import ChoiceDomain, Decision
from reasoning_compiler.cost.sizing import Sizing
from reasoning_compiler.cost.tiling import TileGroup, TileWords, tile_groups
from reasoning_compiler.ir.extract import nests
from reasoning_compiler.ir.marks import PACKED
from reasoning_compiler.ir.walk import blocks
from reasoning_compiler.rules.rule import Rule, Structure
from reasoning_compiler.space.sketch import Sketch, SketchGenerator

Plainest = Callable[[Sketch], tuple[tuple[Decision, ...], Any] | None]
"""Returns table and schedule of a sketch's plainest program; None where TVM cannot make it."""

Chosen = Mapping[str, str]
"""Alternatives by the names of their structure decisions."""


def find_sizings(sketches: SketchGenerator, plainest: Plainest) -> tuple[Sizing, ...]:
    """Returns the sizings of a space.

    A block that rules offer to tile in other ways has a tile group for each combination of their alternatives; see
    `TileGroup.needs`. An alternative that its rule sizes itself has the rule's own sizing.

    Args:
        sketches: of the space.
        plainest: makes their plainest programs.
    """
    groups = [group for chosen in _ways(sketches) for group in _groups(sketches, plainest, chosen)]
    return (*groups, *_rules_own(sketches, plainest))


def _ways(sketches: SketchGenerator) -> Iterator[Chosen]:
    """Yields combinations of alternatives of rules that tile blocks anew.

    Blocks do not touch each other, so all take such an alternative of a rule's together: the first of each, then the
    second of each, and so on.
    """
    rules = [rule for rule in sketches.rules if rule.retiles]

    def further(chosen: Chosen, at: int, only: frozenset[str] | None) -> Iterator[Chosen]:
        if at == len(rules):
            yield chosen
            return
        yield from further(chosen, at + 1, only)
        found = (site for site in sketches.make(chosen).sites if site.rule == rules[at].name)
        sites = [site for site in found if only is None or site.block in only]
        for rank in range(max((len(_others(site)) for site in sites), default=0)):
            takers = [site for site in sites if rank < len(_others(site))]
            more = {site.name: _others(site)[rank] for site in takers}
            yield from further({**chosen, **more}, at + 1, frozenset(site.block for site in takers))

    yield from further({}, 0, None)


def _others(site: Decision) -> list[str]:
    """Returns the alternatives of a structure decision that are not plain."""
    assert isinstance(site.domain, ChoiceDomain)
    return [each.label for each in site.domain.alternatives if not each.is_plain]


def _groups(sketches: SketchGenerator, plainest: Plainest, chosen: Chosen) -> Iterator[TileGroup]:
    """Yields the tile groups of the blocks that take all the chosen alternatives."""
    sketch = sketches.make(chosen)
    made = plainest(sketch) if chosen.items() <= dict(sketch.structure).items() else None
    if made is None:  # what one rule has copied for itself another one leaves alone
        return
    table, schedule = made
    limits = schedule.get(schedule.get_sblock("root")).annotations  # what the rules leave for the postprocessors
    found = tile_groups(
        nests(schedule.mod),
        table,
        max_jobs=int(limits.get("meta_schedule.parallel", 1)),
        max_vector=int(limits.get("meta_schedule.vectorize", 1)),
        own={nest.block for nest in nests(sketches.mod)},
        packing={str(r.block.name_hint) for r, _ in blocks(schedule.mod["main"].body) if PACKED in r.block.annotations},
    )
    taken = [site for site in sketch.sites if site.name in chosen]
    for group in found:
        mine = [site for site in taken if site.block == group.block]
        if {site.rule for site in mine} == {site.rule for site in taken}:
            needs = tuple((site.name, str(site.value)) for site in mine)
            yield replace(group, needs=needs, words=tuple(_words(sketches, site) for site in mine))


def _words(sketches: SketchGenerator, site: Decision) -> TileWords:
    assert site.alternative is not None
    rule = next(rule for rule in sketches.rules if rule.name == site.rule)
    return partial(rule.words, site.alternative)


def _rules_own(sketches: SketchGenerator, plainest: Plainest) -> Iterator[Sizing]:
    """Yields the sizings of alternatives that rules size themselves."""
    sized = {rule.name: rule for rule in sketches.rules if type(rule).sizing is not Rule.sizing}
    for site in sketches.make({}).sites:
        for label in _others(site) if site.rule in sized else []:
            sketch = sketches.make({site.name: label})
            made = plainest(sketch)
            if made is not None:
                taken = next(each for each in sketch.sites if each.name == site.name)
                sizing = sized[site.rule].sizing(Structure(taken, made[0]))
                if sizing is not None:
                    yield sizing

"""Models that follow rules: one that answers as an engineer would, one by chance, one that talks nonsense.

They see nothing but the prompt's text (`prompt_reader`), as any model does, and answer as text.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fake_server import Script
from prompt_reader import Choice, Seen, Value, read_prompt

Respond = Callable[[dict[str, Any]], Script]
Edits = dict[str, Value]
Values = dict[str, Value]

_FLOAT_BYTES = 4
_FMA_LATENCY_CYCLES = 4
_SPILLED, _ROLLED, _SCALAR = 4.0, 4.0, 4.0  # how many times slower sums outside of registers are, and scalar code
_POOL, _KEPT = 6000, 200  # tilings of a block that are looked at, and kept
_NUM_DRAWN, _FIRST = 60, 0.1  # whole programs for one answer, most of them of the first few tilings
_CURIOSITY, _UNTRIED = 0.05, (-0.15, 0)  # what has not been tried may be better
_KNOWN_PLANS: dict[str, list[_Plan]] = {}
_PLANNING = threading.Lock()


def served(model: Callable[[Seen, random.Random], tuple[str, list[tuple[Edits, str]]]], *, seed: int) -> Respond:
    """Returns what makes a server's answers of a model; the same question gets the same answer."""

    def respond(request: dict[str, Any]) -> Script:
        rng = random.Random(f"{seed} {request['messages']}")
        return Script(written(*model(read_prompt(request), rng)))

    return respond


def written(reasoning: str, proposed: list[tuple[Edits, str]]) -> str:
    """Returns an answer in the form that prompts ask for."""
    listed = [{"edits": edits, "expect": expectation} for edits, expectation in proposed]  # JSON has lists for tuples
    return f"{reasoning}\n```json\n{json.dumps({'transformations': listed})}\n```"


def nonsense(seen: Seen, rng: random.Random) -> tuple[str, list[tuple[Edits, str]]]:
    """Answers with values of the right form and no sense, wrong forms, unknown names, or nothing."""
    names = list(seen.decisions)
    wrong: list[Edits] = [
        {rng.choice(names): (7, 7, 7)},
        {"tile": 3},
        {rng.choice(names): "faster"},
        {rng.choice(names): rng.randrange(-(10**9), 10**9)},
    ]
    return "Blue is faster than cold.", [(rng.choice(wrong), "much") for _ in range(rng.randrange(seen.num + 2))]


def chance(seen: Seen, rng: random.Random) -> tuple[str, list[tuple[Edits, str]]]:
    """Answers with one to three decisions drawn anew, all of them legal."""
    proposed = []
    for _ in range(seen.num):
        open_names = [name for name, choice in seen.decisions.items() if choice.kind in ("tile", "choice")]
        picked = rng.sample(open_names, min(len(open_names), rng.randint(1, 3)))
        proposed.append(({name: _drawn(seen.decisions[name], rng) for name in picked}, "who knows"))
    return "I draw.", proposed


def _drawn(choice: Choice, rng: random.Random) -> Value:
    if choice.kind != "tile":
        return rng.choice(choice.values)
    return rng.choice([t for t in _tilings(choice.extent, choice.num_factors) if t[-1] <= choice.limit])


def _tilings(extent: int, num_factors: int) -> list[tuple[int, ...]]:
    if num_factors == 1:
        return [(extent,)]
    return [(f, *rest) for f in _divisors(extent) for rest in _tilings(extent // f, num_factors - 1)]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


# -- the engineer ---------------------------------------------------------------------------------------------------


def engineer(seen: Seen, rng: random.Random) -> tuple[str, list[tuple[Edits, str]]]:
    """Answers with register tiles that fill the vectors and fit the registers, blocks that fit the caches, and jobs
    for all cores; what was measured corrects what was expected, and what was best is varied."""
    plans = _plans(seen)
    if not plans or not all(plan.best for plan in plans):
        return chance(seen, rng)
    lessons = [(_values(seen, edits), secs) for edits, secs in seen.results]
    learnt = _Learnt(plans, lessons)
    ideas = list(_ideas(seen, plans, lessons, rng))
    ranked = sorted(ideas, key=lambda idea: learnt.cost(idea[0]) * rng.lognormvariate(0, _CURIOSITY))
    proposed: list[tuple[Edits, str]] = []
    shapes: list[tuple[Any, ...]] = []
    known = [*(values for values, _ in lessons), *(_values(seen, edits) for edits in seen.proposed)]
    for values, why in ranked:
        if values in known or _was_refused(seen, values):
            continue
        shape = tuple(plan.register_tile(values) for plan in plans)
        if lessons and shapes.count(shape) > len(shapes) // 2:
            continue  # different in their idea
        changed = {name: value for name, value in values.items() if seen.decisions[name].now != value}
        if changed:
            shapes.append(shape)
            known.append(values)
            proposed.append((changed, why))
        if len(proposed) == seen.num:
            break
    return "Vectors first, then sums in registers, then caches, then jobs.", proposed


def _was_refused(seen: Seen, values: Values) -> bool:
    """Returns whether a program has a structure with which another one was refused."""
    structures = (str(values[n]) for n, c in seen.decisions.items() if c.kind == "structure" and values[n] != c.now)
    return any(structure in seen.refused for structure in structures)


def _plans(seen: Seen) -> list[_Plan]:
    """Returns a plan for each tiled block, made once for a kernel."""
    tiles = {name: choice.extent for name, choice in seen.decisions.items() if choice.kind == "tile"}
    key = repr((seen.cores, seen.lanes, seen.registers, seen.levels, seen.statements, sorted(tiles.items())))
    with _PLANNING:
        if key not in _KNOWN_PLANS:
            _KNOWN_PLANS[key] = [_Plan(seen, block) for block in seen.levels]
        return _KNOWN_PLANS[key]


def _ideas(
    seen: Seen, plans: list[_Plan], lessons: list[tuple[Values, float]], rng: random.Random
) -> Iterator[tuple[Values, str]]:
    """Yields whole programs with a reason: good tilings of all blocks, and variations of the best measured ones."""
    now = _values(seen, {})
    for _ in range(_NUM_DRAWN):
        tiles = [plan.best[min(int(rng.expovariate(_FIRST)), len(plan.best) - 1)] for plan in plans]
        drawn = now | {name: tile for edits in tiles for name, tile in edits.items()}
        yield _settled(seen, plans, drawn), "a register tile and blocks that fit"
        for name, choice in seen.decisions.items():
            if choice.kind == "structure":
                value = rng.choice(choice.values)
                yield _settled(seen, plans, drawn | {name: value}), f"a register tile that fits, {name} {value}"
    for values in [now, *(values for values, _ in sorted(lessons, key=lambda lesson: lesson[1])[:2])]:
        for name, choice in seen.decisions.items():
            for value in _neighbours(choice, values[name]):
                varied = values | {name: value}
                yield (varied if name == "unroll" else _settled(seen, plans, varied)), f"{name} {value} instead"


def _settled(seen: Seen, plans: list[_Plan], values: Values) -> Values:
    """Returns the values with as much unrolling as the register tiles need."""
    needed = max(plan.body(values) for plan in plans)
    unroll = seen.decisions.get("unroll")
    enough = sorted(v for v in unroll.values if isinstance(v, int) and v >= needed) if unroll else []
    return values | {"unroll": enough[0]} if enough else values


def _neighbours(choice: Choice, value: Value) -> Iterator[Value]:
    """Yields a choice's other values; of a tile, those in which one prime factor has moved."""
    if choice.kind != "tile" or not isinstance(value, tuple):
        yield from (other for other in choice.values if other != value)
        return
    for giver, taker in itertools.permutations(range(len(value)), 2):
        for prime in (2, 3, 5, 7):
            if value[giver] % prime == 0:
                moved = list(value)
                moved[giver] //= prime
                moved[taker] *= prime
                if moved[-1] <= choice.limit:
                    yield tuple(moved)


class _Learnt:
    """What programs cost: by the machine's figures, corrected by what was measured."""

    def __init__(self, plans: list[_Plan], lessons: list[tuple[Values, float]]) -> None:
        self._plans = plans
        errors = [math.log(secs / self._plain(values)) for values, secs in lessons]
        self._mean = sum(errors) / len(errors) if errors else 0.0
        self._effects: dict[tuple[str, Value], tuple[float, int]] = {}
        for (values, _), error in zip(lessons, errors, strict=True):
            for fact in self._facts(values):
                total, count = self._effects.get(fact, (0.0, 0))
                self._effects[fact] = total + error - self._mean, count + 1

    def cost(self, values: Values) -> float:
        found = [self._effects.get(fact, _UNTRIED) for fact in self._facts(values)]
        return self._plain(values) * math.exp(sum(total / (count + 1) for total, count in found))

    def _plain(self, values: Values) -> float:
        return sum(plan.cost(values) for plan in self._plans)

    def _facts(self, values: Values) -> Iterator[tuple[str, Value]]:
        """Yields what a difference may be due to: each decision that no tile is, and each register tile."""
        yield from ((name, value) for name, value in values.items() if not isinstance(value, tuple))
        yield from ((plan.block, plan.register_tile(values)) for plan in self._plans)


def _values(seen: Seen, edits: Mapping[str, Value]) -> Values:
    return {name: edits.get(name, choice.now) for name, choice in seen.decisions.items()}


class _Plan:
    """What there is to decide for one tiled block, and what it would cost by the machine's figures."""

    def __init__(self, seen: Seen, block: str) -> None:
        self.block = block
        self._machine = (seen.cores, seen.lanes, seen.registers, seen.l1_bytes, seen.l2_bytes)
        levels = seen.levels[block]
        self._spatial = [loop.rpartition("_")[0] for loop in levels[0]]
        axes = dict.fromkeys(loop.rpartition("_")[0] for level in levels for loop in level)
        self._reduced = [axis for axis in axes if axis not in self._spatial]
        accesses = seen.statements.get(block, [])
        written = accesses[0][1].split(", ") if accesses else self._spatial
        self._vector = next((axis for axis in reversed(written) if axis in self._spatial), self._spatial[-1])
        self._strided = any(
            self._vector in indices.split(", ") and not indices.endswith(self._vector) for _, indices in accesses[2:]
        )
        choices = {axis: seen.decisions.get(f"{block}.{axis} tile") for axis in axes}
        self._fixed = {axis: (1,) * (2 if axis in self._reduced else 4) for axis, c in choices.items() if c is None}
        self.best = self._cheapest({axis: c for axis, c in choices.items() if c is not None})

    def _tile(self, axis: str, values: Mapping[str, Value]) -> tuple[int, ...]:
        return self._fixed.get(axis) or values[f"{self.block}.{axis} tile"]  # type: ignore[return-value]

    def register_tile(self, values: Mapping[str, Value]) -> tuple[int, ...]:
        """Returns the innermost factors of the loops that do not reduce."""
        return tuple(self._tile(axis, values)[-1] for axis in self._spatial)

    def body(self, values: Mapping[str, Value]) -> int:
        """Returns the statements inside the innermost reduction, the vectorized loop being one."""
        return math.prod(self._tile(axis, values)[-1] for axis in self._spatial if axis != self._vector)

    def cost(self, values: Mapping[str, Value]) -> float:
        """Returns cycles of all multiplications, more where something does not fit."""
        cores, lanes, registers, l1_bytes, l2_bytes = self._machine
        tiles = {axis: self._tile(axis, values) for axis in (*self._spatial, *self._reduced)}
        inner, rows = tiles[self._vector][-1], self.body(values)
        vectors = math.ceil(inner / lanes)
        sums = rows * vectors
        steps = math.prod(math.prod(tile) for tile in tiles.values()) / (rows * inner)
        loads = vectors * (lanes if self._strided else 1) + rows
        cycles = steps * max(sums / 2, loads / 2, _FMA_LATENCY_CYCLES)
        if inner < lanes:
            cycles *= _SCALAR
        if sums + vectors + 1 > registers:
            cycles *= _SPILLED
        unroll = values.get("unroll")
        if isinstance(unroll, int) and unroll < rows:
            cycles *= _ROLLED
        depth = math.prod(tiles[axis][-1] for axis in self._reduced)
        block_rows = math.prod(math.prod(tiles[a][2:]) for a in self._spatial if a != self._vector)
        columns = math.prod(tiles[self._vector][2:])
        panel = _FLOAT_BYTES * depth * (inner + rows)
        block = _FLOAT_BYTES * (depth * (block_rows + columns) + block_rows * columns)
        cycles *= 1 + 4 / depth  # sums go to memory and back once for each step of the outer reduction
        cycles *= 1 + 0.3 * max(0.0, math.log2(2 * panel / l1_bytes)) + 0.3 * max(0.0, math.log2(2 * block / l2_bytes))
        cycles *= 1 + 8 / block_rows + 8 / columns  # each block's operands are fetched anew
        jobs = math.prod(tiles[axis][0] for axis in self._spatial)
        return cycles * math.ceil(jobs / cores) / jobs

    def _cheapest(self, choices: dict[str, Choice]) -> list[Edits]:
        """Returns tilings, cheapest first, out of all that make sense or many of them."""
        rows = [axis for axis in choices if axis in self._spatial and axis != self._vector]
        rows.sort(key=lambda axis: -choices[axis].extent)
        options = {axis: self._options(axis, choice, axis in rows[:2]) for axis, choice in choices.items()}
        if not all(options.values()):
            return []
        if math.prod(map(len, options.values())) <= _POOL:
            picks: Any = itertools.product(*options.values())
        else:
            rng = random.Random(self.block)
            picks = {tuple(rng.choice(tiles) for tiles in options.values()) for _ in range(_POOL)}
        named = [{f"{self.block}.{a} tile": t for a, t in zip(options, pick, strict=True)} for pick in picks]
        return sorted(named, key=self.cost)[:_KEPT]

    def _options(self, axis: str, choice: Choice, is_row: bool) -> list[Value]:
        tiles = [t for t in _tilings(choice.extent, choice.num_factors) if t[-1] <= choice.limit]
        cores, lanes, *_ = self._machine
        if axis in self._reduced:
            return [t for t in tiles if choice.extent <= 8 or t[-1] >= min(16, choice.extent)]
        if axis == self._vector:
            return [t for t in tiles if t[-1] % lanes == 0] or tiles
        return [t for t in tiles if t[-1] <= 16 and t[0] <= 16 * cores and (is_row or t[-1] == t[1] == 1)]

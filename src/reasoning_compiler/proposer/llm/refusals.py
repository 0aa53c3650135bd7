"""What the space refused of a model's answers: remembered for the next prompt, and answered with what would work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reasoning_compiler.core.programs import Program, Transformation

Check = Callable[[Program, Transformation], str | None]
"""Returns None for a transformation that the space allows, else why it refuses it."""

_MAX_TRIED = 24
_MAX_KEPT = 16


class Refusals:
    """The refused transformations of each program. Safe to use from several threads.

    Args:
        check: of the space.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._of: dict[str, list[tuple[Transformation, str]]] = {}

    def of(self, program: Program) -> Sequence[tuple[Transformation, str]]:
        """Returns what was refused for a program and why, the newest last."""
        with self._lock:
            return tuple(self._of.get(program.key, ()))

    def add(self, program: Program, transformation: Transformation, why: str) -> str:
        """Remembers a refusal and returns its reason; where the same wish was refused before, with an edit that works.

        Two transformations are the same wish where they set the same decisions and use the same primitives.
        """
        wish = _wish(transformation)
        again = any(_wish(other) == wish for other, _ in self.of(program))
        if again and (works := self._part_that_works(program, transformation)) is not None:
            why = f"{why}. This part of it works: {works}"
        with self._lock:
            kept = self._of.setdefault(program.key, [])
            kept.append((transformation, why))
            del kept[:-_MAX_KEPT]
        return why

    def _part_that_works(self, program: Program, transformation: Transformation) -> str | None:
        for _, part in zip(range(_MAX_TRIED), _parts(transformation), strict=False):
            if self._check(program, part) is None:
                steps: dict[str, Any] = {"edits": dict(part.edits)}
                steps |= {"then": [step.to_json() for step in part.primitives]} if part.primitives else {}
                return json.dumps(steps, ensure_ascii=False)
        return None


def _wish(transformation: Transformation) -> object:
    names = frozenset(name for name, _ in transformation.edits)
    return names, frozenset(step.name for step in transformation.primitives)


def _parts(transformation: Transformation) -> Iterator[Transformation]:
    """Yields what is left of a transformation without one of its steps or edits, then the largest parts of it."""
    edits, steps = transformation.edits, transformation.primitives
    for i in reversed(range(len(steps))):
        yield replace(transformation, primitives=steps[:i] + steps[i + 1 :])
    for i in range(len(edits)):
        yield replace(transformation, edits=edits[:i] + edits[i + 1 :])
    for i in reversed(range(1, len(steps))):
        yield replace(transformation, primitives=steps[:i])
    if steps and edits:
        yield replace(transformation, primitives=())
        yield replace(transformation, edits=())

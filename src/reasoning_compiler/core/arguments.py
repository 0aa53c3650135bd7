"""The arguments of a kernel, as a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reasoning_compiler.core.records import Record

ArgumentRole = Literal["input", "weight", "output"]


@dataclass(frozen=True)
class Argument(Record):
    """One argument of a kernel; weights are constant and may be laid out ahead of time."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: ArgumentRole = "input"

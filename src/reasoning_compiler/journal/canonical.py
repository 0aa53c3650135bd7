"""A journal without its clock, so that two runs of one seed can be compared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reasoning_compiler.journal.format import read_events

_TIME_FIELDS = ("at_secs", "stage_secs", "secs", "created")
_MEASUREMENT_FIELDS = ("measurement", "confirmed", "untuned")
_MEASUREMENT_TIME_FIELDS = ("build_secs", "run_secs")


def canonical_lines(folder: str | os.PathLike[str]) -> list[str]:
    """Returns a run's events as JSON texts, without anything that a clock said of the run itself.

    Latencies stay: a replayed or simulated measurement gives the same ones.

    Raises:
        UsageError: the folder holds no journal.
        JournalError: the journal cannot be read or is damaged before its end.
    """
    return [json.dumps(_without_times(event), sort_keys=True) for _, event in read_events(Path(folder))]


def _without_times(event: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in event.items() if name not in _TIME_FIELDS}
    for name in _MEASUREMENT_FIELDS:
        if kept.get(name):
            kept[name] = {n: v for n, v in kept[name].items() if n not in _MEASUREMENT_TIME_FIELDS}
    return kept

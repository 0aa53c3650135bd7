"""What the benchmarks share: TVM's own search as a baseline, and results with their circumstances."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kept import RESULTS, store

from reasoning_compiler.experiment.evolutionary import evolutionary
from reasoning_compiler.machine import detect, fingerprint

__all__ = ["RESULTS", "evolutionary", "publish", "spread"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and greatest of some numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def publish(name: str, record: dict[str, Any], *, python: str = "") -> None:
    """Prints a result and writes it, with the machine, versions and command, to `results/NAME.json.gz`.

    Args:
        name: of the result.
        record: what was measured.
        python: the interpreter of the peers; where it lies is nobody's concern, so the command has PYTHON in its place.
    """
    machine = detect()
    arguments = ("PYTHON" if given == python else given for given in sys.argv[1:])
    about = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
        "machine": machine.to_json(),
        "fingerprint": fingerprint(machine, machine.num_cores),
    }
    store(name, about | record)
    print(json.dumps(record, indent=1))

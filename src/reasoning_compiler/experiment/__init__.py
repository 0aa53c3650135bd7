"""Experiments that anyone can repeat: methods compared, settings ablated, predictions judged, benchmarks recorded."""

from __future__ import annotations

from reasoning_compiler.experiment.compare import ablate, compare
from reasoning_compiler.experiment.fidelity import fidelity
from reasoning_compiler.experiment.record import record

__all__ = ["ablate", "compare", "fidelity", "record"]

"""One run of one method on one workload with one seed, in numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from reasoning_compiler.journal import Run
from reasoning_compiler.report import summarize


@dataclass(frozen=True)
class Cell:
    """What one run came to; JSON both ways.

    Args:
        workload: its spec.
        variant: the method's or variant's name.
        seed: of the run.
        samples: for each measured program in order (seconds since the run began; its latency in seconds, None where it
            failed, was not verified or was stopped early because it had lost).
        untuned_secs: the untuned program's latency in this run; None where it was not measured.
        wall_secs: of the whole run.
        calls: to a language model.
        tokens: of prompts and answers.
        usd: None where the price is unknown.
        fallback_rate: share of the questions to a model of whose answers nothing was usable; None without a model.
        ended: why.
    """

    workload: str
    variant: str
    seed: int
    samples: tuple[tuple[float, float | None], ...]
    untuned_secs: float | None
    wall_secs: float
    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    fallback_rate: float | None = None
    ended: str = "samples"

    @property
    def best_secs(self) -> list[float]:
        """The best latency after each sample; infinite before there is one."""
        found, best = [], math.inf
        for _, secs in self.samples:
            best = min(best, math.inf if secs is None else secs)
            found.append(best)
        return found

    def to_json(self) -> dict[str, Any]:
        samples = [[round(at, 3), None if secs is None else float(f"{secs:.5g}")] for at, secs in self.samples]
        return asdict(self) | {"samples": samples, "wall_secs": round(self.wall_secs, 3)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Cell:
        return cls(**(obj | {"samples": tuple((at, secs) for at, secs in obj["samples"])}))


def cell_of(run: Run, variant: str, *, workload: str) -> Cell:
    """Returns a run as a cell; of two measurements of one node, the first counts.

    Args:
        run: finished.
        variant: whose run it is.
        workload: as the experiment calls it.
    """
    summary = summarize(run)
    first = {sample.node: sample for sample in reversed(run.samples) if sample.node}
    in_order = sorted(first.values(), key=lambda sample: sample.at_secs)
    untuned = run.outcome.untuned or run.untuned
    spent = [use.stats["spent"] for use in run.models]
    priced = not any(part["unpriced_calls"] for part in spent)
    return Cell(
        workload=workload,
        variant=variant,
        seed=int(run.config["seed"]),
        samples=tuple((s.at_secs, s.measurement.latency_secs if s.measurement.counts else None) for s in in_order),
        untuned_secs=untuned.latency_secs if untuned is not None and untuned.ok else None,
        wall_secs=run.elapsed_secs,
        calls=sum(use.stats["calls"] for use in run.models),
        tokens=sum(part["tokens"] for part in spent),
        usd=sum(part["usd"] for part in spent) if priced else None,
        fallback_rate=summary.fallback_rate,
        ended=summary.status,
    )

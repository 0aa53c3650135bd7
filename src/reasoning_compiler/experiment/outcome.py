"""What an experiment came to: the numbers of its tables, from its results alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning_compiler.experiment.cell import Cell
from reasoning_compiler.experiment.significance import Paired, holm
from reasoning_compiler.report.picture import Curve

DEFINITIONS = (
    ("speed-up", "time of the untuned program over time of the run's winner; winners of one seed timed in turns"),
    ("samples to reach it", "programs measured until the winner was found, itself counted, failures too"),
    ("sample reduction", "the baseline's samples to reach its speed-up over the method's to reach its own"),
    ("sample-efficiency gain", "speed-up per sample over the baseline's speed-up per sample"),
    ("matches the baseline at", "the first sample at which the best so far is as fast as the baseline's last best"),
    ("matches the reference at", "likewise, as fast as the reference at its end"),
    ("wall time", "of the whole run: search, building, timing and verifying"),
    ("fallback rate", "share of the questions to a language model for which nothing that it proposed was usable"),
)
NOT_TIMED = math.inf


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some numbers."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One method on one workload, over all seeds; see `DEFINITIONS`.

    Args:
        workload: its spec.
        variant: the method.
        num_seeds: runs that found something.
        num_failed: runs that measured nothing.
        speedup: None where nothing was found.
        samples: to reach it.
        reduction: against the baseline; None for the baseline itself.
        efficiency: likewise.
        matched: the sample at which the baseline's last best is matched, of the seeds in which it is; None where none.
        num_matched: seeds in which it is.
        reference_matched: the sample at which the reference's best is matched; None where none does, or there is none.
        num_reference_matched: seeds in which it is.
        wall_secs: of a run.
        calls: to a language model, for a run.
        tokens: likewise.
        usd: likewise; None where the price is unknown.
        fallback_rate: None without a model.
    """

    workload: str
    variant: str
    num_seeds: int
    num_failed: int
    speedup: Spread | None
    samples: Spread | None
    reduction: float | None
    efficiency: float | None
    matched: Spread | None
    num_matched: int
    reference_matched: Spread | None
    num_reference_matched: int
    wall_secs: Spread | None
    calls: float
    tokens: float
    usd: float | None
    fallback_rate: float | None


@dataclass(frozen=True)
class Overall:
    """One method over all workloads, against the baseline.

    Args:
        variant: the method.
        speedup: geometric mean of the workloads' median speed-ups.
        reduction: geometric mean of the sample reductions; None for the baseline.
        efficiency: geometric mean of the sample-efficiency gains; None for the baseline.
        test: of the logarithms of the winners' times against the baseline's, over workloads; None for the baseline.
        p: its p, adjusted for how many methods are compared.
    """

    variant: str
    speedup: float | None
    reduction: float | None
    efficiency: float | None
    test: Paired | None
    p: float


class Outcome:
    """The numbers of an experiment.

    Args:
        results: as `run_experiment` returns them.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.baseline: str = results["baseline"]
        self.cells = [Cell.from_json(cell) for cell in results["cells"]]
        self.references = {cell["workload"]: Cell.from_json(cell) for cell in results.get("references", ())}
        self.says = {variant["name"]: variant["says"] for variant in results["variants"]}
        self.workloads = [w for w in results["workloads"] if any(c.workload == w for c in self.cells)]
        self.variants = [name for name in self.says if any(c.variant == name for c in self.cells)]
        self.seeds = sorted({cell.seed for cell in self.cells})
        self._final = {
            (final["workload"], final["seed"], name): statistics.median(secs)
            for final in results["finals"]
            for name, secs in final["secs"].items()
            if secs
        }

    def untuned_secs(self, workload: str) -> float | None:
        """Returns the untuned program's time: the median of all that was measured of it."""
        found = [cell.untuned_secs for cell in self._of(workload) if cell.untuned_secs is not None]
        found += [s for (w, _, name), s in self._final.items() if w == workload and name == "untuned"]
        return statistics.median(found) if found else None

    def winner_secs(self, cell: Cell) -> float:
        """Returns the time of a run's winner, infinite where it has none."""
        timed = self._final.get((cell.workload, cell.seed, cell.variant))
        return timed if timed is not None else min(cell.best_secs, default=NOT_TIMED)

    def rows(self) -> list[Row]:
        """Returns the table, workload by workload."""
        return [self._row(w, v) for w in self.workloads for v in self.variants if self._of(w, v)]

    def overall(self) -> list[Overall]:
        """Returns the methods over all workloads, each tested against the baseline."""
        rows = self.rows()
        tests = {v: Paired.of(self.differences(v)) for v in self.variants if v != self.baseline}
        adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
        return [
            Overall(
                v,
                _geomean(r.speedup.median for r in rows if r.variant == v and r.speedup),
                _geomean(r.reduction for r in rows if r.variant == v and r.reduction is not None),
                _geomean(r.efficiency for r in rows if r.variant == v and r.efficiency is not None),
                tests.get(v),
                adjusted.get(v, 1.0),
            )
            for v in self.variants
        ]

    def differences(self, variant: str) -> list[float]:
        """Returns log(variant's time / baseline's) for each workload, the median over the seeds that both have.

        A run that found nothing is one that takes forever: a loss for the variant, a win where it is the baseline's.
        """
        base = {(c.workload, c.seed): self.winner_secs(c) for c in self.cells if c.variant == self.baseline}
        by_workload = {
            workload: [
                _log_ratio(self.winner_secs(c), base[workload, c.seed])
                for c in self._of(workload, variant)
                if (workload, c.seed) in base
            ]
            for workload in self.workloads
        }
        medians = [statistics.median(seeds) for seeds in by_workload.values() if seeds]
        return [0.0 if math.isnan(median) else median for median in medians]  # half of the runs lost, half won

    def curves(self) -> dict[str, list[Curve]]:
        """Returns the best-so-far speed-ups by workload; none for those whose untuned program was not measured."""
        curves: dict[str, list[Curve]] = {}
        for workload in self.workloads:
            untuned = self.untuned_secs(workload)
            for variant in self.variants:
                cells = [cell for cell in self._of(workload, variant) if cell.samples]
                if untuned is not None and cells:
                    lines = tuple(tuple(_ratio(untuned, s) for s in cell.best_secs) for cell in cells)
                    curves.setdefault(workload, []).append(Curve(variant, lines))
        return curves

    def reference_speedups(self) -> dict[str, tuple[str, float]]:
        """Returns the reference's name, and how much faster than the untuned program it ends, by workload."""
        found: dict[str, tuple[str, float]] = {}
        for workload, cell in self.references.items():
            untuned, secs = self.untuned_secs(workload), self.winner_secs(cell)
            if untuned is not None and math.isfinite(secs):
                found[workload] = cell.variant, untuned / secs
        return found

    def noise(self) -> float | None:
        """Returns how far timings of one winner spread: the median of (upper - lower quartile) / median."""
        spreads = []
        for final in self.results["finals"]:
            for name, secs in final["secs"].items():
                if name != "untuned" and len(secs) > 3:
                    low, middle, high = statistics.quantiles(secs, n=4, method="inclusive")
                    spreads.append((high - low) / middle)
        return statistics.median(spreads) if spreads else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _of(self, workload: str, variant: str | None = None) -> list[Cell]:
        return [c for c in self.cells if c.workload == workload and variant in (None, c.variant)]

    def _row(self, workload: str, variant: str) -> Row:
        cells = [cell for cell in self._of(workload, variant) if math.isfinite(self.winner_secs(cell))]
        base = {c.seed: c for c in self._of(workload, self.baseline) if math.isfinite(self.winner_secs(c))}
        untuned = self.untuned_secs(workload)
        speedup = _spread([untuned / self.winner_secs(c) for c in cells]) if untuned is not None else None
        samples = _spread([_samples_to_best(c) for c in cells])
        base_speedup = _spread([untuned / self.winner_secs(c) for c in base.values()]) if untuned is not None else None
        base_samples = _spread([_samples_to_best(c) for c in base.values()])
        reduction = efficiency = None
        if variant != self.baseline and samples and base_samples:
            reduction = base_samples.median / samples.median
            if speedup and base_speedup:
                efficiency = speedup.median / base_speedup.median * reduction
        matches = [m for c in cells if c.seed in base and (m := _matched(c, base[c.seed])) is not None]
        line = self.references.get(workload)
        reaches = [m for c in cells if line is not None and (m := _matched(c, line)) is not None]
        rates = [cell.fallback_rate for cell in cells if cell.calls and cell.fallback_rate is not None]
        usd = [cell.usd for cell in cells]
        return Row(
            workload=workload,
            variant=variant,
            num_seeds=len(cells),
            num_failed=len(self._of(workload, variant)) - len(cells),
            speedup=speedup,
            samples=samples,
            reduction=reduction,
            efficiency=efficiency,
            matched=_spread(matches),
            num_matched=len(matches),
            reference_matched=_spread(reaches),
            num_reference_matched=len(reaches),
            wall_secs=_spread([cell.wall_secs for cell in cells]),
            calls=statistics.mean(cell.calls for cell in cells) if cells else 0.0,
            tokens=statistics.mean(cell.tokens for cell in cells) if cells else 0.0,
            usd=None if any(u is None for u in usd) else statistics.mean(usd) if usd else 0.0,  # type: ignore[type-var]
            fallback_rate=statistics.mean(rates) if rates else None,
        )


def _samples_to_best(cell: Cell) -> int:
    """Returns after how many samples the best was found."""
    best = cell.best_secs
    return best.index(best[-1]) + 1


def _matched(cell: Cell, base: Cell) -> int | None:
    """Returns the first sample at which a run is as fast as another one at its end; None where it never is."""
    target = base.best_secs[-1]
    return next((number for number, secs in enumerate(cell.best_secs, start=1) if secs <= target), None)


def _log_ratio(mine_secs: float, theirs_secs: float) -> float:
    if mine_secs == theirs_secs:
        return 0.0
    if math.isinf(mine_secs):
        return math.inf
    return -math.inf if math.isinf(theirs_secs) else math.log(mine_secs / theirs_secs)


def _ratio(untuned_secs: float, secs: float) -> float:
    return untuned_secs / secs if math.isfinite(secs) else math.nan


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def _geomean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None

"""The surrogate f̂: the analysis as a prior, corrected by what was measured, first simply and then by a learned model.

Three predictions of increasing ambition are kept for every program:

1. the *prior*: the analysis' seconds, scaled by the median error so far;
2. the *anchored* one: the error of the nearest measured ancestor in the tree carried over, since a child shares most
   of what the analysis got wrong about its parent;
3. the *learned* one: gradient-boosted trees on the remaining error.

Each is scored by how it ranked programs before they were measured (Kendall's τ over the most recent ones), and only
the one that has ranked best is believed: a learned model speaks when it has earned it, never before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reasoning_compiler.ranking import kendall_tau
from reasoning_compiler.records import Program

Known = tuple[Program, float]
"""A measured program and its latency in seconds."""

_MIN_LEARNED = 16  # measurements below which trees are not fitted
_JUDGED = 48  # recent measurements on which the predictions are scored
_MIN_JUDGED = 8
_ANCHOR_WEIGHT = 0.8
_ROUNDS = 60
_TREES = {"max_depth": 4, "eta": 0.15, "min_child_weight": 1e-3, "colsample_bytree": 0.5, "nthread": 1, "verbosity": 0}
_REFIT_GROWTH = 1.08  # the model is fitted anew when this much more is known


@dataclass(frozen=True)
class Description:
    """What the surrogate is told of a program.

    Args:
        prior_secs: the analysis' estimate.
        row: its features, shape [F].
    """

    prior_secs: float
    row: np.ndarray


@dataclass(frozen=True)
class Trust:
    """How well each kind of prediction has ranked so far (Kendall's τ in [-1, 1]); None where not scored."""

    anchored: float | None = None
    learned: float | None = None

    @property
    def believes_learned(self) -> bool:
        return self.learned is not None and self.anchored is not None and self.learned > max(0.0, self.anchored)


class Surrogate:
    """Predicts latencies; see the module for how.

    Args:
        describe: returns a program's prior and features; called once per program.
        seed: of the trees.
        use_prior: whether the analysis is asked at all; without it nothing is predicted before the trees are fitted.
    """

    def __init__(self, describe: Callable[[Program], Description], *, seed: int = 0, use_prior: bool = True) -> None:
        self._describe, self._seed, self._use_prior = describe, seed, use_prior
        self._described: dict[Program, Description] = {}
        self._known: dict[Program, float] = {}
        self._offset = 0.0
        self._model = None
        self._fitted_on = 0
        self._made: dict[Program, tuple[float, float | None]] = {}
        self._scores: list[tuple[float, float, float | None]] = []  # (truth, anchored, learned), logarithms
        self.trust = Trust()

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        """Returns latencies in seconds; None where nothing can be said yet. See `search.Predictor`."""
        if not programs:
            return []
        rows = [self._description(p) for p in programs]
        anchored = [self._anchored(d, anchor) for d, anchor in zip(rows, anchors, strict=True)]
        learned = self._learned(rows, anchored)
        result: list[float | None] = []
        for program, simple, clever in zip(programs, anchored, learned, strict=True):
            self._made[program] = (simple, clever)
            if clever is not None and (self.trust.believes_learned or not self._use_prior):
                result.append(math.exp(clever))
            else:
                result.append(math.exp(simple) if self._use_prior else None)
        return result

    def learn(self, known: Sequence[Known]) -> None:
        """Scores the predictions made of what has been measured since, and fits again."""
        fresh = [(p, secs) for p, secs in known if p not in self._known]
        for program, secs in fresh:
            if program in self._made:
                self._scores.append((math.log(secs), *self._made.pop(program)))
        self._known.update(fresh)
        if not self._known:
            return
        errors = [math.log(secs) - self._log_prior(p) for p, secs in self._known.items()]
        self._offset = float(np.median(errors))
        self.trust = self._judge()
        if len(self._known) >= max(_MIN_LEARNED, math.ceil(self._fitted_on * _REFIT_GROWTH)):
            self._fit(errors)

    def _description(self, program: Program) -> Description:
        if program not in self._described:
            self._described[program] = self._describe(program)
        return self._described[program]

    def _log_prior(self, program: Program) -> float:
        return math.log(self._description(program).prior_secs)

    def _anchored(self, description: Description, anchor: Known | None) -> float:
        prior = math.log(description.prior_secs)
        if anchor is None:
            return prior + self._offset
        error = math.log(anchor[1]) - self._log_prior(anchor[0])
        return prior + _ANCHOR_WEIGHT * error + (1 - _ANCHOR_WEIGHT) * self._offset

    def _learned(self, descriptions: Sequence[Description], anchored: Sequence[float]) -> list[float | None]:
        if self._model is None:
            return [None] * len(descriptions)
        import xgboost

        errors = self._model.predict(xgboost.DMatrix(np.stack([d.row for d in descriptions])))
        return [math.log(d.prior_secs) + float(e) for d, e in zip(descriptions, errors, strict=True)]

    def _fit(self, errors: Sequence[float]) -> None:
        import xgboost

        programs = list(self._known)
        secs = np.array([self._known[p] for p in programs])
        rows = np.stack([self._description(p).row for p in programs])
        # What is slow need not be known as precisely as what may win.
        data = xgboost.DMatrix(rows, label=np.array(errors), weight=np.sqrt(secs.min() / secs))
        self._model = xgboost.train(_TREES | {"seed": self._seed, "base_score": self._offset}, data, _ROUNDS)
        self._fitted_on = len(programs)

    def _judge(self) -> Trust:
        recent = self._scores[-_JUDGED:]
        if len(recent) < _MIN_JUDGED:
            return Trust()
        both = [s for s in recent if s[2] is not None]
        if len(both) < _MIN_JUDGED:
            return Trust(anchored=kendall_tau([s[0] for s in recent], [s[1] for s in recent]))
        truth = [s[0] for s in both]
        return Trust(kendall_tau(truth, [s[1] for s in both]), kendall_tau(truth, [s[2] for s in both]))


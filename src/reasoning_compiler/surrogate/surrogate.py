"""The surrogate f̂: the analysis as a prior, corrected by what was measured, first simply and then by a learned model.

Two predictions are made of every program, both of them corrections of the analysis' seconds, the prior:

1. the *anchored* one: most of the prior's error at the nearest measured ancestor in the tree is carried over, since a
   child shares most of what the analysis got wrong about its parent; the rest, or all of it where there is no such
   ancestor, is the median error so far;
2. the *learned* one: gradient-boosted trees on the prior's error.

A program that was ended early has only a lower bound. It is censored: a prediction above the bound agrees with it, and
only one below it is wrong.

Both are scored by how they ranked programs before these were measured (Kendall's τ over the most recent ones). The
learned one is believed only while it ranks better: it speaks when it has earned it, never before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.core.steps import Known

_MIN_LEARNED = 16  # measurements below which trees are not fitted
_JUDGED = 48  # recent measurements on which the predictions are scored
_MIN_JUDGED = 8
_ANCHOR_WEIGHT = 0.8
_ROUNDS = 60
_TREES = {
    "max_depth": 4,
    "eta": 0.15,
    "min_child_weight": 1e-3,
    "colsample_bytree": 0.5,
    "max_bin": 64,  # as good as 256 on some hundred rows, in a third of the time
    "nthread": 1,
    "verbosity": 0,
}
_REFIT_GROWTH = 1.08  # the model is fitted anew when this much more is known
_LEAST_SECS = 1e-9


@dataclass(frozen=True)
class Description:
    """What the surrogate is told of a program.

    Args:
        prior_secs: the analysis' estimate; 0 where it finds nothing that takes time.
        row: its features, shape [F].
    """

    prior_secs: float
    row: np.ndarray


@dataclass(frozen=True)
class Trust:
    """How well each kind of prediction ranked lately: Kendall's τ in [-1, 1]; None where that cannot be said."""

    anchored: float | None = None
    learned: float | None = None

    @property
    def believes_learned(self) -> bool:
        """Whether the learned prediction has ranked better than the anchored one, and better than not at all."""
        return self.learned is not None and self.learned > max(0.0, self.anchored or 0.0)


class Surrogate:
    """Predicts latencies; see the module for how.

    Args:
        describe: returns a program's prior and features; called once per program.
        seed: of the trees.
    """

    def __init__(self, describe: Callable[[Program], Description], *, seed: int = 0) -> None:
        self._describe, self._seed = describe, seed
        self._described: dict[Program, Description] = {}
        self._known: dict[Program, Known] = {}
        self._offset = 0.0
        self._model: Any = None
        self._fitted_on = 0
        self._made: dict[Program, tuple[float, float | None]] = {}
        self._scores: list[tuple[float, float, float | None]] = []  # (truth, anchored, learned), logarithms
        self.trust = Trust()

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float]:
        """Returns latencies in seconds.

        Args:
            programs: to be predicted.
            anchors: for each, its nearest measured ancestor, or None.
        """
        if not programs:
            return []
        anchored = [self._anchored(program, anchor) for program, anchor in zip(programs, anchors, strict=True)]
        learned = self._learned(programs)
        self._made.update(zip(programs, zip(anchored, learned, strict=True), strict=True))
        if self.trust.believes_learned:
            return [math.exp(a if b is None else b) for a, b in zip(anchored, learned, strict=True)]
        return [math.exp(a) for a in anchored]

    def learn(self, known: Sequence[Known]) -> None:
        """Scores the predictions made of what has been measured since, and fits again."""
        fresh = [each for each in known if each.program not in self._known]
        for each in fresh:
            if each.program in self._made:
                self._scores.append((math.log(each.secs), *self._made.pop(each.program)))
        self._known.update((each.program, each) for each in fresh)
        if not self._known:
            return
        errors = [self._error(each) for each in self._known.values()]
        measured = [error for error, each in zip(errors, self._known.values(), strict=True) if not each.is_bound]
        self._offset = float(np.median(measured or errors))
        self.trust = self._judge()
        if len(self._known) >= max(_MIN_LEARNED, math.ceil(self._fitted_on * _REFIT_GROWTH)):
            self._fit(errors)

    def _description(self, program: Program) -> Description:
        if program not in self._described:
            self._described[program] = self._describe(program)
        return self._described[program]

    def _error(self, known: Known) -> float:
        """Returns the logarithm of how many times as long as its prior a program takes, or at least takes."""
        return math.log(known.secs) - self._log_prior(known.program)

    def _log_prior(self, program: Program) -> float:
        return math.log(max(_LEAST_SECS, self._description(program).prior_secs))

    def _anchored(self, program: Program, anchor: Known | None) -> float:
        error = self._offset
        if anchor is not None:
            at_anchor = max(self._error(anchor), self._offset if anchor.is_bound else -math.inf)
            error = _ANCHOR_WEIGHT * at_anchor + (1 - _ANCHOR_WEIGHT) * self._offset
        return self._log_prior(program) + error

    def _learned(self, programs: Sequence[Program]) -> list[float | None]:
        if self._model is None:
            return [None] * len(programs)
        errors = self._model.predict(_matrix([self._description(p).row for p in programs]))
        return [self._log_prior(p) + float(error) for p, error in zip(programs, errors, strict=True)]

    def _fit(self, errors: Sequence[float]) -> None:
        import xgboost

        secs = np.array([each.secs for each in self._known.values()])
        bounds = np.array([each.is_bound for each in self._known.values()])
        # What is slow need not be known as precisely as what may win.
        data = _matrix([self._description(p).row for p in self._known], label=errors, weight=np.sqrt(secs.min() / secs))
        settings = _TREES | {"seed": self._seed, "base_score": self._offset}
        objective = _one_sided(bounds) if bounds.any() else None
        self._model = xgboost.train(settings, data, _ROUNDS, obj=objective)
        self._fitted_on = len(self._known)

    def _judge(self) -> Trust:
        recent = self._scores[-_JUDGED:]
        if len(recent) < _MIN_JUDGED:
            return Trust()
        both = [s for s in recent if s[2] is not None]
        if len(both) < _MIN_JUDGED:
            return Trust(anchored=kendall_tau([s[0] for s in recent], [s[1] for s in recent]))
        truth = [s[0] for s in both]
        return Trust(kendall_tau(truth, [s[1] for s in both]), kendall_tau(truth, [s[2] for s in both]))


def _one_sided(bounds: np.ndarray) -> Callable[[np.ndarray, Any], tuple[np.ndarray, np.ndarray]]:
    """Returns the squared error as an objective of XGBoost's, to which predictions above a bound are right.

    On the five recordings (64 programs seen, what is slower than three times the best censored) it ranks the others
    with a mean τ of 0.72, against 0.62 with bounds taken for latencies, and those below the bound as well as before
    (0.62). XGBoost's `survival:aft` reaches 0.75 and 0.60: it pays for the slow with the fast.

    Args:
        bounds: which labels are lower bounds, shape [N].
    """

    def objective(predicted: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
        gap, weight = predicted - data.get_label(), data.get_weight()
        counts = ~(bounds & (gap > 0))
        return np.where(counts, weight * gap, 0.0), np.where(counts, weight, 0.0)

    return objective


def _matrix(rows: Sequence[np.ndarray], **columns: Any) -> Any:
    """Returns XGBoost's form of the rows, made by one thread: for so few, starting others takes 50 ms."""
    import xgboost

    return xgboost.DMatrix(np.stack(rows), nthread=1, **columns)

"""MetaSchedule's own cost model as a surrogate, for the paper's preset.

It is kept as TVM ships it, its blind start included: below `num_warmup_samples` = 100 measured samples `XGBModel`
returns uniform random scores, so the paper's rewards and the scores in its prompts are noise until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.steps import Known
from reasoning_compiler.machine.toolchain import import_tvm

_LEAST_SCORE = 1e-6


class MetaScheduleSurrogate:
    """Predicts scores in (0, 1] and gives one over them as "seconds", so that a higher score is a faster program.

    Args:
        mod: the workload's module.
        target: the TVM target.
        schedule: returns a program's schedule.
        seed: of the random scores and of the trees.
        threads: for fitting the trees.
    """

    def __init__(
        self, mod: Any, target: Any, schedule: Callable[[Program], Any], *, seed: int = 0, threads: int = 1
    ) -> None:
        import_tvm()
        from tvm.s_tir import meta_schedule as ms

        self._ms, self._schedule, self._seed = ms, schedule, seed
        self._context = ms.TuneContext(mod=mod, target=target, num_threads=1)
        self._arguments = ms.arg_info.ArgInfo.from_entry_func(mod)
        self._model = ms.cost_model.XGBModel(num_tuning_cores=threads)
        self._known: dict[Program, float] = {}
        self._num_calls = 0

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        """Returns one over the scores of programs; see `search.Predictor`."""
        if not programs:
            return []
        candidates = [self._candidate(p) for p in programs]
        with _global_numpy_seed(self._seed, self._num_calls):
            scores = self._model.predict(self._context, candidates)
        self._num_calls += 1
        return [1.0 / max(_LEAST_SCORE, float(score)) for score in scores]

    def learn(self, known: Sequence[Known]) -> None:
        """Gives the model what has been measured since the last call; it has no use for bounds."""
        fresh = [each for each in known if each.program not in self._known and not each.is_bound]
        if fresh:
            self._known.update((each.program, each.secs) for each in fresh)
            candidates = [self._candidate(each.program) for each in fresh]
            results = [self._ms.runner.RunnerResult([each.secs], None) for each in fresh]
            self._model.update(self._context, candidates, results)

    def _candidate(self, program: Program) -> Any:
        return self._ms.search_strategy.MeasureCandidate(self._schedule(program), self._arguments)


@contextmanager
def _global_numpy_seed(seed: int, call: int) -> Iterator[None]:
    """Seeds NumPy's global generator, which `XGBModel` draws its random scores from, and puts it back."""
    state = np.random.get_state()
    np.random.seed(int(stream(seed, "xgb", call).integers(2**31)))
    try:
        yield
    finally:
        np.random.set_state(state)

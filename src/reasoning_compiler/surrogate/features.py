"""A program as a row of numbers: MetaSchedule's features of its stores, and our analysis of its nests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.space.analysis import Analysis

_BLOCKS = 4  # the slowest ones, by the analysis, that get columns of their own
_PER_BLOCK = 9


class FeatureExtractor:
    """Turns schedules into rows, all of the same length.

    Args:
        mod: the workload's module, before scheduling.
        target: the TVM target.
    """

    def __init__(self, mod: Any, target: Any) -> None:
        import_tvm()
        from tvm.s_tir import meta_schedule as ms

        self._ms = ms
        self._context = ms.TuneContext(mod=mod, target=target, num_threads=1)
        self._arguments = ms.arg_info.ArgInfo.from_entry_func(mod)
        self._stores = ms.feature_extractor.PerStoreFeature()

    def row(self, schedule: Any, analysis: Analysis) -> np.ndarray:
        """Returns one program's features, float32, shape [F].

        MetaSchedule gives 164 numbers for each of the program's stores, of which there are more or fewer; their
        maximum and mean over the stores stand for all.
        """
        return join(self.stores(schedule), analysis)

    def stores(self, schedule: Any) -> np.ndarray:
        """Returns the part of a row that MetaSchedule gives, float32, shape [328]."""
        candidate = self._ms.search_strategy.MeasureCandidate(schedule, self._arguments)
        stores = self._stores.extract_from(self._context, [candidate])[0].numpy()
        return np.concatenate([stores.max(axis=0), stores.mean(axis=0)]).astype(np.float32)


def join(stores: np.ndarray, analysis: Analysis) -> np.ndarray:
    """Returns a program's row from its two parts, float32, shape [F]."""
    return np.concatenate([stores, _analysis_row(analysis)]).astype(np.float32)


def _analysis_row(analysis: Analysis) -> np.ndarray:
    row = np.zeros(1 + _BLOCKS * _PER_BLOCK)
    row[0] = _log(analysis.secs)
    slowest = sorted(analysis.blocks, key=lambda b: -b.secs)[:_BLOCKS]
    for index, block in enumerate(slowest):
        at = 1 + index * _PER_BLOCK
        row[at : at + _PER_BLOCK] = (
            _log(block.secs),
            _log(block.compute_secs),
            block.vector_lanes,
            len(block.strided),
            block.accumulators,
            block.in_registers,
            _log(block.parallel_extent),
            block.parallel_efficiency,
            _log(sum(level.bytes_in for level in block.levels)),
        )
    return row


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))

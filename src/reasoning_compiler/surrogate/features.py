"""A program as a row of numbers: its decisions, and our analysis of its nests."""

from __future__ import annotations

import math

import numpy as np

from reasoning_compiler.core.programs import Program, Value
from reasoning_compiler.cost.analysis import Analysis

_BLOCKS = 4  # the slowest ones, by the analysis, that get columns of their own
_PER_BLOCK = 9
_DECISION_COLUMNS = 128  # an attention's sketches together have about 60


class FeatureExtractor:
    """Turns programs into rows, all of the same length.

    Each decision has a column per number in its value, given out in the order in which decisions come; a program that
    lacks a decision has NaN there. On tabular benchmarks of the five kernels this ranks as well as MetaSchedule's 164
    features of every store or better (`reasonc fidelity`), and costs a hundredth of them.
    """

    def __init__(self) -> None:
        self._columns: dict[tuple[str, int], int] = {}
        self._words: dict[str, dict[str, int]] = {}

    def row(self, program: Program, analysis: Analysis) -> np.ndarray:
        """Returns one program's features, float32, shape [F]."""
        return np.concatenate([_analysis_row(analysis), self._decision_row(program)]).astype(np.float32)

    def _decision_row(self, program: Program) -> np.ndarray:
        row = np.full(_DECISION_COLUMNS, np.nan)
        for name, value in (*program.structure, *program.decisions):
            for index, number in enumerate(self._numbers(name, value)):
                column = self._columns.setdefault((name, index), len(self._columns))
                if column < _DECISION_COLUMNS:
                    row[column] = number
        return row

    def _numbers(self, name: str, value: Value) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return tuple(math.log2(factor) for factor in value)
        if isinstance(value, str):
            words = self._words.setdefault(name, {})
            return (words.setdefault(value, len(words)),)
        return (float(value),)


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

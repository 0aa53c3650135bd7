"""The surrogate of a task as its search asks it: timed, not interrupted, and spared what has crashed TVM."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reasoning_compiler.core.interrupts import uninterrupted
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.steps import Known
from reasoning_compiler.search.protocol import Predictor


class SparingPredictor:
    """Asks a surrogate, as the stage "predict", but not of programs that cannot be applied; see `Predictor`.

    Args:
        surrogate: to predict a program, it may have to apply it.
        clock: of the session.
        fatal: programs over which TVM has ended a process.
    """

    def __init__(self, surrogate: Predictor, clock: PhaseTimer, fatal: Collection[Program | None]) -> None:
        self._surrogate, self._clock, self._fatal = surrogate, clock, fatal

    def predict(self, programs: Sequence[Program], anchors: Sequence[Known | None]) -> list[float | None]:
        """See `Predictor.predict`; None for fatal programs."""
        anchors = [None if anchor and anchor.program in self._fatal else anchor for anchor in anchors]
        asked = [index for index, program in enumerate(programs) if program not in self._fatal]
        with self._clock.stage("predict"), uninterrupted():
            secs = self._surrogate.predict([programs[i] for i in asked], [anchors[i] for i in asked])
        predicted = dict(zip(asked, secs, strict=True))
        return [predicted.get(index) for index in range(len(programs))]

    def learn(self, known: Sequence[Known]) -> None:
        """See `Predictor.learn`."""
        with self._clock.stage("predict"), uninterrupted():
            self._surrogate.learn([each for each in known if each.program not in self._fatal])

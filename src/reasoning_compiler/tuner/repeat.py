"""A recorded run done again: the same programs proposed and picked in the same order, measured anew."""

from __future__ import annotations

from collections import deque

from reasoning_compiler.errors import IllegalProgramError, UsageError
from reasoning_compiler.journal import Rejected, Run, Sample
from reasoning_compiler.records import Step
from reasoning_compiler.search.search import TreeSearch


class Repeat:
    """Grows the tree of a recorded run in another search, whoever proposed what is in it.

    When an answer of a model comes back depends on time, and so does the order of things in the tree; that order is
    the record's here. Where measurements are the same, predictions are too.

    Args:
        recorded: the run to be done again.
        search: holds nothing yet, or what it has repeated of the run so far.
        done: the run that the search belongs to, as far as its journal goes; None for a new one.
    """

    def __init__(self, recorded: Run, search: TreeSearch, *, done: Run | None = None) -> None:
        self._recorded, self._search = recorded, search
        num_done = len(_of_search(done)) if done is not None else 0
        self._left = deque(_of_search(recorded)[num_done:])

    def ask(self, num: int) -> list[Step]:
        """Returns the next programs to be measured, at most `num`; none at the end of the record.

        Raises:
            UsageError: a program of the record is not known here.
        """
        while self._left:
            self.tend()
            if self._left and isinstance(self._left[0], tuple):
                return self._search.pick_these(self._left.popleft()[:num])
        return []

    def tend(self) -> None:
        """Adds what was proposed between one measurement, or choice of a batch, and the next. Raises as `ask`."""
        if self._left and isinstance(self._left[0], Sample):
            self._left.popleft()
        try:
            while self._left and isinstance(self._left[0], Step | Rejected):
                self._add(self._left.popleft())
        except IllegalProgramError as error:
            header = self._recorded.header
            raise UsageError(
                f"`{self._recorded.folder}` cannot be repeated here: it was made by version {header.package_version} "
                f"on {header.machine.name}, and {error}"
            ) from error

    def _add(self, event: Step | Rejected) -> None:
        if isinstance(event, Step):
            self._search.repeat(event)
        else:
            self._search.repeat_refusal(event.node, event.proposer, event.transformation, event.why)


def _of_search(run: Run) -> list[Step | Rejected | Sample | tuple[int, ...]]:
    """Returns what happened in a run's search but for node 0, which is measured when it suits."""
    return [event for event in run.events if not (isinstance(event, Step | Sample) and event.node == 0)]

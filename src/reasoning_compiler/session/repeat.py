"""A recorded run done again: the same programs proposed and picked in the same order, measured anew."""

from __future__ import annotations

from collections import Counter, deque

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Rejected, Run, Sample
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
        events = _of_search(recorded)
        self._left = deque(events if done is None else _not_in(_of_search(done), events))

    def ask(self, num: int) -> list[Step]:
        """Returns the next programs to be measured, at most `num`; none at the end of the record.

        Raises:
            UsageError: a program of the record is not known here.
        """
        while self._left:
            self.tend()
            if self._left and isinstance(self._left[0], tuple):
                batch = self._left.popleft()
                if batch[num:]:
                    self._left.appendleft(batch[num:])
                return self._search.pick_these(batch[:num])
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


Event = Step | Rejected | Sample | tuple[int, ...]


def _of_search(run: Run) -> list[Event]:
    """Returns what happened in a run's search but for node 0, which is measured when it suits."""
    return [event for event in run.events if not (isinstance(event, Step | Sample) and event.node == 0)]


def _not_in(done: list[Event], events: list[Event]) -> list[Event]:
    """Returns a record's events without what was done of them; batches without what was asked for already."""
    num_done = Counter(map(_what, done))
    asked = {node for event in done if isinstance(event, tuple) for node in event}
    left: list[Event] = []
    for event in events:
        if isinstance(event, tuple):
            if batch := tuple(node for node in event if node not in asked):
                left.append(batch)
        elif num_done[_what(event)]:
            num_done[_what(event)] -= 1
        else:
            left.append(event)
    return left


def _what(event: Event) -> tuple[type, int | None]:
    """Returns what makes an event of one journal that of another; refusals are only counted."""
    return type(event), event.node if isinstance(event, Step | Sample) else None

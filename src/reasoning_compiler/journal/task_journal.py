"""The events of one task in a session's journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.measurements import Measurement, Noise
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal.run import Rejected

if TYPE_CHECKING:
    from reasoning_compiler.journal.journal import Journal

Event = tuple[str, dict[str, Any]]
"""The kind of an event, and its fields."""


class TaskJournal:
    """Appends the events of one task; every method raises as `Journal.append`.

    Args:
        journal: of the session.
        task: the task's name.
    """

    def __init__(self, journal: Journal, task: str) -> None:
        self._journal, self._task = journal, task

    def node(self, step: Step) -> None:
        """Appends that a node was added to the tree; its measurement, if any, is not written."""
        self._append(("node", _node_fields(step)))

    def expanded(self, added: Sequence[Step], rejected: Sequence[Rejected]) -> None:
        """Appends all that became of one proposal, or nothing of it: a kill leaves no half of it behind.

        Args:
            added: the nodes that it added.
            rejected: what the space refused of it.
        """
        nodes = [("node", _node_fields(step)) for step in added]
        self._append(*nodes, *(("rejected", each.to_json()) for each in rejected))

    def asked(self, nodes: Sequence[int]) -> None:
        """Appends which nodes are measured next, as one batch, in the order of measuring."""
        self._append(("asked", {"nodes": list(nodes)}))

    def measured(self, node: int, measurement: Measurement) -> None:
        """Appends what the hardware said of a node. Told again, the later word counts."""
        self._append(("measured", {"node": node, "measurement": measurement}))

    def noise(self, noise: Noise) -> None:
        """Appends how much timings vary where nothing differs; told again, the later word counts."""
        self._append(("noise", {"noise": noise}))

    def finished(
        self,
        reason: str,
        *,
        best: int | None,
        confirmed: Measurement | None = None,
        untuned: Measurement | None = None,
    ) -> None:
        """Appends that the task ended, and syncs.

        Args:
            reason: why, as "samples".
            best: the node that the task hands out; None where there is none.
            confirmed: its last, careful measurement.
            untuned: the untuned program's, taken side by side with `confirmed`.
        """
        fields = {"reason": reason, "best": best, "confirmed": confirmed, "untuned": untuned}
        self._append(("finished", fields), sync=True)

    def _append(self, *events: Event, sync: bool = False) -> None:
        self._journal.append([(kind, {"task": self._task} | fields) for kind, fields in events], sync=sync)


def _node_fields(step: Step) -> dict[str, Any]:
    return {name: value for name, value in step.to_json().items() if name != "measurement"}

"""Which task gets the session's next samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasoning_compiler.session.task import Task


def deal(tasks: Sequence[Task], *, left: int, batch: int) -> tuple[int, int]:
    """Returns (which task gets samples next, how many).

    A weighted round-robin: first each task has one turn, in order; from then on samples are in proportion to the share
    of the time that a task takes, weight × latency, by the method of highest averages (D'Hondt). A task without a
    latency counts as the mean of the others.

    Args:
        tasks: those that can use samples, one at least.
        left: samples that the session has left, at least one for each task that has had none.
        batch: the most samples of one turn, ≥ 1.
    """
    untried = [index for index, task in enumerate(tasks) if not task.num_samples]
    if untried:
        return untried[0], min(batch, left - len(untried) + 1)
    times = [task.weight * task.current_secs for task in tasks if task.current_secs is not None]
    mean = sum(times) / len(times) if times else 1.0

    def average(index: int) -> float:
        task = tasks[index]
        time = mean if task.current_secs is None else task.weight * task.current_secs
        return time / (task.num_samples + 1)

    return max(range(len(tasks)), key=average), min(batch, left)

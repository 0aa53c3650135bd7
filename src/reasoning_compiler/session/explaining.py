"""Programs of a run with their analysis, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Run, unknown_here

if TYPE_CHECKING:
    from reasoning_compiler.report.explain import Explained


def explained(run: Run, node: int | None = None) -> tuple[Explained, ...]:
    """Returns programs of a run with what the analysis says of them: its untuned and its best, or one node's.

    TVM applies their schedules anew, in this process.

    Raises:
        UsageError: there is no such node, or the run's kernel or its programs are not known here.
    """
    from reasoning_compiler.cost.analysis import analyze
    from reasoning_compiler.report.explain import Explained
    from reasoning_compiler.session.tune import machine_of, space_of

    outcome = run.outcome
    chosen: list[tuple[str, Step, Measurement | None]]
    if node is not None:
        step = run.step(node)
        chosen = [("program", step, step.measurement)]
    else:
        chosen = [("untuned", run.step(0), outcome.untuned)]
        if outcome.step is not None and outcome.step.node:
            chosen.append(("best", outcome.step, outcome.best))
    space, machine, header = space_of(run), machine_of(run), run.header
    try:
        analyses = [
            analyze(space.nests(s.program), machine, kernel_flops=header.flops, kernel_bytes=header.bytes)
            for _, s, _ in chosen
        ]
    except IllegalProgramError as error:
        raise unknown_here(run, error) from error
    return tuple(Explained(n, s.node, s.program, m, a) for (n, s, m), a in zip(chosen, analyses, strict=True))

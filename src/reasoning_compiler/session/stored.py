"""A session's tasks from its folder: workloads, spaces, machine, devices, and what the analysis says of programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reasoning_compiler.core.errors import IllegalProgramError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import WORKLOAD_FILE, Header, Run, unknown_here
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.session.settings import Settings

if TYPE_CHECKING:
    from reasoning_compiler.measure.executors.tracker import Devices
    from reasoning_compiler.report.explain import Explained
    from reasoning_compiler.space.space import Space
    from reasoning_compiler.workload import Workload

NOT_KEPT = "the run's reference is not kept: results are compared with those of the kernel itself in float64"
"""What is said of a run with a reference of the caller's."""


def is_named(workload: Workload) -> bool:
    """Returns whether a workload's spec names one of ours, from which it can be made again."""
    from reasoning_compiler.workload import CATALOGUE

    return workload.spec.partition("[")[0] in CATALOGUE


def modules_to_store(headers: Sequence[Header], workloads: Sequence[Workload]) -> dict[str, str]:
    """Returns what a session's folder needs to stand on its own: the modules that no spec of ours can make again.

    Of one task it is the module itself, of several an object of them by task.
    """
    modules = {
        header.task: import_tvm().ir.save_json(workload.mod)
        for header, workload in zip(headers, workloads, strict=True)
        if not is_named(workload)
    }
    if not modules:
        return {}
    text = modules[headers[0].task] if len(headers) == 1 else json.dumps(modules)
    return {WORKLOAD_FILE: text}


def load_workload(run: Run) -> Workload:
    """Returns the workload of a run: from the folder where it was a user's own, else from its spec.

    Raises:
        UsageError: it is no longer the kernel that the run was made of.
    """
    from reasoning_compiler import workload as workloads

    stored = _stored_module(run)
    if stored is not None:
        made = workloads.from_tvm(import_tvm().ir.load_json(stored), name=run.header.workload)
        workload = replace(made, spec=run.header.spec, flops=run.header.flops)
    else:
        workload = workloads.parse(run.header.spec)
    if workload.key != run.header.key:
        raise UsageError(f"`{run.folder}` was made of another version of {run.header.spec}; tune it anew")
    return workload


def settings_of(run: Run) -> Settings:
    """Returns the settings of a run's session. Raises UsageError where they are of another version."""
    try:
        return Settings.from_json(run.config)
    except (KeyError, TypeError) as error:
        raise unknown_here(run, error) from error


def machine_of(run: Run) -> Machine:
    """Returns the machine as a run used it: with as many cores as it had threads."""
    from reasoning_compiler.session.spaces import with_threads

    return with_threads(run.header.machine, int(run.header.fingerprint["threads"]))


def devices_of(run: Run) -> Devices | None:
    """Returns the devices that a run was measured on; None for the machine that tuned it."""
    return settings_of(run).devices


def space_of(run: Run) -> Space:
    """Returns the space that a run's programs belong to. Raises UsageError as `load_workload`."""
    from reasoning_compiler.session.spaces import make_space

    return make_space(load_workload(run), machine_of(run), settings_of(run))


def explained(run: Run, node: int | None = None) -> tuple[Explained, ...]:
    """Returns programs of a run with what the analysis says of them: its untuned and its best, or one node's.

    TVM applies their schedules anew, in this process.

    Raises:
        UsageError: there is no such node, or the run's kernel or its programs are not known here.
    """
    from reasoning_compiler.cost.analysis import analyze
    from reasoning_compiler.report.explain import Explained

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
            analyze(space.nests(s.program), machine, kernel_flops=header.flops or 0, kernel_bytes=header.bytes)
            for _, s, _ in chosen
        ]
    except IllegalProgramError as error:
        raise unknown_here(run, error) from error
    return tuple(Explained(n, s.node, s.program, m, a) for (n, s, m), a in zip(chosen, analyses, strict=True))


def _stored_module(run: Run) -> str | None:
    """Returns a run's module as TVM's JSON; None where the folder has none of it."""
    path = run.folder / WORKLOAD_FILE
    if not path.exists():
        return None
    return path.read_text() if run.num_tasks == 1 else json.loads(path.read_text()).get(run.header.task)

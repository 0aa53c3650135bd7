"""Everything that a session is made of: each part made once, wired to the others, and run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.crash_markers import CrashMarker, works_on
from reasoning_compiler.core.errors import Interrupted, LLMSetupError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.phases import PhaseTimer
from reasoning_compiler.core.programs import UNTUNED
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import (
    Header,
    Journal,
    Rejected,
    Run,
    SessionRecord,
    best_folder,
    read_session,
    remove_empty,
    remove_run,
)
from reasoning_compiler.machine import tvm_target
from reasoning_compiler.measure import instrument
from reasoning_compiler.measure.executors.rpc import open_executor
from reasoning_compiler.search.protocol import Refused
from reasoning_compiler.session.evaluator import Evaluator
from reasoning_compiler.session.repeat import Repeat
from reasoning_compiler.session.session import Session
from reasoning_compiler.session.settings import Progress, Settings
from reasoning_compiler.session.spaces import make_space, with_threads
from reasoning_compiler.session.stored import modules_to_store
from reasoning_compiler.session.task import Task

if TYPE_CHECKING:
    from reasoning_compiler.measure.executors.local import LocalExecutor
    from reasoning_compiler.session.model import Model
    from reasoning_compiler.workload import Workload


@dataclass(frozen=True)
class Plan:
    """A task before its session is open.

    Args:
        header: what the journal says of it.
        workload: what is tuned.
    """

    header: Header
    workload: Workload


def run_session(
    folder: Path | Callable[[], Path],
    plans: Sequence[Plan],
    settings: Settings,
    *,
    earlier: SessionRecord | None,
    on_progress: Callable[[Progress], None],
) -> SessionRecord:
    """Returns what a session came to, which is run here from its beginning or from where its journal ends.

    Args:
        folder: the session's, or what makes a new one.
        plans: its tasks.
        settings: of the session.
        earlier: the session so far; None for a new one.
        on_progress: is called whenever there is something new to show.

    Raises:
        UsageError, LLMSetupError, DeviceError, NothingMeasuredError, JournalError, Interrupted: see `tune`.
    """
    header, workloads = plans[0].header, [plan.workload for plan in plans]
    threads = int(header.fingerprint["threads"])
    machine = with_threads(header.machine, threads)
    recorded = [_recorded(settings, workload) for workload in workloads] if settings.replayed else [None] * len(plans)
    client = None
    if settings.llm is not None:
        from reasoning_compiler.session.model import Model, checked_client

        client = checked_client(settings)
    on_progress(Progress("starting", str(folder) if isinstance(folder, Path) else "", 0, settings.samples))
    crashes = earlier.runs[0].crashes if earlier else ()
    fatal = [crash.risk for crash in crashes if crash.risk is not None]
    spaces = [make_space(workload, machine, settings, fatal=fatal) for workload in workloads]
    is_new_folder = not isinstance(folder, Path) or not folder.exists()
    folder = folder if isinstance(folder, Path) else folder()

    clock = PhaseTimer()

    def measured_by(executor: LocalExecutor, workload: Workload) -> instrument.Instrument:
        target, seed, timeout_secs = tvm_target(machine), settings.seed, settings.timeout_secs
        return instrument.Instrument(workload, target, executor, seed=seed, timeout_secs=timeout_secs, clock=clock)

    def conduct(journal: Journal, earlier: SessionRecord | None) -> None:
        with ExitStack() as stack:
            executor = stack.enter_context(
                open_executor(num_threads=threads, devices=settings.devices, flush_cache=settings.flush_cache)
            )
            instruments = [stack.enter_context(measured_by(executor, workload)) for workload in workloads]
            model = Model(settings, client, journal, earlier=earlier) if client is not None else None
            evaluators = [
                make_evaluator(
                    plan,
                    machine,
                    settings,
                    spaces[index],
                    instruments[index],
                    journal,
                    num_tasks=len(plans),
                    clock=clock,
                    best=best_folder(folder, plan.header.task, len(plans)),
                    model=model,
                    fatal=fatal,
                    recorded=recorded[index],
                    earlier=earlier.runs[index] if earlier else None,
                )
                for index, plan in enumerate(plans)
            ]
            Session(evaluators, journal, settings, clock=clock, model=model, on_progress=on_progress).run()

    try:
        with _journal(folder, plans, earlier) as journal:
            if earlier is not None:
                earlier = read_session(folder)  # again: another process may have been writing until now
                if earlier.config != settings.to_json():
                    journal.resumed(settings.to_json())
            works_on(folder)
            try:
                conduct(journal, earlier)
            except Exception as error:
                if earlier is None and _came_to_nothing(read_session(folder), error):
                    remove_run(folder)  # the next try wants the folder
                raise
    except KeyboardInterrupt:
        raise Interrupted(folder) from None
    except Exception:
        if is_new_folder and folder.is_dir():
            remove_empty(folder)
        raise
    return read_session(folder)


def _came_to_nothing(session: SessionRecord, error: Exception) -> bool:
    """Tells whether there is nothing to go on with after an error."""
    has_samples = any(run.samples for run in session.runs)
    return not has_samples or (isinstance(error, LLMSetupError) and not session.num_samples)


def make_evaluator(
    plan: Plan,
    machine: Machine,
    settings: Settings,
    space: Any,
    measuring: Any,
    journal: Journal,
    *,
    num_tasks: int = 1,
    clock: PhaseTimer,
    best: Path | None,
    model: Model | None = None,
    fatal: Collection[CrashMarker] = (),
    recorded: Run | None = None,
    earlier: Run | None = None,
) -> Evaluator:
    """Returns a task at work, brought to where its run in the journal ends.

    Args:
        plan: the task.
        machine: what it is tuned for, with as many cores as programs may use.
        settings: of the session.
        space: of the task's programs.
        measuring: the instrument that measures them.
        journal: of the session.
        num_tasks: tasks of the session.
        clock: of the session.
        best: where the best program goes; None for a recording's, which have no libraries.
        model: who proposes; None for no language model.
        fatal: what TVM has ended a process over.
        recorded: a run that is done again; None for none.
        earlier: what the journal holds of the task; None for a new session.

    Raises:
        UsageError: the journal's programs are none of this version's.
    """
    name = plan.header.task
    task_journal = journal.task(name)

    def on_expanded(node: int, added: Sequence[Step], refused: Sequence[Refused]) -> None:
        task_journal.expanded(added, [Rejected(node, *each) for each in refused])
        for step in added:
            if model is not None and step.transformation is not None:
                model.transcript.link(name, node, step.transformation, step.node, step.program.key)

    task = Task(
        name,
        plan.workload,
        machine,
        settings,
        space,
        clock=clock,
        weight=plan.header.weight,
        max_samples=max(1, settings.samples // num_tasks),
        fatal=fatal,
        on_expanded=on_expanded,
    )
    batch: list[Step] = []
    if earlier is not None and earlier.steps:
        batch = task.replay(earlier)
    else:
        task_journal.node(Step(0, None, UNTUNED))
    source = None
    if recorded is not None:
        source = Repeat(recorded, task.search, done=earlier)
    elif model is not None:
        source = model.thinker(task, num_tasks=num_tasks, clock=clock)
    is_finished = earlier is not None and earlier.ended is not None and earlier.ended.confirmed is not None
    return Evaluator(
        task,
        measuring,
        task_journal,
        folder=journal.folder,
        best=best,
        source=source,
        batch=batch,
        is_finished=is_finished and earlier.config == settings.to_json(),
    )


def _journal(folder: Path, plans: Sequence[Plan], earlier: SessionRecord | None) -> Journal:
    if earlier is not None:
        return Journal.resume(folder)
    headers = [plan.header for plan in plans]
    return Journal.create(folder, headers, files=modules_to_store(headers, [plan.workload for plan in plans]))


def _recorded(settings: Settings, workload: Workload) -> Run:
    """Returns the run of a workload that is to be done again. Raises UsageError where there is none of this preset."""
    session = read_session(settings.replayed)
    runs = [run for run in session.runs if run.header.key == workload.key]
    if not runs:
        specs = ", ".join(run.header.spec for run in session.runs)
        raise UsageError(f"`{session.folder}` is a run of {specs}, whose programs are none of {workload.spec}")
    before = session.config.get("preset")
    if before != settings.preset:
        raise UsageError(f"`{session.folder}` was made with `--preset {before}`; repeat it with the same")
    return runs[0]

"""The library's front door: tune workloads, or go on with a session."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from reasoning_compiler.core.errors import EnvironmentMismatchError, Interrupted, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.journal import Header, Run, check_environment, read_session, require_free
from reasoning_compiler.machine import chosen_threads, detect, differences, fingerprint, preset, with_target
from reasoning_compiler.session.result import Result, SessionResult
from reasoning_compiler.session.settings import Progress, Settings
from reasoning_compiler.session.stored import NOT_KEPT, is_named, load_workload, settings_of

if TYPE_CHECKING:
    from reasoning_compiler.session.opening import Plan
    from reasoning_compiler.workload import Workload
    from reasoning_compiler.workload.workload import Reference

_RUNS = Path("runs")
_MAX_NAME_CHARS = 80  # of a new folder's


@overload
def tune(workload: list[Any] | tuple[Any, ...], **options: Any) -> SessionResult:
    """Several workloads."""


@overload
def tune(workload: Any, **options: Any) -> Result:
    """One workload."""


def tune(
    workload: Any,
    *,
    weights: Sequence[float] | None = None,
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    command: str = "",
    **changes: Any,
) -> Result | SessionResult:
    """Returns the result of tuning one or several workloads on this machine, or on devices behind TVM's RPC tracker.

    Several workloads share one budget, one journal and the workers; samples go where they save the most, by weight and
    latency. The search runs in this process, which a crash of TVM takes along: `reasonc resume` goes on past it.

    Args:
        workload: a Workload, its spec ("llama3-attention[seq_len=512]", "kernels.py:my_matmul"), a PrimFunc or an
            IRModule with one; or a list of such, for a session of several tasks.
        weights: how often each workload of a list runs, > 0; None for all alike.
        out: the session's folder; None for a new one under `runs/`.
        settings: what to do; single ones can be given as keyword arguments (`samples=16`).
        on_progress: is called whenever there is something new to show.
        command: the command line, for the journal.

    Raises:
        UsageError: a workload, a setting or the folder is of no use; nothing has been measured then.
        LLMSetupError: the language model cannot be used; the new folder is gone where nothing has been measured.
        DeviceError: no device can be had, at the start or for a while; what was measured is kept.
        NothingMeasuredError: no program could be measured and verified.
        JournalError: the journal could not be written; what was kept can be resumed.
        Interrupted: Ctrl-C, a KeyboardInterrupt that knows the folder; what was measured is kept.
    """
    settings = replace(settings or Settings(), **changes)
    if settings.replayed:
        settings = replace(settings, proposer=f"replay:{Path(settings.replayed).resolve()}")
    folder = Path(out) if out is not None else None
    require_free(folder or _RUNS / "new")  # before anything that takes time
    if settings.devices is not None:
        settings.devices.count()
    is_several = isinstance(workload, list | tuple)
    given = list(workload) if is_several else [workload]
    weights = _checked_weights(weights, len(given), settings)
    machine = _machine(settings)
    threads = _threads(settings, machine)
    plans = _plans([as_workload(each) for each in given], weights, machine, threads, settings, command)
    name = "-".join(plan.header.task for plan in plans)
    from reasoning_compiler.session.opening import run_session

    new = folder or (lambda: _new_folder(name))
    record = run_session(new, plans, settings, earlier=None, on_progress=on_progress)
    return SessionResult(record) if is_several else Result(record.run())


def resume(
    folder: str | os.PathLike[str],
    *,
    samples: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    rpc: str | None = None,
    key: str | None = None,
    reference: Reference | Mapping[str, Reference] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result | SessionResult:
    """Returns the result of going on with a session that was interrupted, or that is to take more samples.

    Args:
        folder: the session's folder.
        samples: the new total of programs to measure; None for the session's own.
        minutes: the new limit of the session's total time; None for its own.
        patience: the new number of samples in a row that may bring nothing faster; None for the session's own.
        rpc: where the tracker of the session's devices is now; None for where it was.
        key: the name of the session's devices there now; None for its own.
        reference: of a workload of one's own, again, as the folder does not keep it; by task where there are several.
            None for none: results are then compared with those of the untuned program, and a notice says so.
        on_progress: is called whenever there is something new to show.

    Raises:
        UsageError: there is no run in the folder.
        EnvironmentMismatchError: it was made on another machine, target or set of versions.
        DeviceError, NothingMeasuredError, JournalError, Interrupted: as for `tune`.
    """
    from reasoning_compiler.session.opening import run_session

    folder = Path(folder)
    try:
        session = read_session(folder)
        before = settings_of(session.runs[0])
        if before.rpc is None and (rpc or key):
            raise EnvironmentMismatchError(f"`{folder}` was measured on the machine that tuned it, not on devices")
        changes = {"samples": samples, "minutes": minutes, "patience": patience, "rpc": rpc, "key": key}
        settings = replace(before, **{name: value for name, value in changes.items() if value is not None})
        threads = _threads(settings, session.header.machine)
        check_environment(session, differences(session.header.fingerprint, fingerprint(_machine(settings), threads)))
        is_done = all(run.ended is not None and run.ended.confirmed is not None for run in session.runs)
        if not is_done or settings != before:
            of_task = reference.get if isinstance(reference, Mapping) else lambda task: reference
            plans = [_plan_again(run, of_task(run.header.task), settings, on_progress) for run in session.runs]
            session = run_session(session.folder, plans, settings, earlier=session, on_progress=on_progress)
    except KeyboardInterrupt:
        raise Interrupted(folder) from None
    return SessionResult(session) if len(session.runs) > 1 else Result(session.run())


def as_workload(workload: Any) -> Workload:
    """Returns a workload for whatever can be one: a Workload, its spec, a PrimFunc or an IRModule."""
    from reasoning_compiler import workload as workloads

    if isinstance(workload, workloads.Workload):
        return workload
    return workloads.parse(workload) if isinstance(workload, str) else workloads.from_tvm(workload)


def _checked_weights(weights: Sequence[float] | None, num: int, settings: Settings) -> Sequence[float]:
    if not num:
        raise UsageError("`workload` is an empty list; give a workload, or several")
    if settings.samples < num:
        raise UsageError(f"`samples` is {settings.samples}; it must be at least {num}, one for each workload")
    if weights is None:
        return [1.0] * num
    if len(weights) != num or not all(0 < weight < math.inf for weight in weights):
        raise UsageError(f"`weights` is {list(weights)!r}; it must hold a number above 0 for each of {num} workloads")
    return weights


def _plans(
    workloads: Sequence[Workload],
    weights: Sequence[float],
    machine: Machine,
    threads: int,
    settings: Settings,
    command: str,
) -> list[Plan]:
    """Returns the tasks of a new session, each under a name of its own."""
    from reasoning_compiler.session.opening import Plan
    from reasoning_compiler.session.spaces import best_peak

    shared = {
        "machine": machine,
        "fingerprint": fingerprint(machine, threads),
        "config": settings.to_json(),
        "command": command,
    }
    names: list[str] = []
    plans = []
    for workload, weight in zip(workloads, weights, strict=True):
        base = _safe(workload.name)
        names.append(next(name for n in count(1) if (name := base if n == 1 else f"{base}-{n}") not in names))
        header = Header.of(
            workload,
            task=names[-1],
            weight=float(weight),
            peak=best_peak(workload, machine),
            own_reference=workload.reference is not None and not is_named(workload),
            **shared,
        )
        plans.append(Plan(header, workload))
    return plans


def _plan_again(
    run: Run, reference: Reference | None, settings: Settings, on_progress: Callable[[Progress], None]
) -> Plan:
    """Returns a task of a session that is gone on with; tells the user where its reference is missing."""
    from reasoning_compiler.session.opening import Plan

    workload = load_workload(run)
    if reference is not None:
        workload = replace(workload, reference=reference)
    elif run.header.own_reference:
        notice = f"{NOT_KEPT}; `resume` takes it as `reference`"
        on_progress(Progress("starting", str(run.folder), run.num_samples, settings.samples, notice=notice))
    return Plan(run.header, workload)


def _machine(settings: Settings) -> Machine:
    machine = detect(threads=settings.threads) if settings.machine is None else preset(settings.machine)
    return machine if settings.target is None else with_target(machine, settings.target)


def _threads(settings: Settings, machine: Machine) -> int:
    whose = "this process may use" if settings.machine is None else f"{machine.name} has"
    return chosen_threads(settings.threads, machine.num_cores, whose=whose)


def _new_folder(name: str) -> Path:
    """Returns a folder below `runs/` that nobody else has: it is made here, unless that fails."""
    base = f"{_safe(name)[:_MAX_NAME_CHARS]}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            (_RUNS / f"{base}{suffix}").mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # the journal says what is wrong
            pass
        return _RUNS / f"{base}{suffix}"
    raise UsageError(f"`{_RUNS}` holds too many runs of this second; give the run a folder with `--out`")


def _safe(name: str) -> str:
    """Returns a name as it can be that of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"

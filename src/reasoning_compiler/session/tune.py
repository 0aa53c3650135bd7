"""The library's front door: tune a workload, or go on with a run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.crash_markers import works_on
from reasoning_compiler.core.errors import EnvironmentMismatchError, Interrupted, LLMSetupError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import (
    WORKLOAD_FILE,
    Header,
    Journal,
    Run,
    check_environment,
    read_run,
    remove_empty,
    remove_run,
    require_free,
    unknown_here,
)
from reasoning_compiler.machine import chosen_threads, detect, differences, fingerprint, import_tvm, preset, with_target
from reasoning_compiler.session.settings import Progress, Settings

if TYPE_CHECKING:
    from reasoning_compiler.measure.executors.tracker import Devices
    from reasoning_compiler.space.space import Space
    from reasoning_compiler.workload import Workload
    from reasoning_compiler.workload.workload import Reference

_RUNS = Path("runs")
NOT_KEPT = "the run's reference is not kept: results are compared with those of the untuned program"
"""What is said of a run with a reference of the caller's."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        run: the run as its journal tells it.
    """

    run: Run

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def best(self) -> BestProgram | None:
        """The program that the run hands out, the untuned one where nothing was faster; None where nothing ran."""
        step, measurement = self.run.outcome.step, self.run.outcome.best
        return BestProgram(step, measurement.latency_secs) if step and measurement and measurement.ok else None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the untuned program the best one is."""
        return self.run.speedup

    @property
    def library(self) -> Path:
        """The best program's library, for `reasoning_compiler.load`."""
        from reasoning_compiler.deploy.best import LIBRARY_FILE

        return self.folder / "best" / LIBRARY_FILE

    def report(self) -> str:
        """Returns the run's report as text."""
        from reasoning_compiler.report import summarize, to_text

        return to_text(summarize(self.run))


@dataclass(frozen=True)
class BestProgram:
    """The program that a run hands out, and its median latency in seconds."""

    step: Step
    latency_secs: float


def tune(
    workload: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    command: str = "",
    **changes: Any,
) -> Result:
    """Returns the result of tuning a workload on this machine, or on devices behind TVM's RPC tracker.

    The search runs in this process, which a crash of TVM takes along: `reasonc resume` goes on past it.

    Args:
        workload: a Workload, its spec ("llama3-attention[seq_len=512]", "kernels.py:my_matmul"), a PrimFunc or an
            IRModule with one.
        out: the run folder; None for a new one under `runs/`.
        settings: what to do; single ones can be given as keyword arguments (`samples=16`).
        on_progress: is called whenever there is something new to show.
        command: the command line, for the journal.

    Raises:
        UsageError: the workload, a setting or the folder is of no use; nothing has been measured then.
        LLMSetupError: the language model cannot be used; where nothing has been measured, nothing is left of the run.
        DeviceError: no device can be had, at the start or for a while; what was measured is kept.
        NothingMeasuredError: no program could be measured and verified.
        JournalError: the journal could not be written; what was kept can be resumed.
        Interrupted: Ctrl-C, a KeyboardInterrupt that knows the run folder; what was measured is kept.
    """
    from reasoning_compiler.session.parts import best_peak

    settings = replace(settings or Settings(), **changes)
    if settings.replayed:
        settings = replace(settings, proposer=f"replay:{Path(settings.replayed).resolve()}")
    folder = Path(out) if out is not None else None
    require_free(folder or _RUNS / "new")  # before anything that takes time
    if settings.devices is not None:
        settings.devices.count()
    machine = _machine(settings)
    threads = _threads(settings, machine)
    workload = as_workload(workload)
    header = Header.of(
        workload,
        machine=machine,
        fingerprint=fingerprint(machine, threads),
        config=settings.to_json(),
        peak=best_peak(workload, machine),
        own_reference=workload.reference is not None and not _is_named(workload),
        command=command,
    )
    return _run(folder, workload, machine, settings, threads, header=header, on_progress=on_progress)


def resume(
    folder: str | os.PathLike[str],
    *,
    samples: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    rpc: str | None = None,
    key: str | None = None,
    reference: Reference | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Returns the result of going on with a run that was interrupted, or that is to take more samples.

    Args:
        folder: the run folder.
        samples: the new total of programs to measure; None for the run's own.
        minutes: the new limit of the run's total time; None for the run's own.
        patience: the new number of samples in a row that may bring nothing faster; None for the run's own.
        rpc: where the tracker of the run's devices is now; None for where it was.
        key: the name of the run's devices there now; None for the run's own.
        reference: of a workload of one's own, again, as the folder does not keep it; None for none: results are then
            compared with those of the untuned program, and a notice says so.
        on_progress: is called whenever there is something new to show.

    Raises:
        UsageError: there is no run in the folder.
        EnvironmentMismatchError: it was made on another machine, target or set of versions.
        DeviceError, NothingMeasuredError, JournalError, Interrupted: as for `tune`.
    """
    folder = Path(folder)
    try:
        run = read_run(folder)
        before = _settings(run)
        if before.rpc is None and (rpc or key):
            raise EnvironmentMismatchError(f"`{folder}` was measured on the machine that tuned it, not on devices")
        changes = {"samples": samples, "minutes": minutes, "patience": patience, "rpc": rpc, "key": key}
        settings = replace(before, **{name: value for name, value in changes.items() if value is not None})
        machine = run.header.machine
        threads = _threads(settings, machine)
        check_environment(run, differences(run.header.fingerprint, fingerprint(_machine(settings), threads)))
        if run.ended is not None and run.ended.confirmed is not None and settings == before:
            return Result(run)
        workload = load_workload(run)
        if reference is not None:
            workload = replace(workload, reference=reference)
        elif run.header.own_reference:
            notice = f"{NOT_KEPT}; `resume` takes it as `reference`"
            on_progress(Progress("starting", str(run.folder), run.num_samples, settings.samples, notice=notice))
        return _run(run.folder, workload, machine, settings, threads, header=None, on_progress=on_progress)
    except KeyboardInterrupt:
        raise Interrupted(folder) from None


def as_workload(workload: Any) -> Workload:
    """Returns a workload for whatever can be one: a Workload, its spec, a PrimFunc or an IRModule."""
    from reasoning_compiler import workload as workloads

    if isinstance(workload, workloads.Workload):
        return workload
    return workloads.parse(workload) if isinstance(workload, str) else workloads.from_tvm(workload)


def load_workload(run: Run) -> Workload:
    """Returns the workload of a run: from the run folder where it was a user's own, else from its spec.

    Raises:
        UsageError: it is no longer the kernel that the run was made of.
    """
    from reasoning_compiler import workload as workloads

    stored = run.folder / WORKLOAD_FILE
    if stored.exists():
        mod = import_tvm().ir.load_json(stored.read_text())
        made = workloads.from_tvm(mod, name=run.header.workload)
        workload = replace(made, spec=run.header.spec, flops=int(run.header.flops))
    else:
        workload = workloads.parse(run.header.spec)
    if workload.key != run.header.key:
        raise UsageError(f"`{run.folder}` was made of another version of {run.header.spec}; tune it anew")
    return workload


def machine_of(run: Run) -> Machine:
    """Returns the machine as a run used it: with as many cores as it had threads."""
    from reasoning_compiler.session.parts import with_threads

    return with_threads(run.header.machine, int(run.header.fingerprint["threads"]))


def devices_of(run: Run) -> Devices | None:
    """Returns the devices that a run was measured on; None for the machine that tuned it."""
    return _settings(run).devices


def space_of(run: Run) -> Space:
    """Returns the space that a run's programs belong to. Raises UsageError as `load_workload`."""
    from reasoning_compiler.session.parts import make_space

    return make_space(load_workload(run), machine_of(run), _settings(run))


def _run(
    folder: Path | None,
    workload: Workload,
    machine: Machine,
    settings: Settings,
    threads: int,
    *,
    header: Header | None,
    on_progress: Callable[[Progress], None],
) -> Result:
    from reasoning_compiler.measure.executors.choice import open_executor
    from reasoning_compiler.measure.instrument import Instrument
    from reasoning_compiler.session.loop import Loop
    from reasoning_compiler.session.parts import Parts

    recorded = _recorded(settings, workload) if settings.replayed else None
    model = None
    if settings.llm is not None:
        from reasoning_compiler.session.model import Model

        model = Model(settings)
    on_progress(Progress("starting", str(folder or ""), 0, settings.samples))
    crashes = () if header or folder is None else read_run(folder).crashes
    parts = Parts(workload, machine, settings, threads, fatal=[c.risk for c in crashes if c.risk is not None])
    is_new = folder is None or not folder.exists()
    folder = folder or _new_folder(workload.name)
    try:
        with Journal.create(folder, header, files=_files(workload)) if header else Journal.resume(folder) as journal:
            earlier = None if header else read_run(folder)
            if earlier is not None and earlier.config != settings.to_json():
                journal.resumed(settings.to_json())
            works_on(folder)
            try:
                with (
                    open_executor(
                        num_threads=threads, devices=settings.devices, flush_cache=settings.flush_cache
                    ) as executor,
                    Instrument(
                        workload, parts.target, executor, seed=settings.seed, timeout_secs=settings.timeout_secs
                    ) as instrument,
                ):
                    loop = Loop(parts, instrument, journal, model=model, recorded=recorded, on_progress=on_progress)
                    loop.run(earlier)
            except Exception as error:
                if header is not None and _came_to_nothing(read_run(folder), error):
                    remove_run(folder)  # the next try wants the folder
                raise
    except KeyboardInterrupt:
        raise Interrupted(folder) from None
    except Exception:
        if is_new and folder.is_dir():
            remove_empty(folder)
        raise
    return Result(read_run(folder))


def _came_to_nothing(run: Run, error: Exception) -> bool:
    """Tells whether there is nothing to go on with after an error."""
    return not run.samples or (isinstance(error, LLMSetupError) and not run.num_samples)


def _recorded(settings: Settings, workload: Workload) -> Run:
    """Returns the run that is to be done again. Raises UsageError where it is of another kernel or preset."""
    run = read_run(settings.replayed)
    if run.header.key != workload.key:
        raise UsageError(f"`{run.folder}` is a run of {run.header.spec}, whose programs are none of {workload.spec}")
    before = run.config.get("preset")
    if before != settings.preset:
        raise UsageError(f"`{run.folder}` was made with `--preset {before}`; repeat it with the same")
    return run


def _files(workload: Workload) -> dict[str, str]:
    """Returns what a run folder needs to stand on its own: the module, where none of our specs can make it again."""
    return {} if _is_named(workload) else {WORKLOAD_FILE: import_tvm().ir.save_json(workload.mod)}


def _is_named(workload: Workload) -> bool:
    from reasoning_compiler.workload import CATALOGUE

    return workload.spec.partition("[")[0] in CATALOGUE


def _machine(settings: Settings) -> Machine:
    machine = detect(threads=settings.threads) if settings.machine is None else preset(settings.machine)
    return machine if settings.target is None else with_target(machine, settings.target)


def _settings(run: Run) -> Settings:
    try:
        return Settings.from_json(run.config)
    except (KeyError, TypeError) as error:
        raise unknown_here(run, error) from error


def _threads(settings: Settings, machine: Machine) -> int:
    whose = "this process may use" if settings.machine is None else f"{machine.name} has"
    return chosen_threads(settings.threads, machine.num_cores, whose=whose)


def _new_folder(name: str) -> Path:
    """Returns a folder below `runs/` that nobody else has: it is made here, unless that fails."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    base = f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            (_RUNS / f"{base}{suffix}").mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # the journal says what is wrong
            pass
        return _RUNS / f"{base}{suffix}"
    raise UsageError(f"`{_RUNS}` holds too many runs of this second; give the run a folder with `--out`")

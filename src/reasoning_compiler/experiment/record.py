"""Recording a benchmark: every program of a restricted space built, verified and timed once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import EnvironmentMismatchError, IllegalProgramError, UsageError
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.rng import stream
from reasoning_compiler.core.whole_files import writing
from reasoning_compiler.experiment.restrict import Restricted, restrict
from reasoning_compiler.experiment.tabular import RecordedWorkload, TabularBenchmark
from reasoning_compiler.experiment.tabular_file import SUFFIX, header_json, read_rows, row_json, write_benchmark
from reasoning_compiler.machine import chosen_threads, detect, differences, fingerprint, tvm_target
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.session.spaces import with_threads
from reasoning_compiler.session.tune import as_workload

_BATCH = 8  # programs built together


@dataclass(frozen=True)
class Recording:
    """How far a recording is.

    Args:
        path: of the file.
        num_done: programs recorded.
        num_programs: of the restricted space.
        tiling: its tiling structure.
        best_secs: the fastest program so far; None before there is one.
        is_complete: whether the file has been written.
    """

    path: Path
    num_done: int
    num_programs: int
    tiling: str
    best_secs: float | None
    is_complete: bool = False


def record(
    workload: Any,
    *,
    samples: int = 2000,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    command: str = "",
    on_progress: Callable[[Recording], None] = lambda recording: None,
) -> Path:
    """Returns the file of a tabular benchmark; an interrupted recording resumes.

    Args:
        workload: as `tune` takes it.
        samples: the most programs to record; the space is restricted until it has no more, see `restrict`.
        out: the file, ending in `.landscape.gz`; None for one named after the workload.
        threads: threads that a program may use; None for every physical core.
        seed: of the inputs, and of the order of recording.
        command: the command line, for the file.
        on_progress: is called after every batch.

    Raises:
        UsageError: the file exists already or has another name, or the space cannot be made that small.
        KeyboardInterrupt: Ctrl-C; what was recorded is kept, and the same call resumes.
    """
    settings = Settings(samples=samples, threads=threads, seed=seed)
    if samples < 2:
        raise UsageError(f"`samples` is {samples}; it must be at least 2")
    made = as_workload(workload)
    path = Path(out) if out is not None else Path(f"{made.name}{SUFFIX}")
    if not path.name.endswith(SUFFIX):
        raise UsageError(f"`out` is {path}; the name of a recording ends in {SUFFIX}")
    if path.exists():
        raise UsageError(f"`{path}` exists already; choose another `--out`, or remove it")
    partial = path.with_name(f"{path.name}.partial")
    with writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    found = detect()
    machine = with_threads(found, chosen_threads(settings.threads, found.num_cores))
    about = {"command": command, "seed": seed, "samples": samples}
    restricted = restrict(made, machine, max_programs=samples)
    benchmark = _empty(made, machine, restricted, about | {"created": _now()})
    done = _earlier(partial, benchmark, about)
    rows = _record(made, benchmark, restricted, partial, done, seed, path=path, on_progress=on_progress)
    write_benchmark(path, rows[0], rows[1:])
    partial.unlink()
    on_progress(Recording(path, len(rows) - 1, len(rows) - 1, restricted.tiling, None, is_complete=True))
    return path


def _record(
    workload: Any,
    benchmark: TabularBenchmark,
    restricted: Restricted,
    partial: Path,
    done: list[dict[str, Any]],
    seed: int,
    *,
    path: Path,
    on_progress: Callable[[Recording], None],
) -> list[dict[str, Any]]:
    """Returns the header and the rows of all programs."""
    target = tvm_target(benchmark.machine)
    space = restricted.space
    programs = list(restricted.programs())
    order = stream(seed, "record").permutation(len(programs))
    known = {Program.within(row) for row in done[1:]}
    rows = list(done)
    best_secs: float | None = None

    with (
        LocalExecutor(num_threads=benchmark.machine.num_cores) as executor,
        Instrument(workload, target, executor, seed=seed) as instrument,
    ):
        if not rows:
            benchmark.untuned = instrument.measure_untuned().measurement
            rows.append(_append(partial, header_json(benchmark)))
        left = _legal(space, (programs[i] for i in order), known, lambda row: rows.append(_append(partial, row)))
        while batch := list(islice(left, _BATCH)):
            modules = [space.schedule(program).mod for program in batch]
            for program, measured in zip(batch, instrument.measure(modules, best_secs=None), strict=True):
                measurement = measured.measurement
                rows.append(_append(partial, row_json(program, measurement, space.nests(program))))
                if measurement.ok:
                    best_secs = min(measurement.latency_secs, best_secs or measurement.latency_secs)
            on_progress(Recording(path, len(rows) - 1, len(programs), restricted.tiling, best_secs))
    return rows


def _legal(
    space: Any, programs: Iterable[Program], known: set[Program], refuse: Callable[[dict[str, Any]], None]
) -> Iterator[Program]:
    """Yields the programs that TVM accepts and that are not known; the others are told to `refuse`."""
    for program in programs:
        if program in known:
            continue
        try:
            yield space.edit(UNTUNED, Transformation((*program.structure, *program.decisions)))
        except IllegalProgramError as error:
            failure = Measurement(failure=Failure("illegal", str(error)))
            refuse(row_json(program, failure, ()))


def _empty(workload: Any, machine: Any, restricted: Restricted, about: dict[str, Any]) -> TabularBenchmark:
    """Returns the benchmark before anything was measured."""
    described = RecordedWorkload(
        workload.name,
        workload.spec,
        workload.key,
        workload.flops,
        workload.bytes,
        workload.arguments,
        workload.mod["main"].script(),
    )
    unmeasured = Measurement(failure=Failure("illegal", "not measured yet"))
    return TabularBenchmark(
        workload=described,
        machine=machine,
        fingerprint=fingerprint(machine, machine.num_cores),
        tiling=restricted.tiling,
        start=restricted.start,
        tables=restricted.tables,
        tile_groups=restricted.tile_groups,
        untuned=unmeasured,
        entries={},
        about=about,
    )


def _earlier(partial: Path, benchmark: TabularBenchmark, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what an interrupted recording holds, what was torn at its end cut off; nothing where there is none.

    Raises:
        UsageError: it is of another workload, or other options were given.
        EnvironmentMismatchError: it was made in another environment.
    """
    rows = list(read_rows(partial))
    if not rows:
        return []
    header = rows[0]
    lines = differences(header["fingerprint"], benchmark.fingerprint)
    if lines:
        raise EnvironmentMismatchError(
            f"`{partial}` was begun in another environment ({'; '.join(lines)}); remove it to record anew"
        )
    same = {name: header["about"].get(name) for name in ("seed", "samples")}
    if header["workload"]["key"] != benchmark.workload.key or same != {n: about[n] for n in same}:
        raise UsageError(
            f"`{partial}` is a recording of {header['workload']['spec']} with {same['samples']} samples and seed "
            f"{same['seed']}; go on with these, or remove it"
        )
    now = json.loads(json.dumps(header_json(benchmark)))
    if any(header[name] != now[name] for name in ("tiling", "start", "tables")):
        raise UsageError(f"`{partial}` is of another space than this version records; remove it to record anew")
    content = partial.read_bytes()
    partial.write_bytes(content[: content.rfind(b"\n") + 1])
    return rows


def _append(partial: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Writes one line, and returns it as it will be read."""
    line = json.dumps(row, separators=(",", ":"))
    with writing(partial), open(partial, "a", encoding="ascii") as file:
        file.write(line + "\n")
    return json.loads(line)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

"""Runs an experiment cell by cell into a results folder, from which an interrupted one resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import EnvironmentMismatchError, NothingMeasuredError, UsageError
from reasoning_compiler.core.whole_files import write_whole, writing
from reasoning_compiler.experiment.cell import Cell
from reasoning_compiler.experiment.testbeds import Testbed
from reasoning_compiler.experiment.variants import Variant, reference_run
from reasoning_compiler.journal import package_version
from reasoning_compiler.machine import differences
from reasoning_compiler.session.settings import Progress

FORMAT_VERSION = 1
PLAN_FILE, RESULTS_FILE = "experiment.json", "results.json"
_CELLS, _FINALS = "cells", "finals"


@dataclass(frozen=True)
class ExperimentProgress:
    """What an experiment tells those who watch it.

    Args:
        cell: "workload, variant, seed" of the run that it is at.
        num_done: runs that are done.
        num_cells: runs in all.
        progress: of the present run; None when it begins, or when winners are being timed.
    """

    cell: str
    num_done: int
    num_cells: int
    progress: Progress | None = None


@dataclass(frozen=True)
class Experiment:
    """What is compared, and how.

    Args:
        kind: "compare" or "ablate".
        variants: what is compared.
        baseline: the variant that the others are compared with.
        samples: programs that each run measures.
        seed: the first one.
        repeats: seeds, at least 1.
        reference: samples of TVM's search, which then runs once on each workload, with the first seed, and is timed
            together with its winners; None for none. A folder remembers it for its workloads.
        command: the command line, for the results.
    """

    kind: str
    variants: Sequence[Variant]
    baseline: str
    samples: int
    seed: int
    repeats: int
    reference: int | None = None
    command: str = ""


def run_experiment(
    experiment: Experiment, testbeds: Sequence[Testbed], out: Path, watch: Callable[[ExperimentProgress], None]
) -> dict[str, Any]:
    """Returns the results of all runs, which are also written to `results.json` in the folder.

    For each seed and workload the variants run one after the other; their order rotates with the seed and turns round
    with every second one. When all of them are done, their winners are timed against each other in turns. A run that is
    done already is not done again. The reference runs last, so that one can be added to what is there.

    Args:
        experiment: what is compared.
        testbeds: the workloads.
        out: the results folder.
        watch: is called whenever there is something new.

    Raises:
        UsageError: the folder holds another experiment, or something else.
        EnvironmentMismatchError: the folder is from another machine or version.
        KeyboardInterrupt: Ctrl-C; what is done is kept.
    """
    keys = [testbed.key for testbed in testbeds]
    if len(set(keys)) < len(keys):
        raise UsageError("`workload`: the same kernel is given twice; give each once")
    for testbed in testbeds:
        lines = differences(testbeds[0].fingerprint, testbed.fingerprint)
        if lines:
            raise UsageError(f"`workload`: these were recorded in different environments ({'; '.join(lines)})")
    plan = _agreed_plan(out, _plan(experiment, testbeds))
    variants, seed, command = experiment.variants, experiment.seed, experiment.command
    reference_samples = {n: plan["references"][p.spec] for n, p in enumerate(testbeds) if p.spec in plan["references"]}
    num_cells = len(testbeds) * len(variants) * experiment.repeats + len(reference_samples)
    num_done = 0
    cells: list[Cell] = []
    references: list[Cell] = []
    finals: list[dict[str, Any]] = []

    def cell_at(testbed: Testbed, variant: Variant, seed: int, samples: int) -> Cell:
        nonlocal num_done
        name, done = f"{testbed.spec}, {variant.name}, seed {seed}", num_done
        watch(ExperimentProgress(name, done, num_cells))
        num_done += 1
        folder = _folder(out, testbed, variant.name, seed)
        record = folder.with_name(f"{folder.name}.json")  # a variant's name may hold dots
        if record.exists():
            return Cell.from_json(json.loads(record.read_text(encoding="utf-8")))
        try:
            cell = testbed.run(
                variant,
                seed,
                folder,
                samples=samples,
                command=command,
                watch=lambda progress: watch(ExperimentProgress(name, done, num_cells, progress)),
            )
        except NothingMeasuredError as error:  # it counts, as one that found nothing
            cell = Cell(testbed.spec, variant.name, seed, (), None, 0.0, ended=str(error))
        _write(record, cell.to_json())
        return cell

    def final_at(testbed: Testbed, seed: int, cells: Sequence[Cell]) -> dict[str, Any]:
        watch(ExperimentProgress(f"{testbed.spec}, seed {seed}: timing the winners in turns", num_done, num_cells))
        return _retime(testbed, cells, seed, out)

    def results_now(repeats: int) -> dict[str, Any]:
        found = {"cells": [c.to_json() for c in cells], "references": [c.to_json() for c in references]}
        results = plan | {"repeats": repeats, **found, "finals": finals}
        _write(out / RESULTS_FILE, results)
        return results

    for number in range(experiment.repeats):
        each = seed + number
        for testbed in testbeds:
            cells += [cell_at(testbed, variant, each, experiment.samples) for variant in in_turn(variants, number)]
            finals.append(final_at(testbed, each, cells))
            results = results_now(number + 1)
    for index, to_samples in reference_samples.items():
        references.append(cell_at(testbeds[index], reference_run(to_samples), seed, to_samples))
        finals[index] = final_at(testbeds[index], seed, [*cells, *references])
        results = results_now(experiment.repeats)
    return results


def in_turn(variants: Sequence[Variant], number: int) -> list[Variant]:
    """Returns the variants in the order of the seed with that number: rotated, and every second time backwards."""
    shift = number % len(variants)
    order = [*variants[shift:], *variants[:shift]]
    return order[::-1] if number % 2 else order


def _retime(testbed: Testbed, cells: Sequence[Cell], seed: int, out: Path) -> dict[str, Any]:
    """Returns the latencies of one seed's winners; taken again when there are others than before."""
    mine = [c for c in cells if c.seed == seed and c.workload == testbed.spec and c.samples]
    names = sorted(c.variant for c in mine)
    record = out / _FINALS / f"{_safe(testbed)}-{seed}.json"
    if record.exists():
        stored = json.loads(record.read_text(encoding="utf-8"))
        if set(names) <= set(stored["of"]):
            return stored | {"of": names, "secs": {n: s for n, s in stored["secs"].items() if n in {*names, "untuned"}}}
    folders = {name: _folder(out, testbed, name, seed) for name in names}
    final = {"workload": testbed.spec, "seed": seed, "of": names, "secs": testbed.retime(folders, seed=seed)}
    _write(record, final)
    return final


def _folder(out: Path, testbed: Testbed, variant: str, seed: int) -> Path:
    safe = "".join(c if c.isalnum() or c in "+-=." else "_" for c in variant)
    return out / _CELLS / f"{_safe(testbed)}-{safe}-{seed}"


def _safe(testbed: Testbed) -> str:
    name = testbed.spec.partition("[")[0].rpartition("/")[2]
    return f"{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}-{testbed.key}"


# -- the folder -------------------------------------------------------------------------------------------------------


def _plan(experiment: Experiment, testbeds: Sequence[Testbed]) -> dict[str, Any]:
    reference = experiment.reference
    return {
        "experiment": FORMAT_VERSION,
        "kind": experiment.kind,
        "command": experiment.command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": testbeds[0].machine.to_json(),
        "fingerprint": testbeds[0].fingerprint,
        "package_version": package_version(),
        "samples": experiment.samples,
        "seed": experiment.seed,
        "baseline": experiment.baseline,
        "workloads": {testbed.spec: testbed.key for testbed in testbeds},
        "variants": [variant.to_json() for variant in experiment.variants],
        "references": {} if reference is None else {testbed.spec: reference for testbed in testbeds},
    }


def _agreed_plan(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Returns the plan, which the folder then holds. It may add workloads, methods and seeds to what it has held.

    Raises:
        UsageError: it holds another experiment, or something else.
        EnvironmentMismatchError: it is from another machine or version.
    """
    path = out / PLAN_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"`{out}` holds something else; choose another folder for the results")
        _write(path, plan)
        return plan
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        old = {variant["name"]: variant for variant in stored["variants"]}
        lines = differences(stored["fingerprint"], plan["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"`{path}` cannot be read ({type(error).__name__}); choose another folder") from error
    version, now = stored.get("package_version"), plan["package_version"]
    if version != now:
        lines.append(f"reasoning-compiler: was {version}, is {now}")
    if lines:
        raise EnvironmentMismatchError(
            f"`{out}` holds results of another environment ({'; '.join(lines)}): they cannot be mixed with new ones; "
            "go on where they were made, or choose another folder"
        )
    for name in ("experiment", "kind", "samples", "seed"):
        if stored[name] != plan[name]:
            raise UsageError(
                f"`{out}` holds results with `{name}` {stored[name]}, not {plan[name]}; choose another folder"
            )
    new = {variant["name"]: variant for variant in json.loads(json.dumps(plan["variants"]))}
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise UsageError(f"`{out}` holds results of {name} with other settings; choose another folder")
    plan |= {"created": stored["created"], "references": stored.get("references", {}) | plan["references"]}
    _write(path, plan)
    return plan


def _write(path: Path, obj: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(obj, indent=1) + "\n").encode())

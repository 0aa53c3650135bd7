"""Comparing methods, and the variants of one method, on workloads or on recordings of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.whole_files import writing
from reasoning_compiler.experiment import variants
from reasoning_compiler.experiment.experiment import Experiment, ExperimentProgress, run_experiment
from reasoning_compiler.experiment.tables import curves_svg, page_of, to_html, to_text
from reasoning_compiler.experiment.tabular_file import is_benchmark
from reasoning_compiler.experiment.testbeds import open_testbed
from reasoning_compiler.experiment.variants import BASELINE
from reasoning_compiler.session.settings import LLMSettings, Settings

PAGE_FILE, CURVES_FILE, TEXT_FILE = "results.html", "curves.svg", "results.txt"

Watch = Callable[[ExperimentProgress], None]


def compare(
    workloads: Sequence[str | os.PathLike[str]],
    methods: Sequence[str],
    *,
    settings: Settings | None = None,
    repeats: int = 3,
    reference: int | None = None,
    llm: LLMSettings | None = None,
    replays: Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    watch: Watch = lambda watched: None,
) -> dict[str, Any]:
    """Returns the results of methods on workloads, with one instrument, equal samples, in turns, seed by seed.

    Args:
        workloads: specs as `tune` takes them, or recordings (`*.landscape.gz`); not both.
        methods: of `variants.METHODS`. The others are compared with `evolutionary`, or with the first one given.
        settings: samples, batch, threads and timeout of every run, and the first seed.
        repeats: how many seeds.
        reference: samples of a long run of TVM's search, made once for each workload after all others; None for none.
        llm: the model of `llm` and `paper`.
        replays: run folders that these two repeat instead of asking a model.
        out: the results folder, also of an interrupted comparison; None for a new one below `experiments/`.
        command: the command line, for the results.
        watch: is called whenever there is something new.

    Raises:
        UsageError: a method or workload does not exist, a model is missing, `repeats` or `reference` < 1, or the
            folder holds something else.
        EnvironmentMismatchError: the folder is from another machine or version.
        KeyboardInterrupt: Ctrl-C; the same call resumes in the same folder.
    """
    settings = settings or Settings()
    chosen = variants.methods(methods, settings, llm=llm, replays=[Path(path) for path in replays])
    baseline = BASELINE if BASELINE in methods else methods[0]
    experiment = Experiment(
        "compare", chosen, baseline, settings.samples, settings.seed, repeats, reference=reference, command=command
    )
    return _run(experiment, workloads, settings, out, watch)


def ablate(
    workloads: Sequence[str | os.PathLike[str]],
    what: str,
    values: Sequence[str] = (),
    *,
    settings: Settings | None = None,
    repeats: int = 3,
    llm: LLMSettings | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    watch: Watch = lambda watched: None,
) -> dict[str, Any]:
    """Returns the results of runs that differ in one setting.

    Args:
        workloads: as for `compare`.
        what: of `variants.ABLATIONS`.
        values: to be tried; empty for all of that ablation's.
        settings: of which that one is changed.
        repeats, llm, out, command, watch: as for `compare`.

    Raises:
        UsageError, EnvironmentMismatchError, KeyboardInterrupt: as for `compare`.
    """
    settings = settings or Settings()
    chosen, baseline = variants.ablation(what, values, settings, llm=llm)
    experiment = Experiment("ablate", chosen, baseline, settings.samples, settings.seed, repeats, command=command)
    return _run(experiment, workloads, settings, out, watch)


def new_folder(kind: str) -> Path:
    """Returns the folder that results go to where none is given."""
    return Path("experiments") / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


def _run(
    experiment: Experiment,
    workloads: Sequence[str | os.PathLike[str]],
    settings: Settings,
    out: str | os.PathLike[str] | None,
    watch: Watch,
) -> dict[str, Any]:
    if not workloads:
        raise UsageError("`workloads` is empty; `reasonc workloads` lists the named ones")
    repeats = experiment.repeats
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise UsageError(f"`repeats` is {repeats!r}; it must be a whole number of at least 1")
    for variant in experiment.variants:
        if variant.settings is not None and variant.settings.llm is not None:
            from reasoning_compiler.session.model import checked_client

            checked_client(variant.settings)  # says now what is wrong with the model, its key or its budget
    if len({is_benchmark(each) for each in workloads}) > 1:
        raise UsageError("`workloads` has recordings and workloads to be measured; compare them one after the other")
    testbeds = [open_testbed(os.fspath(each), settings) for each in workloads]
    lines = [] if experiment.reference is None else [variants.reference_run(experiment.reference)]
    for testbed in testbeds:
        for variant in [*experiment.variants, *lines]:
            if variant.replays:
                variant.seeded(settings.seed, key=testbed.key)
            testbed.check(variant)
    folder = Path(out) if out is not None else new_folder(experiment.kind)
    results = run_experiment(experiment, testbeds, folder, watch)
    _save_pages(folder, results)
    return results


def _save_pages(folder: Path, results: dict[str, Any]) -> None:
    page, picture = page_of(results), curves_svg(results)
    with writing(folder, "; its results.json is intact"):
        (folder / TEXT_FILE).write_text(to_text(page), encoding="utf-8")
        (folder / CURVES_FILE).write_text(picture, encoding="utf-8")
        (folder / PAGE_FILE).write_text(to_html(page, picture=picture), encoding="utf-8")

"""docs/results.md and the README's table against the results that they are made of."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
ABOUT = {
    "command": "python benchmarks/made_up.py",
    "kept_with": "abc1234",
    "machine": {"name": "Some CPU", "num_cores": 2, "isa": "avx512", "peak_flops": 300e9},
    "fingerprint": {"versions": {"apache-tvm": "0.27.0.post1"}},
}


@pytest.fixture(scope="module")
def publish():
    sys.path.insert(0, str(ROOT / "benchmarks"))  # it imports its neighbours
    try:
        return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "publish.py")))
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def spread(median, least, most):
    return {"median": median, "min": least, "max": most}


def cell(variant, *secs, workload="gemm"):
    samples = [[float(n), each] for n, each in enumerate(secs)]
    return {
        "workload": workload,
        "variant": variant,
        "seed": 0,
        "samples": samples,
        "untuned_secs": 0.04,
        "wall_secs": 9.0,
    }


def compared(*cells, references=()):
    return ABOUT | {
        "experiment": 1,
        "kind": "compare",
        "samples": 2,
        "baseline": "evolutionary",
        "workloads": {each["workload"]: "key" for each in cells},
        "variants": [{"name": name, "says": ""} for name in ("evolutionary", "expert")],
        "cells": list(cells),
        "references": list(references),
        "finals": [],
    }


@pytest.fixture
def records():
    kernels = compared(
        cell("evolutionary", 9e-3, 8e-3), cell("expert", 5e-3, 4e-3), references=[cell("to 3", 9e-3, 8e-3, 6e-3)]
    )
    contestants = {"ours": ("0.1.0", 4e-3), "torch": ("2.13.0", 9e-3), "openvino": ("2026.4.1-22982-x", 10e-3)}
    rows = [
        {"kernel": "gemm", "contestant": name, "version": version, "secs": spread(secs, secs, secs)}
        for name, (version, secs) in contestants.items()
    ]
    peers = ABOUT | {"samples": 64, "rows": rows, "ours_over_best_peer": {"gemm": spread(0.44, 0.4, 0.5)}}
    return {"kernels": kernels, "peers": peers}


def test_the_pages_hold_what_the_results_say(publish):
    records = publish.read()
    assert publish.PAGE.read_text(encoding="utf-8") == publish.page(records), "run `python benchmarks/publish.py`"
    readme = publish.README.read_text(encoding="utf-8")
    table = "\n".join(publish.kernels(records))
    assert publish.with_table(readme, table) == readme, "run `python benchmarks/publish.py`"
    assert publish.PICTURE.read_text(encoding="utf-8") == publish.curves_svg(records["kernels"])


def test_the_readme_has_seven_rows_at_most_and_the_page_is_one(publish):
    rows = [line for line in publish.kernels(publish.read()) if line.startswith("| `")]
    assert 5 <= len(rows) <= 7
    assert len(publish.PAGE.read_text(encoding="utf-8").split()) < 2500


def test_a_kernel_is_a_row(publish, records):
    (row,) = [line for line in publish.kernels(records) if line.startswith("| `")]
    assert row == "| `gemm` | 4 | 9, PyTorch 2.13.0 | 2.27× (2.00 – 2.50) | 8 | 6 |"
    assert "TVM's search, 3 samples |" in publish.page(records)


def test_every_result_is_on_the_page_with_commit_and_command(publish):
    page = publish.page(publish.read())
    for name, record in publish.read().items():
        if name not in ("kernels", "peers", "odd_shapes", "other_machine"):
            (line,) = [line for line in page.splitlines() if line.startswith(f"**{name}**")]
            assert f"commit {record['kept_with']}" in line and f"`{record['command'].split()[0]}" in line


def test_a_comparison_is_a_paragraph_with_its_number_of_workloads(publish, records):
    workloads = [f"w{n}" for n in range(6)]
    cells = [
        each for w in workloads for each in (cell("evolutionary", 8e-3, workload=w), cell("expert", 4e-3, workload=w))
    ]
    page = publish.page(records | {"mine": compared(*cells), "few": compared(*cells[:4])})
    (mine,) = [line for line in page.splitlines() if line.startswith("**mine**")]
    assert "Significant: expert (p = 0.031)" in mine and "on 6 workloads: expert 2.00× (2.00 – 2.00)" in mine
    (few,) = [line for line in page.splitlines() if line.startswith("**few**")]
    assert "2 workloads are too few" in few


def test_other_measurements_say_what_was_found(publish, records):
    mine = {"samples": 64, "ours_secs": spread(12.0, 11, 13), "tune_tir_secs": spread(99.0, 90, 100)}
    page = publish.page(records | {"wall_time": ABOUT | mine | {"workload": "gemm"}})
    assert "64 samples of gemm take 12 s; TVM's `tune_tir` takes 99 s. Some CPU, 2 cores, avx512" in page


def test_a_page_without_markers_is_refused(publish):
    with pytest.raises(SystemExit):
        publish.with_table("no markers", "table")


def test_what_is_kept_says_how_it_was_made(publish, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SystemExit, match="by which command"):
        publish.keep("mine", tmp_path)

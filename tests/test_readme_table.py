"""The README's table and picture against the results that they are made of."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


def script(name):
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py")))


@pytest.fixture(scope="module")
def readme_table():
    return script("readme_table")


ABOUT = {
    "command": "python benchmarks/made_up.py",
    "machine": {"name": "Some CPU", "num_cores": 2, "isa": "avx512", "peak_flops": 300e9},
    "fingerprint": {"versions": {"apache-tvm": "0.27.0.post1"}},
}


def spread(median, least, most):
    return {"median": median, "min": least, "max": most}


def cell(variant, *secs):
    samples = [[float(n), each] for n, each in enumerate(secs)]
    return {
        "workload": "gemm",
        "variant": variant,
        "seed": 0,
        "samples": samples,
        "untuned_secs": 40e-3,
        "wall_secs": 9.0,
    }


def store(folder, name, record):
    (folder / f"{name}.json").write_text(json.dumps(ABOUT | record))


def test_the_readme_holds_what_the_results_say(readme_table):
    text = readme_table.README.read_text(encoding="utf-8")
    fresh = readme_table.with_table(text, readme_table.table())
    assert text == fresh, "run `python benchmarks/readme_table.py`, then look at `git diff README.md`"


def test_another_result_is_another_table(readme_table, tmp_path):
    store(tmp_path, "start_up", {"help_secs": spread(0.3, 0.25, 0.4), "first_sample_secs": {"gemm": spread(6, 5, 7)}})
    one = readme_table.table(tmp_path)
    assert "| `reasonc --help`: seconds | 0.3 (0.25 – 0.4) |  |  |" in one
    store(tmp_path, "start_up", {"help_secs": spread(0.31, 0.25, 0.4), "first_sample_secs": {"gemm": spread(6, 5, 7)}})
    assert readme_table.table(tmp_path) != one


def test_every_benchmark_has_its_rows(readme_table, tmp_path):
    kernels = {
        "kind": "compare",
        "samples": 2,
        "baseline": "evolutionary",
        "workloads": {"gemm": "key"},
        "variants": [{"name": name, "says": ""} for name in ("evolutionary", "expert")],
        "cells": [cell("evolutionary", 9e-3, 8e-3), cell("expert", 5e-3, 4e-3)],
        "references": [cell("evolutionary to 3", 9e-3, 8e-3, 4e-3)],
        "finals": [],
    }
    store(tmp_path, "kernels", kernels)
    wall = {"workload": "gemm", "samples": 64, "ours_secs": spread(60, 50, 70), "tune_tir_secs": spread(406, 400, 410)}
    store(tmp_path, "wall_time", wall | {"ratio": spread(0.15, 0.12, 0.17)})
    contestants = {"ours": ("0.1.0", 8e-3), "torch": ("2.13.0", 9e-3), "openvino": ("2026.4.1-22982-x", 10e-3)}
    peers = [
        {"kernel": "gemm", "contestant": name, "version": version, "secs": spread(secs, secs, secs)}
        for name, (version, secs) in contestants.items()
    ]
    store(tmp_path, "peers", {"samples": 64, "rows": peers, "ours_over_best_peer": {"gemm": spread(0.9, 0.8, 0.95)}})
    text = readme_table.table(tmp_path)
    assert "| `gemm`: milliseconds, 64 samples, against the fastest library | 8 | 9, PyTorch 2.13.0 | 0.9 of" in text
    assert "| 10 (10 – 10) | 5 (5 – 5) | 2× as fast; as fast as evolutionary's 3 samples at sample 2 |" in text
    assert "against `tune_tir` as it ships | 60 (50 – 70) | 406 (400 – 410) | 0.15 of the time (0.12 – 0.17) |" in text
    assert text.count("Measured on") == 1


def test_without_results_the_text_says_how_to_get_them(readme_table, tmp_path):
    assert "readme_table.py" in readme_table.table(tmp_path)


def test_a_page_without_markers_is_refused(readme_table):
    with pytest.raises(SystemExit):
        readme_table.with_table("no markers", "table")


# -- docs/results.md --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def publish():
    sys.path.insert(0, str(ROOT / "benchmarks"))  # it imports its neighbours
    try:
        return script("publish")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


AGREEMENT = {"num_programs": 64, "tau": 0.5, "top1": 1.0, "top5": 0.4, "error": 1.25}


def test_the_page_of_results_holds_what_the_results_say(publish):
    assert publish.PAGE.read_text(encoding="utf-8") == publish.page(), "run `python benchmarks/publish.py`"
    for name, svg in publish.pictures().items():
        assert (publish.IMAGES / name).read_text(encoding="utf-8") == svg, "run `python benchmarks/publish.py`"


def test_every_result_is_on_the_page_with_machine_and_command(publish):
    page = publish.page()
    for path in publish.RESULTS.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        section = page.partition(f"\n## {path.stem}\n")[2].partition("\n## ")[0]
        names = [record["machine"]["name"]] if "machine" in record else [k["machine"] for k in record["kernels"]]
        assert record["command"] in section and all(name in section for name in names), path.stem


def test_every_kind_of_result_has_its_section(publish, tmp_path):
    taus = [{"tau": 0.5, "pairs": 3}, {"tau": 0.4, "pairs": 3}]
    rows = [{"a": 1, "b": [0.5, 0.4, 0.3, 0.25, 0.25]}, {"a": 2, "b": taus}]
    store(tmp_path, "any", {"limit_ms": 5.0, "inner": {"secs": spread(2, 1, 3)}, "rows": rows})
    kernel = {"workload": "gemm", "machine": "Some CPU", "source": "2 runs", "total": AGREEMENT}
    stages = [{"name": "samples 1 to 16", "agreement": AGREEMENT | {"error": None}}]
    fidelity = {"kind": "fidelity", "command": "reasonc fidelity runs/a", "kernels": [kernel | {"stages": stages}]}
    (tmp_path / "fidelity.json").write_text(json.dumps(fidelity | {"machines": []}))
    page = publish.page(tmp_path)
    assert "| inner, secs | 2 (1 – 3) |" in page and "| 1 | 0.25, the last of 5 |" in page
    assert "| 2 | tau 0.5, pairs 3; tau 0.4, pairs 3 |" in page
    assert "| gemm | Some CPU | 2 runs | all | 64 | 0.5 | 1 | 0.4 | 1.25 |" in page
    assert "| samples 1 to 16 | 64 | 0.5 | 1 | 0.4 | – |" in page
    assert publish.pictures(tmp_path) == {}


def test_what_is_kept_says_how_it_was_made(publish, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SystemExit, match="by which command"):
        publish.keep("mine", tmp_path)

"""Experiments on recordings: cells that are done once, folders that go on, tables by hand, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm")

from reasoning_compiler.cli.main import main
from reasoning_compiler.core.errors import EnvironmentMismatchError, IllegalProgramError, UsageError
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, Transformation
from reasoning_compiler.experiment import ablate, compare, fidelity
from reasoning_compiler.experiment.experiment import PLAN_FILE, in_turn
from reasoning_compiler.experiment.fidelity import agreement, of_benchmark
from reasoning_compiler.experiment.outcome import Outcome
from reasoning_compiler.experiment.tables import curves_svg, page_of, to_html, to_text
from reasoning_compiler.experiment.tabular import TabularBenchmark
from reasoning_compiler.experiment.tabular_file import header_json, read_benchmark, row_json, write_benchmark
from reasoning_compiler.experiment.testbeds import Recorded
from reasoning_compiler.experiment.variants import ABLATIONS, METHODS, ablation, methods
from reasoning_compiler.journal import read_run
from reasoning_compiler.session import LLMSettings, Settings

pytestmark = pytest.mark.tvm  # a recording is compared with the kernel of its name

GEMM = Path(__file__).parent / "landscapes" / "gemm.landscape.gz"
SMALL = Settings(samples=8, batch=4)
MODEL = LLMSettings("openai:none")


@pytest.fixture(scope="module")
def landscape() -> TabularBenchmark:
    return read_benchmark(GEMM)


def run(out: Path, *names: str, repeats: int = 2, settings: Settings = SMALL) -> dict[str, Any]:
    return compare([str(GEMM)], names or ("random", "mcts", "expert"), settings=settings, repeats=repeats, out=out)


# -- a landscape ------------------------------------------------------------------------------------------------------


def test_every_program_is_reached_by_edits_and_nothing_else_is(landscape: TabularBenchmark) -> None:
    for entry in landscape.entries.values():
        whole = Transformation((*entry.program.structure, *entry.program.decisions))
        if entry.is_legal:
            assert landscape.edit(UNTUNED, whole) == entry.program
            shown = {d.name: d.value for d in landscape.table(entry.program)}
            assert shown.items() <= entry.program.values.items() and len(shown) > 1
        else:
            assert landscape.why_not(UNTUNED, whole)
    for edits, words in (
        ([("C.i tile", [3, 5])], "product 15 instead of 128"),
        ([("C.l tile", [8, 64])], "there is no open decision `C.l tile`"),
        ([("unroll", 16), ("unroll", 64)], "twice"),
        ([("C tiling", "upside down")], "the structure is none of"),
    ):
        with pytest.raises(IllegalProgramError, match=words):
            landscape.edit(UNTUNED, Transformation(tuple((n, v) for n, v in edits)))


def with_another_structure(landscape: TabularBenchmark) -> TabularBenchmark:
    """Returns the landscape with its programs once more, under another structure that leaves out one decision."""
    (structure,) = landscape.tables
    site = Decision("C tiling", "structure", ChoiceDomain(("direct", "cached")), "direct")
    table = landscape.tables[structure]
    other = (("C tiling", "cached"),)
    entries = dict(landscape.entries)
    for entry in landscape.entries.values():
        if entry.program.values["unroll"] == 0:
            program = Program(other, tuple((n, v) for n, v in entry.program.decisions if n != "unroll"))
            entries[program] = replace(entry, program=program)
    tables = {structure: (site, *table), other: (site, *(d for d in table if d.name != "unroll"))}
    return replace(landscape, tables=tables, entries=entries)


def test_what_is_not_edited_is_carried_over(landscape: TabularBenchmark) -> None:
    two = with_another_structure(landscape)
    one = two.edit(UNTUNED, Transformation((("C.i tile", (16, 8)), ("unroll", 64))))
    moved = two.edit(one, Transformation((("C tiling", "cached"),)))
    assert moved.values["C tiling"] == "cached" and moved.values["C.i tile"] == (16, 8) and "unroll" not in moved.values
    back = two.edit(moved, Transformation((("C tiling", "direct"), ("unroll", 16))))
    assert back.values == one.values | {"unroll": 16}
    assert two.edit(moved, Transformation((("C tiling", "direct"),))).values["unroll"] == 0
    with pytest.raises(IllegalProgramError, match="no open decision `unroll`"):
        two.edit(moved, Transformation((("unroll", 16),)))
    drawn = [two.sample(seed) for seed in range(100)]
    assert {program.structure for program in drawn} == set(two.tables)


def test_samples_are_legal_and_spread(landscape: TabularBenchmark) -> None:
    drawn = [landscape.sample(seed) for seed in range(200)]
    assert all(landscape.entries[program].is_legal for program in drawn) and len(set(drawn)) > 100


def test_a_landscape_is_the_same_after_it_was_written(landscape: TabularBenchmark, tmp_path: Path) -> None:
    def rewritten(name: str) -> Path:
        rows = [row_json(e.program, e.measurement, e.nests()) for e in some]
        write_benchmark(tmp_path / name, header_json(landscape), rows)
        return tmp_path / name

    some = list(landscape.entries.values())[:200]
    path = rewritten("a.landscape.gz")
    again = read_benchmark(path)
    assert path.read_bytes() == rewritten("b.landscape.gz").read_bytes()
    assert again.tables == landscape.tables and again.start == landscape.start
    assert again.tile_groups == landscape.tile_groups and again.workload == landscape.workload
    for entry in some:
        copy = again.entries[entry.program]
        assert copy.nests() == entry.nests()
        assert copy.measurement.latencies_secs == entry.measurement.latencies_secs


# -- comparing --------------------------------------------------------------------------------------------------------


def test_a_comparison_from_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    out = tmp_path / "out"
    argv = ["compare", str(GEMM), "--methods", "random,mcts,expert", "--samples", "8", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["reasonc", *argv, "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    assert "at least 6 workloads" in said.out and "sample reduction" in said.out
    assert "5/6 runs" in said.err
    page = (out / "results.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org", "")
    results = json.loads((out / "results.json").read_text())
    assert results["command"].startswith("reasonc compare ") and results["machine"]["name"]
    assert [(c["variant"], c["seed"]) for c in results["cells"]] == [
        *(("random", 0), ("mcts", 0), ("expert", 0)),
        *(("random", 1), ("expert", 1), ("mcts", 1)),
    ]
    assert all(len(cell["samples"]) == 8 for cell in results["cells"])


def test_the_order_rotates_and_turns_round() -> None:
    names: Any = ("a", "b", "c")
    assert [in_turn(names, n) for n in range(4)] == [list("abc"), list("acb"), list("cab"), list("cba")]


def test_an_interrupted_comparison_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    done: list[tuple[str, int]] = []
    real = Recorded.run

    def until(limit: int) -> Callable[..., Any]:
        def watched(self: Recorded, variant: Any, seed: int, folder: Path, **options: Any) -> Any:
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append((variant.name, seed))
            return real(self, variant, seed, folder, **options)

        return watched

    whole = run(tmp_path / "whole")
    monkeypatch.setattr(Recorded, "run", until(4))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    monkeypatch.setattr(Recorded, "run", until(99))
    results = run(tmp_path / "out")
    assert len(done) == len(set(done)) == 6
    latencies = [[[secs for _, secs in cell["samples"]] for cell in r["cells"]] for r in (whole, results)]
    assert latencies[0] == latencies[1] and whole["finals"] == results["finals"]
    run(tmp_path / "out", "random", "mcts", "expert", repeats=3)
    assert done[6:] == [("expert", 2), ("random", 2), ("mcts", 2)]


def test_results_of_elsewhere_are_not_mixed_with_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "random", repeats=1)
    plan = json.loads((out / PLAN_FILE).read_text())

    def with_plan(**changes: Any) -> None:
        (out / PLAN_FILE).write_text(json.dumps(plan | changes))

    for changes in (
        {"fingerprint": plan["fingerprint"] | {"cpu": "Another CPU"}},
        {"fingerprint": plan["fingerprint"] | {"threads": 64}},
        {"package_version": "0.0.0"},
    ):
        with_plan(**changes)
        with pytest.raises(EnvironmentMismatchError, match="another environment"):
            run(out, "random", repeats=1)
    with_plan()
    with pytest.raises(UsageError, match="`samples` 8, not 9"):
        run(out, "random", settings=replace(SMALL, samples=9))
    with pytest.raises(UsageError, match="other settings"):
        run(out, "random", settings=replace(SMALL, batch=2))
    with pytest.raises(UsageError, match="`kind` compare, not ablate"):
        ablate([str(GEMM)], "branching", settings=SMALL, out=out)
    (out / PLAN_FILE).write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        run(out, "random")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds something else"):
        run(tmp_path / "full", "random")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["compare", "gemm", "--methods", "magic"], "there is no method `magic`"),
        (["compare", "gemm", "--methods", "mcts,mcts"], "twice"),
        (["compare", "gemm", "--methods", ","], "`methods` is empty"),
        (["compare", "gemm", "--methods", "llm"], "needs a language model"),
        (["compare", "gemm", "--methods", "paper"], "needs a language model"),
        (["compare", "nonsense", "--methods", "mcts"], "there is no workload `nonsense`"),
        (["compare", "gemm", "--repeats", "0"], "`repeats` is 0"),
        (["compare", "gemm", "--reference", "0"], "`reference` is 0"),
        (["compare", str(GEMM), "--methods", "mcts", "--reference", "64"], "cannot run on a recording"),
        (["compare", "gemm", "--samples", "0"], "`samples` is 0"),
        (["compare", "gemm", "gemm[512,4096,1024]", "--methods", "mcts"], "the same kernel is given twice"),
        (["compare", "gemm", str(GEMM), "--methods", "mcts"], "one after the other"),
        (["compare", "no.landscape.gz", "--methods", "mcts"], "there is no recording"),
        (["compare", "torn.landscape.gz", "--methods", "mcts"], "no tabular benchmark"),
        (["compare", "short.landscape.gz", "--methods", "mcts"], "is damaged"),
        (["compare", "old.landscape.gz", "--methods", "mcts"], "has format 0"),
        (["compare", "stale.landscape.gz", "--methods", "mcts"], "another version of this kernel"),
        (["compare", "gone.landscape.gz", "--methods", "mcts"], "there is no workload `lost`"),
        (["compare", str(GEMM), "--methods", "evolutionary"], "cannot run on a recording"),
        (["compare", str(GEMM), "--methods", "mcts", "--replay", "nowhere"], "holds no run"),
        (["ablate", "gemm"], "0 settings to ablate"),
        (["ablate", "gemm", "--prior", "all", "--feedback", "all"], "2 settings to ablate"),
        (["ablate", "gemm", "--prior", "maybe,on"], "`prior` is maybe"),
        (["ablate", "gemm", "--branching", "2"], "two values or more"),
        (["ablate", "gemm", "--branching", "two,3"], "`branching` is two"),
        (["ablate", "gemm", "--branching", "0,2"], "`branching` is 0"),
        (["ablate", "gemm", "--context-depth", "all"], "is about a language model"),
        (["ablate", "gemm", "--models", "all"], "is about a language model"),
        (["fidelity", "."], "is no run folder"),
        (["record", "gemm", "--samples", "1"], "`samples` is 1"),
        (["record", "gemm", "--out", "here.json"], "ends in .landscape.gz"),
        (["record", "gemm[64,64,64]", "--out", "torn.landscape.gz"], "exists already"),
    ],
    ids=lambda value: " ".join(value[:4])[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(argv: list[str], words: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    lines = gzip.decompress(GEMM.read_bytes()).splitlines(keepends=True)
    header = json.loads(lines[0])

    def store(name: str, changed: dict[str, Any], rows: list[bytes]) -> None:
        Path(f"{name}.landscape.gz").write_bytes(gzip.compress(json.dumps(changed).encode() + b"\n" + b"".join(rows)))

    Path("torn.landscape.gz").write_bytes(GEMM.read_bytes()[:500])
    store("short", header, lines[1:-1])
    store("old", header | {"landscape": 0}, lines[1:])
    store("stale", header | {"workload": header["workload"] | {"key": "0" * 16}}, lines[1:])
    store("gone", header | {"workload": header["workload"] | {"spec": "lost[1]"}}, lines[1:])
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["reasonc", *argv])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 2, said.err
    assert words in said.err and said.err.count("\n") == 1 and not said.out
    assert sorted(tmp_path.iterdir()) == before


# -- variants ---------------------------------------------------------------------------------------------------------


def test_methods_are_what_they_are_called() -> None:
    named = {v.name: v for v in methods(list(METHODS), SMALL, llm=MODEL)}
    assert named["evolutionary"].settings is None and named["evolutionary+space"].in_our_space
    settings = {name: v.settings for name, v in named.items() if v.settings is not None}
    assert {name: s.proposer for name, s in settings.items() if s.llm is None} == {
        "random": "random",
        "mcts": "random",
        "expert": "expert",
    }
    assert settings["paper"].preset == "paper" and settings["llm"].llm == MODEL
    assert all(s.samples == 8 for s in settings.values())


def test_an_ablation_changes_one_setting() -> None:
    for what, varied in ABLATIONS.items():
        values = varied.values or ("a:b", "c:d")
        chosen, baseline = ablation(what, values, SMALL, llm=MODEL)
        assert baseline in {v.name for v in chosen} and len(chosen) == len(values)
        configs = {json.dumps(v.settings.to_json(), sort_keys=True) for v in chosen if v.settings}
        assert len(configs) == len(values), what
    chosen, _ = ablation("exploration", ["1.414", "0"], SMALL)
    assert [v.settings.search.exploration for v in chosen if v.settings] == [math.sqrt(2), 0.0]


def test_random_grows_no_tree(landscape: TabularBenchmark, tmp_path: Path) -> None:
    run(tmp_path / "out", "random", repeats=1, settings=replace(SMALL, samples=24))
    (folder,) = (path for path in (tmp_path / "out" / "cells").iterdir() if path.is_dir())
    made = read_run(folder)
    assert {step.parent for step in made.steps} == {None, 0} and made.num_samples == 24


def test_an_ablation_on_a_recording(tmp_path: Path) -> None:
    results = ablate([str(GEMM)], "prior", settings=SMALL, repeats=2, out=tmp_path / "out")
    assert results["baseline"] == "prior=on"
    assert {cell["variant"] for cell in results["cells"]} == {"prior=on", "prior=off"}
    on, off = (
        next(step.predicted_secs for step in read_run(path).steps if step.predicted_secs)
        for path in sorted((tmp_path / "out" / "cells").glob("*prior*-0"), reverse=True)
    )
    assert off == 1.0 and on < 0.1


def test_variants_with_dots_in_their_names_are_runs_of_their_own(tmp_path: Path) -> None:
    results = ablate([str(GEMM)], "exploration", ["0", "0.1", "0.5"], settings=SMALL, repeats=2, out=tmp_path / "out")
    made = [(cell["variant"], cell["seed"]) for cell in results["cells"]]
    assert len(made) == len(set(made)) == 6 == len(list((tmp_path / "out" / "cells").glob("*.json")))


# -- tables -----------------------------------------------------------------------------------------------------------


def cell(variant: str, seed: int, *secs: float | None, workload: str = "w") -> dict[str, Any]:
    samples = [[float(n), s] for n, s in enumerate(secs, start=1)]
    return {
        "workload": workload,
        "variant": variant,
        "seed": seed,
        "samples": samples,
        "untuned_secs": 12.0,
        "wall_secs": 10.0 * (seed + 1),
        "calls": 3,
        "tokens": 1000,
        "usd": 0.01,
        "fallback_rate": 0.25,
        "ended": "samples",
    }


def made_up(*cells: dict[str, Any], finals: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    names = list(dict.fromkeys(c["variant"] for c in cells))
    return {
        "baseline": names[0],
        "command": "reasonc compare w",
        "samples": 4,
        "machine": {"name": "Some CPU", "num_cores": 2, "isa": "avx512", "peak_flops": 300e9},
        "fingerprint": {"versions": {"apache-tvm": "0.27"}},
        "workloads": {c["workload"]: "key" for c in cells},
        "variants": [{"name": name, "says": f"what {name} is"} for name in names],
        "cells": list(cells),
        "finals": list(finals),
    }


RESULTS = made_up(
    cell("es", 0, 8.0, 8.0, None, 4.0),
    cell("es", 1, None, 6.0, 6.0, 6.0),
    cell("ours", 0, 4.0, 3.0, 3.5, 3.0),
    cell("ours", 1, 8.0, 7.0, 7.0, 7.0),
    finals=({"workload": "w", "seed": 0, "of": ["es", "ours"], "secs": {"es": [4.0], "ours": [2.0]}},),
)


def test_the_papers_table_by_hand() -> None:
    es, ours = Outcome(RESULTS).rows()
    assert es.speedup is not None and (es.speedup.median, es.speedup.low, es.speedup.high) == (2.5, 2.0, 3.0)
    assert es.samples is not None and es.samples.median == 3 and es.reduction is None
    assert ours.speedup is not None and ours.speedup.high == 6.0 and ours.speedup.low == pytest.approx(12 / 7)
    assert ours.samples is not None and ours.samples.median == 2 and ours.reduction == 1.5
    assert ours.efficiency == pytest.approx(ours.speedup.median / 2.5 * 1.5)
    assert ours.matched is not None and ours.matched.median == 1 and ours.num_matched == 1
    assert ours.wall_secs is not None and ours.wall_secs.median == 15 and ours.fallback_rate == 0.25
    assert Outcome(RESULTS).differences("ours") == pytest.approx([(math.log(0.5) + math.log(7 / 6)) / 2])
    _, overall = Outcome(RESULTS).overall()
    assert overall.speedup == pytest.approx(ours.speedup.median) and overall.test is not None


def test_a_workload_is_one_pair_and_a_run_that_found_nothing_is_a_loss() -> None:
    cells = [
        *(cell("es", seed, 4.0, workload=w) for w in ("w", "x", "y", "z") for seed in range(5)),
        *(cell("ours", seed, 2.0, workload="w") for seed in range(5)),
        *(cell("ours", seed, 2.0 if seed < 2 else None, workload="x") for seed in range(5)),
        *(cell("ours", seed, None, workload="y") for seed in range(4)),
        cell("ours", 4, 2.0, workload="y"),
        *(cell("ours", seed, None, workload="z") for seed in range(5)),
    ]
    results = made_up(*cells) | {"workloads": {w: w for w in "wxyz"}}
    outcome = Outcome(results)
    assert outcome.differences("ours") == pytest.approx([math.log(0.5), math.inf, math.inf, math.inf])
    test = next(o.test for o in outcome.overall() if o.variant == "ours")
    assert len(test.differences) == 4 and test.p == 0.25, "20 pairs of runs are no more than 4 workloads"
    results["baseline"] = "ours"
    assert Outcome(results).differences("es") == pytest.approx([math.log(2), -math.inf, -math.inf, -math.inf])


def test_a_reference_is_a_line_to_reach() -> None:
    results = RESULTS | {"references": [cell("es to 6", 0, 9.0, 9.0, 5.0, 5.0, 5.0, 3.5)]}
    results["finals"] = [{**RESULTS["finals"][0], "secs": {"es": [4.0], "ours": [2.0], "es to 6": [3.0]}}]
    es, ours = Outcome(results).rows()
    assert es.reference_matched is None and es.num_reference_matched == 0
    assert ours.reference_matched is not None and ours.reference_matched.median == 2 and ours.num_reference_matched == 1
    page = page_of(results)
    assert page.tables[0].head[-1] == "matches es to 6 at"
    assert [row[-1] for row in page.tables[0].rows] == ["never", "2, in 1 of 2 seeds"]
    assert Outcome(results).reference_speedups() == {"w": ("es to 6", 4.0)}
    assert "stroke-dasharray" in curves_svg(results) and ">es to 6<" in curves_svg(results)
    assert "stroke-dasharray" not in curves_svg(RESULTS)


def test_a_run_that_found_nothing_is_told_and_counted() -> None:
    results = made_up(cell("es", 0, 4.0), cell("ours", 0), cell("ours", 1, None, None))
    rows = Outcome(results).rows()
    assert rows[1].num_failed == 2 and rows[1].speedup is None
    assert "ours (2 of 2 runs measured nothing)" in to_text(page_of(results))
    curves_svg(results)


def test_a_page_says_machine_command_and_definitions_and_escapes_all() -> None:
    results = made_up(*RESULTS["cells"])
    results["variants"][1]["says"] = "<script>alert(1)</script>"
    page = page_of(results)
    for text in (to_text(page), to_html(page, picture=curves_svg(results))):
        assert "Some CPU" in text and "reasonc compare w" in text and "speed-up per sample" in text
    assert "<script>" not in to_html(page, picture="")


def test_curves_are_bands_over_seeds() -> None:
    es, ours = Outcome(RESULTS).curves()["w"]
    assert ours.values == ((3.0, 4.0, 4.0, 4.0), pytest.approx((12 / 8, 12 / 7, 12 / 7, 12 / 7)))
    assert math.isnan(es.values[1][0])
    assert (
        es.median_at(1) is None
        and es.median_at(2) == pytest.approx((1.5 + 2.0) / 2)
        and ours.median_at(9) == (4 + 12 / 7) / 2
    )
    table = next(table for table in page_of(RESULTS).tables if "after so many samples" in table.title)
    assert table.head == ("", "1", "2", "4") and table.rows[0] == ("es", "–", "1.75×", "2.5×")


# -- fidelity ---------------------------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    right = agreement([[(1.0, 1.0), (2.0, 2.0), (4.0, 8.0)]])
    assert (right.tau, right.top1, right.top5) == (1.0, 1.0, 1.0) and right.error == pytest.approx(1.0)
    wrong = agreement([[(float(7 - n), float(n)) for n in range(1, 7)]])
    assert (wrong.tau, wrong.top1, wrong.top5) == (pytest.approx(-1.0), 0.0, pytest.approx(0.8))
    assert agreement([[(2.0, 1.0), (4.0, 2.0)]]).error == pytest.approx(2.0)
    assert agreement([[(2.0, 1.0), (4.0, 2.0)]], in_seconds=False).error is None
    # Each run is ranked by itself: what is slow in one may be fast in another.
    assert agreement([[(1.0, 1.0), (2.0, 2.0)], [(1.0, 30.0), (2.0, 40.0)]]).tau == 1.0
    assert agreement([[(1.0, 1.0)]]).tau is None


def test_fidelity_of_runs_results_and_recordings(tmp_path: Path, landscape: TabularBenchmark) -> None:
    run(tmp_path / "out", "mcts", "expert", settings=replace(SMALL, samples=20))
    folder = next((tmp_path / "out" / "cells").glob("*expert-0"))
    found, transfers = fidelity([str(tmp_path / "out"), str(GEMM)])
    runs, recording = found
    assert runs.source == "4 runs" and runs.total.num_programs == 80 and not transfers
    assert [stage.name for stage in runs.stages] == ["samples 1 to 16", "samples 17 to 32"]
    assert fidelity([folder])[0][0].total.num_programs == 20
    assert recording.stages[0].name == "0 seen" and recording.stages[0].agreement.error is not None
    again = of_benchmark(landscape)
    assert again == recording
    # What the surrogate has learnt must be worth more than the analysis alone.
    assert recording.total.tau is not None and recording.stages[0].agreement.tau is not None
    assert recording.total.tau > recording.stages[0].agreement.tau > 0.3


def test_two_machines_are_compared(tmp_path: Path, landscape: TabularBenchmark) -> None:
    some = list(landscape.entries.values())[:60]
    rows = [row_json(e.program, e.measurement, e.nests()) for e in some]
    other = header_json(landscape)
    other["machine"]["name"] = "Another CPU"
    other["fingerprint"] = other["fingerprint"] | {"cpu": "Another CPU"}
    write_benchmark(tmp_path / "other.landscape.gz", other, rows)
    _, (transfer,) = fidelity([GEMM, tmp_path / "other.landscape.gz"])
    assert transfer.tau == 1.0 and transfer.other == "Another CPU" and transfer.num_programs == len(some)

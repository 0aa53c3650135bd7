"""Experiments with TVM: recording, the restricted spaces, comparing on hardware, and TVM's own search."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm")

from fake_instrument import FakeInstrument, failing
from reasoning_compiler.cli.main import main
from reasoning_compiler.core.errors import EnvironmentMismatchError, UsageError
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import UNTUNED, Transformation
from reasoning_compiler.experiment import compare, record
from reasoning_compiler.experiment.restrict import restrict
from reasoning_compiler.experiment.tabular_file import read_benchmark
from reasoning_compiler.journal import JOURNAL_FILE, read_run
from reasoning_compiler.machine import detect
from reasoning_compiler.measure import instrument
from reasoning_compiler.session import Settings
from reasoning_compiler.session.spaces import with_threads
from reasoning_compiler.workload import parse

pytestmark = pytest.mark.tvm

LANDSCAPES = sorted((Path(__file__).parent / "landscapes").glob("*.landscape.gz"))
TINY = "gemm[4,4,8]"
GEMM = "gemm[64,64,64]"
SETTINGS = Settings(samples=6, batch=3)
record_module = sys.modules["reasoning_compiler.experiment.record"]  # its name in the package is the function


class Lasting(FakeInstrument):
    """Times libraries of other instruments too: what it says depends on the file alone."""

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in artifacts]
        return [Measurement((1e-3 * (1 + digest[0] / 256),) * 5, verified=True) for digest in digests]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "Instrument", Lasting)
    monkeypatch.setattr(record_module, "Instrument", Lasting)


# -- recording --------------------------------------------------------------------------------------------------------


def test_the_largest_space_that_fits_is_recorded_whole() -> None:
    machine = with_threads(detect(), detect().num_cores)
    with pytest.raises(UsageError, match=r"`samples` is 10; the smallest space .* has \d+ programs"):
        restrict(parse(GEMM), machine, max_programs=10)
    made = restrict(parse(GEMM), machine, max_programs=1500)
    programs = list(made.programs())
    assert len(programs) == len(set(programs)) == made.num_programs and 700 < made.num_programs <= 1500
    for program in programs[::150]:
        edit = Transformation((*program.structure, *program.decisions))
        assert made.space.why_not(UNTUNED, edit) or made.space.edit(UNTUNED, edit) == program


def test_what_is_too_large_has_decisions_fixed() -> None:
    machine = with_threads(detect(), detect().num_cores)
    made = restrict(parse("llama4-mlp[tokens=4,hidden=64,width=64]"), machine, max_programs=150)
    names = {d.name for table in made.tables.values() for d in table}
    assert made.num_programs <= 150 and len(made.tables) == 1
    assert {name for name in names if name.endswith("tile")} == {n for g in made.tile_groups for _, n, _ in g.decisions}
    assert len(made.tile_groups) == 1 and "unroll" in names


@pytest.mark.usefixtures("fake")
def test_an_interrupted_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(path: Path) -> list[bytes]:
        return gzip.decompress(path.read_bytes()).splitlines()[1:]

    whole = record(TINY, samples=100, out=tmp_path / "whole.landscape.gz")
    landscape = read_benchmark(whole)
    assert len(landscape.entries) > 20 and {e.measurement.ok for e in landscape.entries.values()} == {True, False}

    def stop(recording: Any) -> None:
        if recording.num_done >= 10:
            raise KeyboardInterrupt

    path = tmp_path / "cut.landscape.gz"
    with pytest.raises(KeyboardInterrupt):
        record(TINY, samples=100, out=path, on_progress=stop)
    partial_file = path.with_name(f"{path.name}.partial")
    with open(partial_file, "a") as file:
        file.write('{"torn')
    for changes, error in (({"seed": 1}, UsageError), ({"samples": 99}, UsageError)):
        with pytest.raises(error, match="go on with these"):
            record(TINY, **({"samples": 100} | changes), out=path)
    with pytest.raises(UsageError, match="is a recording of"):
        record("gemm[4,8,4]", samples=100, out=path)
    monkeypatch.setattr(record_module, "differences", lambda a, b: ["CPU: was one, is another"])
    with pytest.raises(EnvironmentMismatchError, match="was one, is another"):
        record(TINY, samples=100, out=path)
    monkeypatch.undo()
    monkeypatch.setattr(record_module, "Instrument", Lasting)
    assert lines(record(TINY, samples=100, out=path)) == lines(whole)
    assert not partial_file.exists()


@pytest.mark.parametrize("path", LANDSCAPES, ids=lambda path: path.name.partition(".")[0])
def test_the_landscapes_of_the_tests_fit_their_kernels(path: Path) -> None:
    landscape = read_benchmark(path)
    workload = parse(landscape.workload.spec)
    assert workload.key == landscape.workload.key
    assert path.stat().st_size < 1_000_000 and len(landscape.measured) > 250
    if landscape.workload.name == "gemm":
        fits = restrict(workload, landscape.machine, max_programs=landscape.about["samples"])
        assert fits.tiling == landscape.tiling and fits.tables == landscape.tables and fits.start == landscape.start
        for entry in list(landscape.entries.values())[:6]:
            edit = Transformation((*entry.program.structure, *entry.program.decisions))
            assert (fits.space.why_not(UNTUNED, edit) is None) == entry.is_legal


# -- comparing on hardware --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_an_interrupted_run_of_a_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(watched: Any) -> None:
        if "expert" in watched.cell and watched.progress and watched.progress.num_samples == 4:
            raise KeyboardInterrupt

    def go(**watch: Any) -> dict[str, Any]:
        return compare([GEMM], ["mcts", "expert"], settings=SETTINGS, repeats=1, out=out, **watch)

    with pytest.raises(KeyboardInterrupt):
        go(watch=stop)
    (folder,) = out.glob("cells/*expert-0")
    before = (folder / JOURNAL_FILE).read_bytes()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    results = go()
    after = (folder / JOURNAL_FILE).read_bytes()
    assert after.startswith(before) and len(after) > len(before) and read_run(folder).num_samples == 6
    assert len(done) == 1 and all((out / "cells" / name).stat().st_mtime_ns == at for name, at in done.items())
    (final,) = results["finals"]
    assert set(final["secs"]) == {"mcts", "expert", "untuned"}
    assert [len(cell["samples"]) for cell in results["cells"]] == [6, 6]


def test_a_method_that_measures_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "Instrument", partial(Lasting, judge=failing("crash"), untuned=failing("crash")))
    results = compare([GEMM], ["mcts"], settings=SETTINGS, repeats=1, out=tmp_path / "out")
    (cell,) = results["cells"]
    assert "could be measured" in cell["ended"] and not cell["samples"]


@pytest.mark.nightly
def test_tvms_search_from_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    argv = ["compare", GEMM, "--methods", "evolutionary,evolutionary+space", "--samples", "4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["reasonc", *argv, "--reference", "8", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["baseline"] == "evolutionary"
    assert [len(cell["samples"]) for cell in results["cells"]] == [4, 4]
    (final,) = results["finals"]
    assert set(final["secs"]) == {"evolutionary", "evolutionary+space", "evolutionary to 8", "untuned"}
    assert [len(cell["samples"]) for cell in results["references"]] == [8]
    timed = [path.read_bytes() for path in (tmp_path / "out" / "finals").iterdir()]
    again = compare([GEMM], ["evolutionary"], settings=Settings(samples=4), repeats=1, out=tmp_path / "out")
    assert again["references"] == results["references"] and again["finals"][0]["of"] == [
        "evolutionary",
        "evolutionary to 8",
    ]
    assert [path.read_bytes() for path in (tmp_path / "out" / "finals").iterdir()] == timed, "nothing is timed again"
    assert len(final["secs"]["evolutionary"]) >= 20
    assert "evolutionary (baseline)" in said.out
    assert "[INFO]" not in said.err and said.err.count("\n") < 10

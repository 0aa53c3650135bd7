from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal_examples import Event, failed, header, new_journal, ok, scripts, step, write_gemm
from reasoning_compiler.core.machines import Peak
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.journal import Header, Run, read_run
from reasoning_compiler.report import Summary, summarize, to_json, to_text
from reasoning_compiler.report.plot import bar, curve_lines
from reasoning_compiler.report.units import (
    bandwidth_text,
    flops_text,
    range_text,
    ratio_text,
    share_text,
    time_text,
)


@pytest.fixture
def gemm(tmp_path: Path) -> Run:
    write_gemm(tmp_path)
    return replace(read_run(tmp_path), elapsed_secs=32.2)


def told(folder: Path, *events: tuple, first: Header | None = None) -> Summary:
    """Returns the summary of a run with these events, each a method's name and its arguments."""
    with new_journal(folder, first) as journal:
        for method, *args in events:
            options = args.pop() if method == "finished" else {}
            getattr(journal, method)(*args, **options)
    return summarize(read_run(folder))


# -- numbers -----------------------------------------------------------------------------------------------


def test_of_peak_is_that_of_the_kernels_types_and_its_instruction_is_named(gemm: Run) -> None:
    by_dots = replace(gemm, header=header(peak=Peak(1.2e12, "vpdpbusd")))
    assert summarize(by_dots).best.peak_share == pytest.approx(summarize(gemm).best.peak_share / 4)
    text = " ".join(to_text(summarize(by_dots)).split())
    assert "peak 300 GFLOP/s of float32, 1.2 TFLOP/s by vpdpbusd, 26 GB/s" in text
    assert Header.from_json(json.loads(json.dumps(by_dots.header.to_json()))) == by_dots.header


def test_the_example_in_numbers(gemm: Run) -> None:
    summary = summarize(gemm)
    assert summary.status == "samples"
    assert (summary.best.node, summary.best.median_secs, summary.untuned.median_secs) == (6, 0.0241, 0.413)
    assert summary.confirmed
    assert summary.speedup == pytest.approx(17.137, abs=1e-3)
    assert summary.best.flops_per_sec == pytest.approx(2 * 512 * 4096 * 1024 / 0.0241)
    assert summary.best.peak_share == pytest.approx(0.594, abs=1e-3)
    assert summary.samples.total == 7
    assert (summary.samples.full, summary.samples.cut, summary.samples.unverified) == (4, 1, 0)
    assert summary.samples.failed == (("crash", 1), ("timeout", 1))
    assert summary.samples_until_best == 6
    shares = {s.name: s for s in summary.proposers}
    assert list(shares) == ["expert", "random"]
    assert [(s.num_nodes, s.num_measured, s.num_failed) for s in shares.values()] == [(5, 5, 2), (2, 2, 0)]
    assert [(s.num_improvements, s.num_rejected) for s in shares.values()] == [(3, 0), (0, 2)]
    assert summary.num_rejected == 2
    assert summary.fallback_rate is None  # no model was asked
    assert [stage for stage, _ in summary.stage_secs] == ["build", "run", "propose", "wait"]


def test_the_noise_is_told(gemm: Run, tmp_path: Path) -> None:
    noise = summarize(gemm).noise
    assert noise == gemm.noise
    assert (noise.same.num_pairs, noise.drift, noise.left_out) == (12, (1.002, 0.998, 1.13), ("large",))
    assert to_json(summarize(gemm))["noise"]["same"]["verdict"] == "no difference"
    bare = told(tmp_path / "bare", ("node", step(0, None)))
    assert bare.noise is None and "Noise" not in to_text(bare)


def test_a_difference_that_is_noise_is_called_so(gemm: Run) -> None:
    noise = summarize(gemm).noise
    same = replace(noise.same, verdict="faster", ratio=0.97)
    text = to_text(replace(summarize(gemm), noise=replace(noise, same=same, drift=(1.01,), left_out=())))
    assert "faster; differences of this size are noise on this machine" in " ".join(text.split())
    assert "lower clock" not in text and "left out" not in text


def test_the_curve_never_falls_and_starts_at_untuned(gemm: Run) -> None:
    curve = summarize(gemm).curve
    assert [point.sample for point in curve] == list(range(8))
    assert [p.latency_secs for p in curve] == [0.412, 0.067, 0.067, 0.067, 0.036, 0.036, 0.0242, 0.0242]
    assert curve[0].speedup == 1.0
    assert curve[-1].speedup == pytest.approx(0.412 / 0.0242)


def test_the_path_tells_differences_and_gains(gemm: Run) -> None:
    path = summarize(gemm).path
    assert [s.node for s in path] == [0, 1, 3, 6]
    assert path[0].changes == ()
    assert path[1].changes[0] == ("C", None, "tiled, written through a cache")
    assert path[2].changes == (("C.i tile", (8, 1, 64, 1), (8, 4, 16, 1)),)
    assert path[3].changes == (("unroll", 16, 64),)
    assert (path[2].latency_secs, path[2].failure, path[2].gain) == (None, "timeout", None)
    assert path[1].gain == pytest.approx(0.412 / 0.067)
    assert path[3].gain == pytest.approx(0.067 / 0.0242), "over the last step that was measured"
    assert path[3].expectation == "close to 100 GFLOP/s"


def test_primitives_are_told_in_words(tmp_path: Path) -> None:
    split, unroll = Primitive("split", ("C.k_1", (16, 4))), Primitive("unroll", ("C.k_1_1",))
    first = step(1).program
    events = [
        ("node", step(0, None)),
        ("node", step(1, program=replace(first, primitives=(split, unroll)))),
        ("measured", 1, ok(2.0)),
        ("node", step(2, 1, program=replace(first, primitives=(unroll,)))),
        ("measured", 2, ok(1.0)),
    ]
    summary = told(tmp_path, *events)
    assert [(s.applied, s.left_out) for s in summary.path] == [
        ((), ()),
        (("split C.k_1 into 16×4", "unroll C.k_1_1"), ()),
        ((), ("split C.k_1 into 16×4",)),
    ]
    text = to_text(summary)
    assert "unroll = 16; split C.k_1 into 16×4; unroll C.k_1_1" in text and "dropped: split C.k_1 into 16×4" in text


def test_a_cut_step_has_a_rough_latency_and_no_gain(tmp_path: Path) -> None:
    summary = told(
        tmp_path,
        ("node", step(0, None)),
        ("measured", 0, ok(8.0)),
        ("node", step(1)),
        ("measured", 1, ok(6.0, cut=True)),
        ("node", step(2, 1)),
        ("measured", 2, ok(2.0)),
    )
    assert [(s.latency_secs, s.is_cut, s.gain) for s in summary.path] == [
        (8.0, False, None),
        (6.0, True, None),
        (2.0, False, 4.0),
    ]


def test_a_bound_is_shown_as_one(tmp_path: Path) -> None:
    summary = told(
        tmp_path,
        ("node", step(0, None)),
        ("measured", 0, ok(8.0)),
        ("node", step(1)),
        ("measured", 1, ok(6.0, cut=True, verified=False, censored=True)),
        ("node", step(2, 1)),
        ("measured", 2, ok(2.0)),
    )
    assert [s.is_bound for s in summary.path] == [False, True, False]
    assert "(node 1): > 6 s, stopped early" in to_text(summary)
    assert [s["is_bound"] for s in to_json(summary)["path"]] == [False, True, False]


def test_predictions_are_compared_with_full_measurements_only(tmp_path: Path) -> None:
    events = [("node", step(0, None))]
    for node, (predicted_secs, measurement) in enumerate(
        [
            (1.0, ok(10.0)),
            (2.0, ok(30.0)),
            (3.0, ok(20.0)),
            (4.0, ok(1.0, cut=True)),
            (5.0, failed("crash")),
            (None, ok(1.0)),
            (6.0, None),
        ],
        start=1,
    ):
        events.append(("node", step(node, predicted_secs=predicted_secs)))
        if measurement:
            events.append(("measured", node, measurement))
    summary = told(tmp_path, *events)
    assert summary.fidelity.num_programs == 3
    assert summary.fidelity.tau == pytest.approx(1 / 3)  # two pairs agree, one does not
    assert (summary.fidelity.top1, summary.fidelity.top5) == (1.0, 1.0)
    assert summary.fidelity.error == pytest.approx(10.0)  # the median of 10, 15 and 20 / 3
    (stage,) = summary.fidelity.stages
    assert (stage.name, stage.agreement.num_programs) == ("samples 1 to 16", 3)


def test_predictions_are_judged_by_stage(tmp_path: Path) -> None:
    events = [("node", step(0, None))]
    for node in range(1, 21):  # right in the first stage, and the wrong way round in the second
        events.append(("node", step(node, predicted_secs=float(node if node <= 16 else 40 - node))))
        events.append(("measured", node, ok(float(node))))
    summary = told(tmp_path, *events)
    stages = {stage.name: stage.agreement for stage in summary.fidelity.stages}
    assert stages["samples 1 to 16"].tau == 1.0 and stages["samples 17 to 32"].tau == -1.0
    assert stages["samples 17 to 32"].top1 == 0.0 and summary.fidelity.top1 == 1.0
    text = to_text(summary)
    assert "samples 17 to 32" in text and "Predictions compared with measurements" in text
    assert to_json(summary)["fidelity"]["stages"][1]["agreement"]["tau"] == -1.0


def test_unverified_and_failed_programs_are_never_best(tmp_path: Path) -> None:
    summary = told(
        tmp_path,
        ("node", step(0, None)),
        ("measured", 0, failed("timeout", "no answer")),
        ("node", step(1)),
        ("measured", 1, ok(1.0, verified=False)),
    )
    assert (summary.best, summary.speedup, summary.samples_until_best) == (None, None, None)
    assert (summary.curve, summary.proposers[0].num_improvements) == ((), 0)
    assert summary.samples.unverified == 1
    assert summary.untuned_failure == "timeout: no answer"
    assert "no program has been measured and verified" in to_text(summary)


def test_improvements_are_counted_from_untuned(tmp_path: Path) -> None:
    events = [("node", step(0, None)), ("measured", 0, ok(5.0))]
    for node, secs in enumerate([6.0, 4.0, 4.0, 3.0], start=1):
        events += [("node", step(node)), ("measured", node, ok(secs))]
    summary = told(tmp_path, *events)
    assert summary.proposers[0].num_improvements == 2
    assert summary.samples_until_best == 4


def test_a_run_that_found_nothing_faster(tmp_path: Path) -> None:
    events = [("node", step(0, None)), ("measured", 0, ok(5.0)), ("node", step(1)), ("measured", 1, ok(6.0))]
    summary = told(tmp_path, *events)
    assert (summary.best.node, summary.speedup, summary.samples_until_best) == (0, 1.0, 0)
    assert "nothing faster was found; the library is the kernel as written" in to_text(summary)


def test_a_run_of_nothing(tmp_path: Path) -> None:
    summary = told(tmp_path)
    assert (summary.status, summary.curve, summary.path) == ("interrupted", (), ())
    assert summary.fallback_rate is None
    text = to_text(summary)
    assert "0 samples in " in text
    assert "not finished" in text


def test_quartiles(tmp_path: Path) -> None:
    timing = told(tmp_path, ("node", step(0, None)), ("measured", 0, ok(5.0, 1.0, 2.0, 4.0, 3.0))).untuned
    assert (timing.min_secs, timing.q1_secs, timing.median_secs, timing.q3_secs) == (1.0, 2.0, 3.0, 4.0)


# -- ranking -----------------------------------------------------------------------------------------------


def test_kendall_by_hand() -> None:
    assert kendall_tau([], []) is None
    assert kendall_tau([1], [1]) is None
    assert kendall_tau([1, 1], [1, 2]) is None
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [30, 20, 10]) == -1
    # Six pairs: one tied in a, one tied in b, the other four agree.
    assert kendall_tau([1, 1, 2, 3], [1, 2, 3, 3]) == pytest.approx(4 / 5)


# -- units and plots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (0, "0 s"),
        (0.0084, "8.4 ms"),
        (1.2, "1.2 s"),
        (1.5e-9, "1.5 ns"),
        (2e-10, "0.2 ns"),
        (0.9996e-3, "1 ms"),
        (0.9994e-3, "999 µs"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_times_for_people(secs: float, text: str) -> None:
    assert time_text(secs) == text


def test_rates_and_ratios_for_people() -> None:
    assert flops_text(512e9) == "512 GFLOP/s"
    assert flops_text(2.5e12) == "2.5 TFLOP/s"
    assert flops_text(0) == "0 FLOP/s"
    assert range_text(0.0241, 0.0244) == "24.1 – 24.4 ms"
    assert range_text(0.9e-3, 1.1e-3) == "900 µs – 1.1 ms"
    assert range_text(61, 62) == "1 min 1 s – 1 min 2 s"
    assert bandwidth_text(14.6e9) == "14.6 GB/s"
    assert [ratio_text(r) for r in (8.8431, 17.137, 0.95, 1340.2)] == ["8.84×", "17.1×", "0.95×", "1340×"]
    assert [share_text(s) for s in (0, 1e-5, 0.004, 0.0096, 0.594, 1)] == [
        "0%",
        "<0.1%",
        "0.4%",
        "1%",
        "59%",
        "100%",
    ]


@given(st.floats(1e-9, 1e9))
def test_no_number_is_written_with_an_exponent(value: float) -> None:
    for text in (time_text(value), flops_text(value), ratio_text(value * 1e-3 + 1e-3)):
        assert "e+" not in text and "e-" not in text


def test_bars() -> None:
    assert bar(0.5, 4) == "██"
    assert bar(1.0, 4) == bar(7.0, 4) == "████"
    assert bar(1 / 32, 4) == "▏"
    assert bar(0, 4) == ""


def test_a_curve_by_hand() -> None:
    lines = curve_lines([(0, 1.0), (1, 2.0), (2, 4.0)], width=56, height=2)
    third = 16
    assert lines == [
        "4× ┤" + " " * 2 * third + "█" * third,
        "   │" + "▄" * third + "█" * 2 * third,
        "   └" + "─" * 48,
        "    0" + "sample 2".rjust(47),
    ]


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=300), st.integers(40, 120))
def test_a_curve_fits_and_ends_at_its_top(steps: list[float], width: int) -> None:
    rising = [(i, max(steps[: i + 1])) for i in range(len(steps))]
    lines = curve_lines(rising, width=width)
    assert all(len(line) <= width for line in lines)
    assert lines[0].endswith("█")


# -- the report --------------------------------------------------------------------------------------------


def test_the_report_as_text(gemm: Run, golden) -> None:
    golden("report.txt", to_text(summarize(gemm), width=100))


def test_what_a_model_writes_cannot_steer_the_terminal(tmp_path: Path) -> None:
    nasty = "\x1b[2Jred\r\nalert\u202e\ud800 ok"
    summary = told(
        tmp_path,
        ("node", step(0, None)),
        ("measured", 0, ok(2.0)),
        ("node", step(1, reasoning=nasty, proposer=nasty)),
        ("measured", 1, ok(1.0)),
        ("finished", nasty, {"best": 1}),
    )
    text = to_text(summary)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "[2Jred alert ok" in text


@settings(max_examples=80, deadline=None)
@given(events=scripts(), width=st.integers(60, 130))
def test_any_run_has_a_report(tmp_path_factory, events: list[Event], width: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    with new_journal(folder) as journal:
        for event in events:
            event.tell(journal)
    summary = summarize(read_run(folder))
    text = to_text(summary, width=width)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert max(map(len, text.split("\n"))) <= width
    assert not any(line.endswith(" ") for line in text.split("\n"))
    obj = to_json(summary)
    assert json.loads(json.dumps(obj, allow_nan=False)) == obj
    speedups = [point.latency_secs for point in summary.curve]
    assert speedups == sorted(speedups, reverse=True)
    counts = summary.samples
    assert counts.total == counts.full + counts.cut + sum(n for _, n in counts.failed)
    assert counts.total == sum(share.num_measured for share in summary.proposers)


def test_the_report_as_json(gemm: Run) -> None:
    obj = to_json(summarize(gemm))
    assert obj["header"]["spec"] == "gemm[512,4096,1024]"
    assert obj["best"]["median_secs"] == 0.0241
    assert obj["path"][2]["changes"] == [["C.i tile", [8, 1, 64, 1], [8, 4, 16, 1]]]
    assert Header.from_json(obj["header"]) == header(created=obj["header"]["created"])

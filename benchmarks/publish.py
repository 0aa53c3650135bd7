"""Writes docs/results.md, its picture and the README's table from benchmarks/results/.

    python benchmarks/publish.py
    python benchmarks/publish.py kernels=experiments/compare-20260101-120000 fidelity=fidelity.json

With NAME=PATH, what a results folder of `reasonc compare` or `reasonc ablate`, or the output of a script in
benchmarks/, holds is first kept as benchmarks/results/NAME.json.gz. No number on the page is typed by hand.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from findings import FINDINGS
from kept import read, store

from reasoning_compiler.experiment.outcome import Outcome
from reasoning_compiler.experiment.tables import curves_svg

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "kernels.svg"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

_HEAD = """\
# Results

<!-- Written by benchmarks/publish.py from benchmarks/results/; do not edit. -->

All published measurements, wins and losses. Latencies do not transfer between machines, so each result names its
machine, its commit and the command that reproduces it. The raw data are in `benchmarks/results/NAME.json.gz`.
[experiments.md](experiments.md) explains how methods are compared.
"""
_LIBRARIES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
_PARTS = {"kernels", "peers", "odd_shapes", "other_machine"}  # of the first sections
_MOST_SHOWN = 170  # characters of a command
_ALPHA = 0.05

Record = dict[str, Any]


def main() -> None:
    for given in sys.argv[1:]:
        name, equals, path = given.partition("=")
        if not equals or not name.replace("_", "").isalnum():
            raise SystemExit(f"`{given}` is not NAME=PATH, the name of letters, digits and _")
        keep(name, Path(path))
    records = read()
    PAGE.write_text(page(records), encoding="utf-8")
    PICTURE.write_text(curves_svg(records["kernels"]), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), "\n".join(kernels(records))), encoding="utf-8")


def keep(name: str, path: Path) -> None:
    """Copies results into benchmarks/results/, with files of this project named from its root."""
    source = path / "results.json" if path.is_dir() else path
    if not source.exists():
        raise SystemExit(f"`{path}` holds no results")
    record = json.loads(source.read_text(encoding="utf-8").replace(f"{ROOT.resolve()}/", ""))
    if "command" not in record:
        raise SystemExit(f"`{path}` does not say by which command it was made")
    store(name, record)


def page(records: dict[str, Record]) -> str:
    """Returns the page."""
    parts = [_HEAD, "## Kernels\n", *kernels(records), ""]
    if "odd_shapes" in records:
        parts += ["## Other shapes\n", *_odd_shapes(records["odd_shapes"]), ""]
    if "other_machine" in records:
        parts += ["## A machine that was not used during development\n", *_other_machine(records["other_machine"])]
    compared = {name: record for name, record in records.items() if "experiment" in record and name not in _PARTS}
    if compared:
        parts += ["## Comparisons and ablations\n"]
        parts += [
            "Each comparison reports the speed-up over its baseline: the median over workloads (minimum – maximum). "
            "The test is Wilcoxon's signed-rank test over workloads, adjusted by Holm's method. It needs at least six "
            "workloads to find a significant difference.\n"
        ]
    for name, record in compared.items():
        parts.append(f"**{name}**. {_verdict(record)}; {_where(record)}; {_command(record)}.\n")
    others = {name: record for name, record in records.items() if name not in compared and name not in _PARTS}
    if others:
        parts += ["## Also measured\n"]
    parts += [
        f"**{name}**. {FINDINGS[name].format_map(record)} {_where(record)}; {_command(record)}.\n"
        for name, record in others.items()
    ]
    return "\n".join(parts).rstrip() + "\n"


def with_table(text: str, table: str) -> str:
    """Returns a page with the table between its markers."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"the page has no {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


# -- kernels ----------------------------------------------------------------------------------------------------------


def kernels(records: dict[str, Record]) -> Iterator[str]:
    """Yields a table, a row for each kernel: ours, the best library, TVM's search with few and with many samples."""
    peers, search = records["peers"], records["kernels"]
    outcome = Outcome(search)
    most = max((len(cell.samples) for cell in outcome.references.values()), default=0)
    samples = search["samples"]
    tvms = [f"TVM's search, {each} samples" for each in (samples, most)]
    head = ("kernel", "ours", "best library", "speed-up over library", *tvms)
    rows = []
    for kernel, ratio in peers["ours_over_best_peer"].items():
        mine = [row for row in peers["rows"] if row["kernel"] == kernel and row["contestant"] == "ours"]
        others = [row for row in peers["rows"] if row["kernel"] == kernel and row["contestant"] != "ours"]
        best = min(others, key=lambda row: row["secs"]["median"])
        name = f"{_LIBRARIES.get(best['contestant'], best['contestant'])} {best['version'].partition('-')[0]}"
        cells = [c for c in outcome.cells if c.workload == kernel and c.variant == outcome.baseline]
        line = outcome.references.get(kernel)
        rows.append(
            (
                f"`{kernel}`",
                _ms([row["secs"]["median"] for row in mine]),
                f"{_ms([best['secs']['median']])}, {name}",
                _times({"median": 1 / ratio["median"], "min": 1 / ratio["max"], "max": 1 / ratio["min"]}),
                _ms([outcome.winner_secs(cell) for cell in cells]),
                _ms([outcome.winner_secs(line)] if line is not None else []),
            )
        )
    yield from _table(head, rows)
    yield (
        f"Latencies in milliseconds: median over seeds (minimum – maximum). Ours: {peers['samples']} samples, expert "
        f"proposer. Measured on {_where(peers)}, with {_command(peers)}. TVM's search: {_where(search)}, with "
        f"{_command(search)}."
    )


def _odd_shapes(record: Record) -> Iterator[str]:
    ratios = record["ours_over_best_peer"].items()
    rows = [(f"`{kernel}`", f"{1 / ratio['median']:.2f}×") for kernel, ratio in ratios]
    yield from _table(("kernel", "speed-up over the best library"), rows)
    yield f"{record['samples']} samples, two seeds. {_where(record)}; {_command(record)}."


def _other_machine(record: Record) -> Iterator[str]:
    yield f"{_where(record)}, {record['samples']} samples, latencies in milliseconds."
    yield "Part of the gains on the machine above does not transfer to this one.\n"
    rows = [
        (
            f"`{row['kernel']}`",
            ", ".join(f"{ms:g}" for ms in row["ours_ms"]),
            f"{row['best_ms']:g}, {row['best']}",
            ", ".join(f"{1 / ratio:.2f}×" for ratio in row["ratio"]),
        )
        for row in record["rows"]
    ]
    yield from _table(("kernel", "ours, by seed", "best library", "speed-up over library"), rows)
    yield "Kernels outside the catalogue, with weights as ordinary inputs, one seed:\n"
    names = ("ours_ms", "evolutionary_ms", "torch_ms")
    unnamed = [(row["kernel"], *(f"{row[name]:g}" for name in names)) for row in record["unnamed"]]
    yield from _table(("kernel", "ours", "TVM's search, 64 samples", "PyTorch (better of eager and compiled)"), unnamed)


# -- the rest ---------------------------------------------------------------------------------------------------------


def _verdict(record: Record) -> str:
    """Returns what can be concluded from a comparison: a verdict, each effect, and its size."""
    outcome = Outcome(record)
    effects, significant = [], []
    for each in outcome.overall():
        if each.test is not None:
            ratios = sorted(math.exp(-d) for d in each.test.differences)
            found = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
            effects.append(f"{each.variant} {_times(found)}")
            significant += [f"{each.variant} (p = {each.p:.2g})"] if each.p < _ALPHA else []
    num = len(outcome.workloads)
    if significant:
        verdict = f"Significant: {', '.join(significant)}"
    elif 2 / 2**num > _ALPHA:
        verdict = f"Inconclusive: {num} workloads are too few for the test"
    else:
        verdict = "No significant difference"
    effect = f"Speed-up over {outcome.baseline} on {num} workloads"
    return f"{verdict}. {effect}: {', '.join(effects)}. {record['samples']} samples, seeds: {len(outcome.seeds)}"


def _command(record: Record) -> str:
    """Returns a command that fits a line; the file has it whole."""
    command = re.sub(r"(tests/landscapes/\w+\.landscape\.gz ?)+", "tests/landscapes/*.landscape.gz ", record["command"])
    command = re.sub(r"(benchmarks/families.py:\w+ )+", "benchmarks/families.py:… ", command)
    return f"`{textwrap.shorten(command, _MOST_SHOWN, placeholder=' …')}`"


def _where(record: Record) -> str:
    """Returns the machine, the version of TVM and the commit that a result is of."""
    kept = f"commit {record['kept_with']}"
    if "machine" not in record:
        return kept
    machine, versions = record["machine"], record["fingerprint"]["versions"]
    return (
        f"{machine['name']}, {machine['num_cores']} cores, {machine['isa']}, {machine['peak_flops'] / 1e9:.0f} "
        f"GFLOP/s, apache-tvm {versions['apache-tvm']}, {kept}"
    )


def _spread(found: dict[str, float]) -> str:
    return f"{_number(found['median'])} ({_number(found['min'])} – {_number(found['max'])})"


def _times(found: dict[str, float]) -> str:
    return f"{found['median']:.2f}× ({found['min']:.2f} – {found['max']:.2f})"


def _ms(secs: Sequence[float]) -> str:
    """Returns seconds as milliseconds: the median, and the least and the greatest where there are several."""
    if not secs:
        return "–"
    ms = sorted(1e3 * each for each in secs)
    middle = ms[len(ms) // 2]
    return _number(middle) if len(ms) == 1 else _spread({"median": middle, "min": ms[0], "max": ms[-1]})


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from ("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))
    yield ""


if __name__ == "__main__":
    main()

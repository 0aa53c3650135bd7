"""Writes the table of results in README.md from benchmarks/results/.

    python benchmarks/readme_table.py

The table stands between two markers. A row is there where its benchmark has been run; without any, the text says how to
run them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reasoning_compiler.experiment.outcome import Outcome, Spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

Row = tuple[str, str, str, str]
"""What was measured, what this project gives, what TVM or a library gives, and how the two compare."""

_MOST_SHOWN = 140  # characters of a command
_EMPTY = "No results yet: run the scripts in `benchmarks/`, then `python benchmarks/readme_table.py`."


def main() -> None:
    README.write_text(with_table(README.read_text(encoding="utf-8"), table()), encoding="utf-8")


def table(results: Path = RESULTS) -> str:
    """Returns the table and its footnotes as Markdown."""
    rows: list[Row] = []
    notes: dict[str, list[str]] = {}
    for name, read in _READERS.items():
        path = results / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            rows += read(record)
            notes.setdefault(where(record), []).append(f"`{_brief(record['command'])}`")
    if not rows:
        return _EMPTY
    lines = ["| | this project | TVM, or a library | compared |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "Medians, with the least and the greatest value in brackets."]
    lines += [f"Measured on {where}, by {', '.join(commands)}." for where, commands in notes.items()]
    return "\n".join(lines)


def with_table(text: str, table: str) -> str:
    """Returns a page with the table between its markers."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"the page has no {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def _peers(record: dict[str, Any]) -> Iterator[Row]:
    for kernel, ratio in record["ours_over_best_peer"].items():
        rows = [row for row in record["rows"] if row["kernel"] == kernel]
        mine = sorted(row["secs"]["median"] for row in rows if row["contestant"] == "ours")
        best = min((row for row in rows if row["contestant"] != "ours"), key=lambda row: row["secs"]["median"])
        name = f"{_LIBRARIES.get(best['contestant'], best['contestant'])} {best['version'].partition('-')[0]}"
        yield (
            f"`{kernel}`: milliseconds, {record['samples']} samples, against the fastest library",
            _number(1e3 * mine[len(mine) // 2]),
            f"{_number(1e3 * best['secs']['median'])}, {name}",
            f"{_number(ratio['median'])} of the time ({_number(ratio['min'])} – {_number(ratio['max'])})",
        )


def _kernels(record: dict[str, Any]) -> Iterator[Row]:
    outcome = Outcome(record)
    rows = {(row.workload, row.variant): row for row in outcome.rows()}
    for workload in outcome.workloads:
        mine, theirs = rows[workload, "expert"], rows[workload, outcome.baseline]
        samples = record["samples"]
        says = f"{_number(mine.speedup.median / theirs.speedup.median)}× as fast"
        if workload in outcome.references:
            long = f"evolutionary's {len(outcome.references[workload].samples)} samples"
            reached = mine.reference_matched
            says += f"; as fast as {long} " + ("never" if reached is None else f"at sample {_number(reached.median)}")
            if 0 < mine.num_reference_matched < mine.num_seeds:
                says += f", in {mine.num_reference_matched} of {mine.num_seeds} seeds"
        yield (
            f"`{workload}`: times as fast as untuned, {samples} samples, expert against evolutionary search",
            _text(mine.speedup),
            _text(theirs.speedup),
            says,
        )


def _wall_time(record: dict[str, Any]) -> Iterator[Row]:
    ratio = record["ratio"]
    yield (
        f"`{record['workload']}`: seconds for {record['samples']} samples, against `tune_tir` as it ships",
        _spread(record["ours_secs"]),
        _spread(record["tune_tir_secs"]),
        f"{_number(ratio['median'])} of the time ({_number(ratio['min'])} – {_number(ratio['max'])})",
    )


def _start_up(record: dict[str, Any]) -> Iterator[Row]:
    yield "`reasonc --help`: seconds", _spread(record["help_secs"]), "", ""
    for spec, secs in record["first_sample_secs"].items():
        yield f"`{spec}`: seconds from the command to the first measured sample", _spread(secs), "", ""


_LIBRARIES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}

_READERS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "peers": _peers,
    "kernels": _kernels,
    "wall_time": _wall_time,
    "start_up": _start_up,
}


def where(record: dict[str, Any]) -> str:
    """Returns the machine and the version of TVM that a result is of."""
    machine, versions = record["machine"], record["fingerprint"]["versions"]
    return (
        f"{machine['name']}, {machine['num_cores']} cores, {machine['isa']}, peak {machine['peak_flops'] / 1e9:.0f} "
        f"GFLOP/s, apache-tvm {versions['apache-tvm']}"
    )


def _spread(found: dict[str, float]) -> str:
    return f"{_number(found['median'])} ({_number(found['min'])} – {_number(found['max'])})"


def _brief(command: str) -> str:
    """Returns a command that fits a line; docs/results.md has it whole."""
    return textwrap.shorten(command, _MOST_SHOWN, placeholder=" …")


def _text(spread: Spread) -> str:
    return _spread({"median": spread.median, "min": spread.low, "max": spread.high})


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


if __name__ == "__main__":
    main()

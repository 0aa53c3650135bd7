"""Writes docs/results.md, the pictures and the README's table from benchmarks/results/.

    python benchmarks/publish.py
    python benchmarks/publish.py kernels=experiments/compare-20260101-120000 fidelity=fidelity.json

With NAME=PATH, what a results folder of `reasonc compare` or `reasonc ablate`, or the output of `reasonc fidelity
--json`, holds is first kept as benchmarks/results/NAME.json. Nothing on the page is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import readme_table

from reasoning_compiler.experiment.tables import curves_svg, page_of, to_markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"

_HEAD = """\
# Results

<!-- Written by benchmarks/publish.py from benchmarks/results/; do not edit. -->

Everything that was measured and kept, wins and losses alike. Each section names its machine and the command that
repeats it. Latencies of one machine say nothing of another's. How runs are compared is told under
[experiments.md](experiments.md).
"""
_ABOUT = ("command", "machine", "fingerprint")
_SPREAD = {"median", "min", "max"}
_MAX_SHOWN = 4  # of a list's elements in one cell


def main() -> None:
    for given in sys.argv[1:]:
        name, equals, path = given.partition("=")
        if not equals or not name.replace("_", "").isalnum():
            raise SystemExit(f"`{given}` is not NAME=PATH, the name of letters, digits and _")
        keep(name, Path(path))
    PAGE.write_text(page(), encoding="utf-8")
    for name, svg in pictures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
    readme_table.main()


def keep(name: str, path: Path) -> None:
    """Copies results into benchmarks/results/, with files of this project named from its root."""
    source = path / "results.json" if path.is_dir() else path
    if not source.exists():
        raise SystemExit(f"`{path}` holds no results")
    record = json.loads(source.read_text(encoding="utf-8").replace(f"{ROOT.resolve()}/", ""))
    if "command" not in record:
        raise SystemExit(f"`{path}` does not say by which command it was made")
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def page(results: Path = RESULTS) -> str:
    """Returns the page."""
    parts = [_HEAD]
    for path in sorted(results.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        parts.append("\n".join([f"## {path.stem}", "", *_section(path.stem, record)]).rstrip() + "\n")
    return "\n".join(parts)


def pictures(results: Path = RESULTS) -> dict[str, str]:
    """Returns the curves of each comparison, by file name."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    return {f"{name}.svg": curves_svg(record) for name, record in records.items() if "experiment" in record}


def _section(name: str, record: dict[str, Any]) -> Iterator[str]:
    if "experiment" in record:
        yield f"![Speed-up of the best program so far, against samples](images/{name}.svg)"
        yield ""
        yield to_markdown(page_of(record))
    elif record.get("kind") == "fidelity":
        yield f"- Command: `{record['command']}`"
        yield ""
        yield from _fidelity(record)
    else:
        yield f"- {readme_table.where(record)}"
        yield f"- Command: `{record['command']}`"
        yield ""
        yield from _any({key: value for key, value in record.items() if key not in _ABOUT})


def _fidelity(record: dict[str, Any]) -> Iterator[str]:
    head = ("kernel", "machine", "from", "part", "programs", "τ", "top 1", "top 5", "error")
    rows = []
    for kernel in record["kernels"]:
        parts = [("all", kernel["total"])] if kernel["source"] != "recording" else []
        for part, said in [*parts, *((stage["name"], stage["agreement"]) for stage in kernel["stages"])]:
            figures = (said["num_programs"], said["tau"], said["top1"], said["top5"], said["error"])
            rows.append((kernel["workload"], kernel["machine"], kernel["source"], part, *map(_text, figures)))
    yield from _table(head, rows)
    for pair in record["machines"]:
        yield f"- {pair['workload']}, {pair['one']} against {pair['other']}: τ {_text(pair['tau'])}"


def _any(record: dict[str, Any]) -> Iterator[str]:
    """Yields a record of any shape: what is single in one table, then a table for each list of records."""
    singles, lists = [], []
    for name, value in _flat(record):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lists.append((name, [dict(_flat(row)) for row in value]))
        else:
            singles.append((name, _text(value)))
    yield from _table(("", ""), singles)
    for name, rows in lists:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        yield f"### {name}"
        yield ""
        yield from _table(columns, [[_text(row.get(column)) for column in columns] for row in rows])


def _flat(record: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        name = f"{above}, {key}" if above else key
        if isinstance(value, dict) and set(value) != _SPREAD:
            yield from _flat(value, name)
        else:
            yield name, value


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        if set(value) != _SPREAD:
            return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
        return f"{_text(value['median'])} ({_text(value['min'])} – {_text(value['max'])})"
    if isinstance(value, list):
        if len(value) > _MAX_SHOWN:
            return f"{_text(value[-1])}, the last of {len(value)}"
        return "; ".join(map(_text, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        lines = [head, ["---"] * len(head), *rows]
        yield from ("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        yield ""


if __name__ == "__main__":
    main()

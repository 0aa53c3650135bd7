"""How a benchmark looks on disk: gzip, one JSON object a line, the first of them the header.

A program's line holds its structure, the values of its decisions in order, its latencies or its failure, and its loop
nests. What is the same in many lines costs little once it is compressed. A partial recording is the same without
compression; a torn last line is left out.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import ChoiceDomain, Decision, Program, TileDomain, as_value
from reasoning_compiler.core.whole_files import write_whole, writing
from reasoning_compiler.cost.tiling import TileGroup
from reasoning_compiler.experiment.tabular import Entry, RecordedWorkload, TabularBenchmark
from reasoning_compiler.ir.nest import Access, Loop, Nest

FORMAT_VERSION = 3
SUFFIX = ".landscape.gz"


def is_benchmark(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is meant as a tabular benchmark, by its name."""
    return os.fspath(path).endswith(SUFFIX)


def write_benchmark(path: Path, header: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Writes a benchmark, whole or not at all, with the same bytes whenever it is written.

    Args:
        path: ends in `.landscape.gz`.
        header: from `header_json`.
        rows: from `row_json`.

    Raises:
        JournalError: the disk is full, or the folder is not writable.
    """
    header = header | {"num_programs": len(rows)}
    text = "".join(json.dumps(obj, separators=(",", ":")) + "\n" for obj in (header, *rows))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, gzip.compress(text.encode("ascii"), 9, mtime=0))


def read_benchmark(path: str | os.PathLike[str]) -> TabularBenchmark:
    """Returns the benchmark in a file.

    Raises:
        UsageError: there is no such file, it is none of ours, or it is damaged or of a newer version.
    """
    path = Path(path)
    try:
        lines = gzip.decompress(path.read_bytes()).split(b"\n")
        header = json.loads(lines[0])
        version = header["landscape"]
    except FileNotFoundError:
        raise UsageError(f"there is no recording `{path}`; make one with `reasonc record WORKLOAD`") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"`{path}` is no tabular benchmark ({type(error).__name__}); make one anew") from error
    if version != FORMAT_VERSION:
        raise UsageError(f"`{path}` has format {version}, known here is {FORMAT_VERSION}; record it anew")
    try:
        return _benchmark(header, [json.loads(line) for line in lines[1:] if line])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"`{path}` is damaged ({type(error).__name__}: {error}); record it anew") from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the whole lines of a partial recording, its header first; nothing where there is none."""
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


# -- writing ----------------------------------------------------------------------------------------------------------


def header_json(benchmark: TabularBenchmark) -> dict[str, Any]:
    """Returns everything of a benchmark but its programs as JSON values."""
    workload = benchmark.workload
    return {
        "landscape": FORMAT_VERSION,
        "workload": asdict(workload),
        "machine": benchmark.machine.to_json(),
        "fingerprint": benchmark.fingerprint,
        "tiling": benchmark.tiling,
        "start": benchmark.start.to_json(),
        "tables": [[s, [_decision_json(d) for d in table]] for s, table in benchmark.tables.items()],
        "tile_groups": [_group_json(group) for group in benchmark.tile_groups],
        "untuned": _measurement_json(benchmark.untuned),
        "about": benchmark.about,
    }


def row_json(program: Program, measurement: Measurement, nests: Sequence[Nest]) -> dict[str, Any]:
    """Returns one program's line as JSON values.

    Args:
        program: with all its decisions.
        measurement: latencies are kept to four digits.
        nests: after the postprocessors.
    """
    return program.to_json() | {
        "measured": _measurement_json(measurement),
        "nests": [_nest_json(nest) for nest in nests],
    }


def _measurement_json(measurement: Measurement) -> Any:
    if measurement.failure is not None:
        return [measurement.failure.kind, measurement.failure.message]
    return [_short(secs) for secs in measurement.latencies_secs]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _nest_json(nest: Nest) -> list[Any]:
    return [
        nest.block,
        [[v.name, v.extent, v.kind, v.reduces, v.id] for v in nest.loops],
        [[a.buffer, a.shape, a.item_bytes, a.steps, a.region, a.writes, a.shared, a.external] for a in nest.accesses],
        nest.flops,
        nest.scalar_calls,
        nest.unroll_limit,
        nest.tiling,
    ]


def _decision_json(decision: Decision) -> list[Any]:
    typed = [decision.block, decision.loop, decision.rule, decision.role]
    return [decision.name, decision.kind, _domain_json(decision.domain), decision.value, *typed]


def _domain_json(domain: TileDomain | ChoiceDomain) -> dict[str, Any]:
    if isinstance(domain, TileDomain):
        return {"tile": asdict(domain)}
    return {"choice": {"values": domain.values, "labels": domain.labels}}


def _group_json(group: TileGroup) -> list[Any]:
    decisions = [[loop, name, _domain_json(domain)] for loop, name, domain in group.decisions]
    return [group.block, group.structure, _nest_json(group.nest), decisions, group.max_jobs, group.max_vector]


# -- reading ----------------------------------------------------------------------------------------------------------


def _benchmark(header: dict[str, Any], rows: Sequence[dict[str, Any]]) -> TabularBenchmark:
    about = header["workload"]
    arguments = tuple(Argument(**(a | {"shape": tuple(a["shape"])})) for a in about["arguments"])
    entries = [_entry(row) for row in rows]
    if len(entries) != header["num_programs"]:
        raise ValueError(f"{len(entries)} of {header['num_programs']} programs")
    return TabularBenchmark(
        workload=RecordedWorkload(**(about | {"arguments": arguments})),
        machine=Machine.from_json(header["machine"]),
        fingerprint=header["fingerprint"],
        tiling=header["tiling"],
        start=Program.from_json(header["start"]),
        tables={as_value(s): tuple(_decision(d) for d in table) for s, table in header["tables"]},  # type: ignore[misc]
        tile_groups=tuple(_group(group) for group in header["tile_groups"]),
        untuned=_measurement(header["untuned"]),
        entries={entry.program: entry for entry in entries},
        about=header["about"],
    )


def _entry(row: dict[str, Any]) -> Entry:
    nests = lru_cache(1)(partial(_nests, row["nests"]))
    return Entry(Program.within(row), _measurement(row["measured"]), nests)


def _measurement(obj: list[Any]) -> Measurement:
    if obj and isinstance(obj[0], str):
        return Measurement(failure=Failure(*obj))
    return Measurement(tuple(obj), verified=True)


def _nests(obj: list[Any]) -> tuple[Nest, ...]:
    return tuple(map(_nest, obj))


def _nest(obj: list[Any]) -> Nest:
    block, loops, accesses, *rest = obj
    return Nest(
        block,
        tuple(Loop(*loop) for loop in loops),
        tuple(Access(name, *(as_value(part) for part in parts)) for name, *parts in accesses),  # type: ignore[arg-type]
        *rest,
    )


def _decision(obj: list[Any]) -> Decision:
    name, kind, domain, value, *typed = obj
    return Decision(name, kind, _domain(domain), as_value(value), *typed)


def _domain(obj: dict[str, Any]) -> TileDomain | ChoiceDomain:
    if "tile" in obj:
        return TileDomain(**obj["tile"])
    return ChoiceDomain(tuple(obj["choice"]["values"]), tuple(obj["choice"]["labels"]))


def _group(obj: list[Any]) -> TileGroup:
    block, structure, nest, decisions, max_jobs, max_vector = obj
    domains = tuple((loop, name, _domain(domain)) for loop, name, domain in decisions)
    return TileGroup(block, structure, _nest(nest), domains, max_jobs, max_vector)  # type: ignore[arg-type]

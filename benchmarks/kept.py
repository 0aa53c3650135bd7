"""The results that are kept: benchmarks/results/NAME.json.gz, each with the commit that it was kept with."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def store(name: str, record: dict[str, Any]) -> None:
    """Keeps a result, in place of what had its name."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, text=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record | {"kept_with": commit.strip()}, separators=(",", ":"))
    (RESULTS / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Returns what has been kept, by name."""
    files = sorted(results.glob("*.json.gz"))
    return {path.name.partition(".")[0]: json.loads(gzip.decompress(path.read_bytes())) for path in files}

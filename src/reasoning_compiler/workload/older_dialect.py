"""TVM's older dialect: what kernels of TVM 0.20 and before call otherwise than TVM 0.27, see docs/older-tvm.md."""

from __future__ import annotations

import re
from pathlib import Path

RENAMES = (
    (r"\bfrom tvm\.script import .*\btir\b( as \w+)?", "from tvm.script import tirx as T"),
    (r"\btvm\.script\.tir\b", "tvm.script.tirx"),
    (r"\bfrom tvm import .*\btir\b", "from tvm import tirx"),
    (r"\bfrom tvm import .*\bmeta_schedule\b", "from tvm.s_tir import meta_schedule"),
    (r"\btvm\.meta_schedule\b", "tvm.s_tir.meta_schedule"),
    (r"\b(tvm\.)?tir\.Schedule\b", "tvm.s_tir.Schedule"),
    (r"\btvm\.tir\b", "tvm.tirx"),
    (r"@T\.prim_func(?!\()", "@T.prim_func(s_tir=True)"),
    (r"\bT\.block\b", "T.sblock"),
    (r"\bT\.block_attr\b", "T.sblock_attr"),
)
"""What the older dialect writes, as a pattern, and the name it has in TVM 0.27."""


def renamed_in(path: Path) -> str | None:
    """Returns, in words, the first line of a kernel's file in the older dialect, with what it is now; None for none."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        for pattern, now in RENAMES:
            found = re.search(pattern, line)
            if found:
                return f"line {number}: `{found.group()}` is TVM's older dialect; in TVM 0.27 it is `{now}`"
    return None

"""Emptying the caches before a timing, for programs that will find them empty where they are used."""

from __future__ import annotations

import numpy as np
import tvm
import tvm.s_tir
from tvm import te

_LINE_BYTES = 64
_DTYPE = "float32"


class Eviction:
    """Memory that is read to push everything else out of the caches.

    TVM's threads read it, each a part of its own: only a core itself empties its private caches.

    Args:
        num_bytes: how much; more than the last-level cache, which does not always replace its oldest line.
    """

    def __init__(self, num_bytes: int) -> None:
        num_parts = tvm.runtime.num_threads()
        per_line = _LINE_BYTES // np.dtype(_DTYPE).itemsize
        num_lines = max(1, num_bytes // num_parts // _LINE_BYTES)
        memory = te.placeholder((num_parts, num_lines, per_line), _DTYPE, name="memory")
        line = te.reduce_axis((0, num_lines), name="line")
        read = te.compute((num_parts,), lambda part: te.max(memory[part, line, 0], axis=line), name="read")
        func = te.create_prim_func([memory, read]).with_attr("global_symbol", "main")
        schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
        part, _ = schedule.get_loops(schedule.get_sblock("read"))
        schedule.parallel(part)
        self._main = tvm.compile(schedule.mod, target="llvm")["main"]
        # Pages that nobody has written are all the same page, which stays in the cache.
        self._memory = tvm.runtime.tensor(np.ones((num_parts, num_lines, per_line), _DTYPE))
        self._read = tvm.runtime.empty((num_parts,), _DTYPE)

    def evict(self) -> None:
        """Reads all of it."""
        self._main(self._memory, self._read)

"""Compiling a kernel that measures the machine, and timing it in slices of which the fastest counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any


def compile_kernel(function: Any, target: dict[str, Any]) -> Callable[..., Any]:
    """Returns the compiled form of a PrimFunc."""
    import tvm

    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=target)["main"]


def best_secs(slices: Iterator[Callable[[], Any]], *, expected_secs: float = math.inf, budget_secs: float) -> float:
    """Returns the time of the fastest slice in `budget_secs`, or in 2 seconds while none is as fast as expected."""
    start = time.perf_counter()
    best = math.inf
    while (elapsed := time.perf_counter() - start) < budget_secs or (elapsed < 2 and best > 1.03 * expected_secs):
        best = min(best, secs_of(next(slices)))
    return best


def secs_of(run: Callable[[], Any]) -> float:
    """Returns the time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

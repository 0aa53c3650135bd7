"""What a matrix product takes in PyTorch, for low_precision.py: prints seconds by configuration as JSON.

python benchmarks/torch_product.py M N K THREADS DTYPE
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config

WARM_UP, TIMINGS = 10, 200


def main() -> None:
    m, n, k, threads = map(int, sys.argv[1:5])
    dtype = getattr(torch, sys.argv[5])
    torch.set_num_threads(threads)
    if dtype == torch.int8:
        a, b = (torch.randint(-128, 128, shape, dtype=dtype) for shape in ((m, k), (k, n)))
        calls: dict[str, Callable[[], Any]] = {"_int_mm": lambda: torch._int_mm(a, b)}
    else:
        x, layer = torch.randn(m, k).to(dtype), torch.nn.Linear(k, n, bias=False).to(dtype).eval()
        torch._inductor.config.freezing = True
        compiled = torch.compile(layer)
        calls = {"eager": lambda: layer(x), "compiled": lambda: compiled(x)}
    with torch.no_grad():
        print(json.dumps({name: secs(call) for name, call in calls.items()}))


def secs(call: Callable[[], Any]) -> float:
    """Returns the median time of a call."""
    found = []
    for _ in range(WARM_UP + TIMINGS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found[WARM_UP:])


if __name__ == "__main__":
    main()

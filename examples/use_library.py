"""Load a tuned library, call it, and compare it with NumPy.

    python examples/use_library.py [LIBRARY]

LIBRARY is a file that `reasonc export RUN --out kernel.so` wrote, of a gemm with constant weights; without it, a small
one is tuned first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import reasoning_compiler as rc


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            library = Path(sys.argv[1])
        else:
            library = rc.tune(rc.workloads.gemm(64, 256, 128), samples=4, out=Path(folder) / "run").library
        use(library)


def use(library: Path) -> None:
    kernel = rc.load(library)
    for argument in kernel.inputs:
        print(f"{argument.name}: {argument.role}, {argument.shape}, {argument.dtype}")
    first, weight = kernel.inputs
    rng = np.random.default_rng(0)
    a = rng.standard_normal(first.shape, dtype=np.float32)
    b = rng.standard_normal(weight.shape, dtype=np.float32)

    c = kernel(a, b)  # the first call packs the weight `b`
    error = float(np.abs(c - a @ b).max())
    print(f"largest difference from NumPy: {error:.2g}")
    if not np.allclose(c, a @ b, rtol=1e-4, atol=1e-3):
        raise SystemExit("the library and NumPy disagree")

    started = time.perf_counter()
    for _ in range(100):
        kernel(a, b)  # the same array object `b` is not packed again
    print(f"{(time.perf_counter() - started) * 1e4:.0f} µs a call, copies of `a` and of the result included")


if __name__ == "__main__":
    main()

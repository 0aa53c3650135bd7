"""Times a saved library with TVM's runtime alone: nothing of this package is imported.

    python benchmarks/plain_harness.py LIBRARY.so THREADS

Prints the seconds of one run: the median of timings that last 30 ms or a run each, after a warm-up of 0.2 s.
"""

import json
import os
import statistics
import sys
import time

os.environ["TVM_NUM_THREADS"] = sys.argv[2]

import numpy as np
import tvm

TIMINGS = 11
WARM_UP_SECS = 0.2
TIMING_SECS = 0.03


def main() -> None:
    """Times one library."""
    library = tvm.runtime.load_module(sys.argv[1])
    with open(sys.argv[1].removesuffix(".so") + ".json", encoding="utf-8") as file:
        signature = json.load(file)
    rng = np.random.default_rng(1)
    passed = []
    for argument in signature["arguments"]:
        values = rng.standard_normal(argument["shape"]).astype(argument["dtype"])
        tensor = tvm.runtime.tensor(values)
        if argument["packer"] is not None:
            packed = tvm.runtime.empty(argument["packed_shape"], argument["packed_dtype"])
            library[argument["packer"]](tensor, packed)
            tensor = packed
        passed.append(tensor)
    run = library["main"]
    started, num_runs = time.perf_counter(), 0
    while time.perf_counter() - started < WARM_UP_SECS:
        run(*passed)
        num_runs += 1
    number = max(1, round(TIMING_SECS * num_runs / (time.perf_counter() - started)))
    timings = []
    for _ in range(TIMINGS):
        started = time.perf_counter()
        for _ in range(number):
            run(*passed)
        timings.append((time.perf_counter() - started) / number)
    print(statistics.median(timings))


if __name__ == "__main__":
    main()

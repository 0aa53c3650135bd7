"""What the benchmarks share: TVM's own search as a baseline, and results with their circumstances."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasoning_compiler.machine import detect, fingerprint, import_tvm, tvm_target

RESULTS = Path(__file__).parent / "results"


def evolutionary(
    workload: Any,
    *,
    samples: int,
    seed: int,
    threads: int,
    on_latency: Callable[[float], None] = lambda secs: None,
) -> tuple[Any, float]:
    """Returns (best module, wall seconds) of TVM's evolutionary search, upstream defaults, our builder and runner.

    Args:
        workload: what is tuned.
        samples: programs to measure.
        seed: of its random draws.
        threads: threads that a program may use.
        on_latency: is called for each program in the order of measuring, with inf for a failed one.

    Raises:
        RuntimeError: no candidate could be measured.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    from reasoning_compiler.measure.metaschedule import ReasoningBuilder, ReasoningRunner

    @derived_object
    class Listener(ms.measure_callback.PyMeasureCallback):
        def apply(self, task_scheduler, task_id, measure_candidates, builder_results, runner_results) -> None:
            for result in runner_results:
                on_latency(statistics.median(map(float, result.run_secs)) if result.run_secs else math.inf)

    target = tvm_target(replace(detect(), num_cores=threads))
    builder = ReasoningBuilder()
    runner = ReasoningRunner(num_threads=threads, workload=workload, target=target, seed=seed)
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as work_dir:
            database = ms.tune_tir(
                workload.mod,
                target,
                work_dir,
                max_trials_global=samples,
                builder=builder,
                runner=runner,
                measure_callbacks=[*ms.measure_callback.MeasureCallback.create("default"), Listener()],
                seed=seed + 1,
                num_tuning_cores=threads,
            )
            secs = time.perf_counter() - started
            schedule = ms.tir_integration.compile_tir(database, workload.mod, target)
            if schedule is None:
                raise RuntimeError(f"evolutionary search measured nothing for {workload.spec}")
            return schedule.mod, secs
    finally:
        builder.close()
        runner.close()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and greatest of some numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def publish(name: str, record: dict[str, Any]) -> None:
    """Prints a result and writes it, with the machine, versions and command, to `results/NAME.json`."""
    machine = detect()
    about = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine.to_json(),
        "fingerprint": fingerprint(machine, machine.num_cores),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(about | record, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(json.dumps(record, indent=1))

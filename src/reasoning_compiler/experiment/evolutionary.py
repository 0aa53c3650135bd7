"""TVM's own search, measured by our builder and runner: the baseline."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.errors import NothingMeasuredError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.machine import import_tvm, quiet_logging, tvm_target
from reasoning_compiler.rules.metaschedule import space_generator
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.session.spaces import space_rules

if TYPE_CHECKING:
    from reasoning_compiler.workload import Workload


def evolutionary(
    workload: Workload,
    machine: Machine,
    settings: Settings,
    *,
    samples: int,
    seed: int,
    in_our_space: bool,
    on_latency: Callable[[float], None],
) -> tuple[Any, float]:
    """Returns (best module, wall seconds) of TVM's evolutionary search, upstream defaults, our builder and runner.

    Args:
        workload: what is tuned.
        machine: this one, with as many cores as programs may use.
        settings: how programs are timed.
        samples: programs to measure.
        seed: of its random draws.
        in_our_space: search with our schedule rules, not in TVM's own space.
        on_latency: is called for each program in the order of measuring, with inf for a failed one.

    Raises:
        NothingMeasuredError: no candidate could be measured.
    """
    import_tvm()
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    from reasoning_compiler.measure.executors.metaschedule import ReasoningBuilder, ReasoningRunner

    best_secs, best_mod = math.inf, None

    @derived_object
    class Listener(ms.measure_callback.PyMeasureCallback):
        def apply(self, task_scheduler, task_id, measure_candidates, builder_results, runner_results) -> None:
            nonlocal best_secs, best_mod
            for candidate, result in zip(measure_candidates, runner_results, strict=True):
                secs = statistics.median(map(float, result.run_secs)) if result.run_secs else math.inf
                if secs < best_secs:
                    best_secs, best_mod = secs, candidate.sch.mod
                on_latency(secs)

    target, threads = tvm_target(machine), machine.num_cores
    space: Any = "post-order-apply"
    if in_our_space:
        space = space_generator(workload.mod, target, rules=space_rules(workload, machine, settings))
    builder = ReasoningBuilder()
    runner = ReasoningRunner(
        num_threads=threads,
        workload=workload,
        target=target,
        seed=seed,
        timeout_secs=settings.timeout_secs,
        flush_cache=settings.flush_cache,
    )
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as work_dir, quiet_logging():
            ms.tune_tir(
                workload.mod,
                target,
                work_dir,
                max_trials_global=samples,
                builder=builder,
                runner=runner,
                measure_callbacks=[*ms.measure_callback.MeasureCallback.create("default"), Listener()],
                space=space,
                seed=seed + 1,
                num_tuning_cores=threads,
            )
            secs = time.perf_counter() - started
            if best_mod is None:
                raise NothingMeasuredError(f"evolutionary search measured nothing for {workload.spec}")
            return best_mod, secs
    finally:
        builder.close()
        runner.close()

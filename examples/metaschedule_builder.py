"""TVM's own tuner, with the builder and the runner of this package.

    python examples/metaschedule_builder.py

Candidates are built and run in processes that last from batch to batch; each is raced against the best so far, and its
output is compared with the workload's reference. The threads are set to the physical cores.
"""

from __future__ import annotations

import tempfile

import reasoning_compiler as rc
from reasoning_compiler.machine import import_tvm, tvm_target
from reasoning_compiler.measure.executors.metaschedule import ReasoningBuilder, ReasoningRunner

import_tvm()
from tvm.s_tir import meta_schedule as ms


def main() -> None:
    workload = rc.workloads.gemm(64, 256, 128)
    machine = rc.detect()
    target = tvm_target(machine)
    builder = ReasoningBuilder()
    runner = ReasoningRunner(num_threads=machine.num_cores, workload=workload, target=target)
    try:
        with tempfile.TemporaryDirectory() as work_dir:
            database = ms.tune_tir(
                workload.mod,
                target,
                work_dir,
                max_trials_global=8,
                builder=builder,
                runner=runner,
                seed=1,
                num_tuning_cores=machine.num_cores,
            )
            records = database.get_all_tuning_records()
            best = min(float(secs) for record in records for secs in record.run_secs)
            print(f"{len(records)} records, the fastest takes {best * 1e6:.0f} µs")
            schedule = ms.tir_integration.compile_tir(database, workload.mod, target)
            print("the best schedule has", len(schedule.trace.insts), "instructions")
    finally:
        builder.close()
        runner.close()


if __name__ == "__main__":
    main()

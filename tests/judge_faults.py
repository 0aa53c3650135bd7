"""A process that measures wrong kernels many times, and right ones of every kind, and prints what became of them.

    python judge_faults.py FOLDER TIMES

What the runner process does for one candidate is done here in a loop, without a new process after each refusal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from faulty_kernels import WRONG, module
from measure_kernels import scheduled, target, tvm
from reasoning_compiler.core.processes.serving import Refused
from reasoning_compiler.machine import use_threads
from reasoning_compiler.measure.executors.kernels import Kernel
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.timing.racing import Race
from reasoning_compiler.measure.verification.data import Data
from reasoning_compiler.measure.workers.builder import Builder
from reasoning_compiler.measure.workers.runner import Runner
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse
from test_workload_tvm import SMALL

SCHEDULES = 4


def judge(workload: Any, func: Any, folder: Path, *, times: int) -> list[str]:
    """Returns the kind of failure, "passed" for none, of each time that a kernel is run, verified and checked."""
    with LocalExecutor(num_threads=2, scratch_dir=folder) as executor:
        return _judge(workload, func, executor, times=times)


def _judge(workload: Any, func: Any, executor: LocalExecutor, *, times: int) -> list[str]:
    mod = func if isinstance(func, tvm.IRModule) else module(func)
    try:
        built = Builder(executor.store).build(
            module=tvm.ir.save_json(mod), target=str(target()), arguments=workload.arguments
        )
    except Refused as refusal:
        return [f"{refusal.kind}: {refusal}"] * times
    data = Data(workload, str(target()), 0, executor)
    said = []
    for _ in range(times):
        runner = Runner(executor.store, lambda *limit, **instead: None, lambda **facts: None)
        runner.prepare(key="workload", **data.payload())
        on = {"workload": "workload", "kernel": Kernel(built["code"], built["signature"]), "verify": True}
        race = Race(repeats=3, min_timing_secs=1e-4)
        try:
            runner.run(**on, race=race)
            runner.check(**on, sets=data.sets(), inputs=data.inputs())
            said.append("passed")
        except Refused as refusal:
            said.append(f"{refusal.kind}: {refusal}")
    data.close()
    return said


def main() -> None:
    """Judges a right kernel and all wrong ones."""
    use_threads(2)
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    right = WRONG["one wrong element at the end"][0]
    kernels = {"right": (right, scheduled(right))} | WRONG
    said = {name: judge(*kernel, folder / str(i), times=times) for i, (name, kernel) in enumerate(kernels.items())}
    for name, settings in SMALL.items():
        workload = parse(f"{name}[{settings}]")
        space = Space(workload.mod, target())
        for seed in range(SCHEDULES):
            mod = space.schedule(space.sample(seed)).mod
            said[f"{name} {seed}"] = judge(workload, mod, folder / f"{name}-{seed}", times=1)
    print(json.dumps(said))


if __name__ == "__main__":
    main()

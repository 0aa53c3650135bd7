"""How well the analysis ranks programs before anything is measured: Kendall's τ on programs drawn at random.

    python benchmarks/prior.py [--programs 32] [--seed 0] [WORKLOAD ...]

Every program is drawn as MetaSchedule draws one, timed by our instrument without a race (no `best` to beat), and
compared with the seconds that the static analysis gives it. τ = 0 is chance, 1 the hardware's own order.
"""

from __future__ import annotations

import argparse
import math

from bench import publish

from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.session import Settings
from reasoning_compiler.session.spaces import make_space, with_threads
from reasoning_compiler.session.task import Task
from reasoning_compiler.workload import parse

KERNELS = ["gemm[512,4096,1024]", "llama3-attention", "flux-conv", "llama4-mlp", "deepseek-moe", "flux-attention"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("workloads", nargs="*", default=KERNELS)
    arguments.add_argument("--programs", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    rows = {}
    for spec in given.workloads:
        rows[spec] = fidelity(spec, given.programs, given.seed)
        print(spec, rows[spec], flush=True)
    publish("prior", {"programs": given.programs, "seed": given.seed, "kernels": rows})


def fidelity(spec: str, num: int, seed: int) -> dict[str, float | int | None]:
    machine = detect()
    machine, workload, settings = with_threads(machine, machine.num_cores), parse(spec), Settings(seed=seed)
    task = Task(spec, workload, machine, settings, make_space(workload, machine, settings))
    programs = list(dict.fromkeys(task.space.sample(1000 * seed + i) for i in range(num)))
    modules = [task.space.schedule(p).mod for p in programs]
    target = tvm_target(machine)
    with (
        LocalExecutor(num_threads=machine.num_cores) as executor,
        Instrument(workload, target, executor, repeats=2, budget_secs=0.2, timeout_secs=20) as instrument,
    ):
        measured = [m.measurement for m in instrument.measure(modules, best_secs=None)]
    pairs = [(task.analyze(p).secs, m.latency_secs) for p, m in zip(programs, measured, strict=True) if m.ok]
    errors = sorted(abs(math.log(prior / secs)) for prior, secs in pairs)
    fastest = min(range(len(pairs)), key=lambda i: pairs[i][1])
    rank = sorted(range(len(pairs)), key=lambda i: pairs[i][0]).index(fastest)
    return {
        "measured": len(pairs),
        "failed": len(programs) - len(pairs),
        "tau": kendall_tau([p for p, _ in pairs], [s for _, s in pairs]),
        "median_factor": math.exp(errors[len(errors) // 2]),
        "rank_of_fastest": rank + 1,
    }


if __name__ == "__main__":
    main()

"""What it brings to sum up the gate and up products of SwiGLU in one pass: the expert's openings with and without.

    python benchmarks/one_pass.py [--rounds 3] [WORKLOAD ...]

Of the first openings, those of each structure are timed in turns, and the best medians compared.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from bench import publish

from reasoning_compiler.core.records import UNTUNED, Step
from reasoning_compiler.core.rng import stream
from reasoning_compiler.ir.joined_label import JOINED, PRODUCTS
from reasoning_compiler.machine import detect, tvm_target
from reasoning_compiler.measure.instrument import Instrument
from reasoning_compiler.proposer.expert import Expert
from reasoning_compiler.proposer.protocol import Context
from reasoning_compiler.rules.registry import rules_of, with_own_rules
from reasoning_compiler.space.space import Space
from reasoning_compiler.workload import parse

WORKLOADS = [
    "llama4-mlp[hidden=256,width=256]",
    "llama4-mlp[hidden=1024,width=1024]",
    "llama4-mlp[tokens=64,hidden=512,width=1024]",
    "llama4-mlp[tokens=128,hidden=1024,width=1024]",
    "llama4-mlp",
    "llama4-mlp[tokens=128]",
    "deepseek-moe",
    "deepseek-moe[num_experts=4]",
    "deepseek-moe[num_experts=8,hidden=2048,width=768]",
    "routed-experts",
]
OPENINGS, OF_EACH = 14, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    publish("one_pass", {"rounds": given.rounds, "rows": [row(spec, given.rounds) for spec in given.workloads]})


def row(spec: str, rounds: int) -> dict[str, Any]:
    """Returns the times of a workload's best openings, and with which structure the expert opens."""
    workload, machine = parse(spec), detect()
    target = tvm_target(machine)
    rules = with_own_rules(rules_of(workload.mod, target), stream_bytes=machine.l2_bytes)
    with Instrument(workload, target, num_threads=machine.num_cores) as instrument:
        space = Space(workload.mod, target, rules=rules)
        context = Context((Step(0, None, UNTUNED),), space.table(space.start))
        proposal = Expert(space, machine).propose(context, OPENINGS, stream(0, "openings"))
        ways: dict[bool, list[Any]] = {False: [], True: []}
        for transformation in proposal.transformations:
            joins = any(name.endswith(f" {PRODUCTS}") and value == JOINED for name, value in transformation.edits)
            ways[joins].append(space.schedule(space.edit(UNTUNED, transformation)).mod)
        leads = any(value == JOINED for _, value in proposal.transformations[0].edits)
        candidates = [(joins, mod) for joins, mods in ways.items() for mod in mods[:OF_EACH]]
        turns = [instrument.measure([mod for _, mod in candidates], best_secs=None) for _ in range(rounds)]
    secs: dict[bool, list[float]] = {False: [], True: []}
    for index, (joins, _) in enumerate(candidates):
        found = [turn[index].measurement for turn in turns]
        if all(each.ok for each in found):
            secs[joins].append(statistics.median(each.latency_secs for each in found))
    apart, together = min(secs[False]), min(secs[True])
    print(spec, apart, together, leads, flush=True)
    return {
        "kernel": spec,
        "apart_secs": apart,
        "in_one_pass_secs": together,
        "share_of_the_time": together / apart,
        "expert_opens_with": JOINED if leads else "as written",
    }


if __name__ == "__main__":
    main()

"""The same 64 candidates built and measured: by our instrument, by TVM's LocalBuilder and LocalRunner, and by those
with two fixes (the quick import of the tensor intrinsics in the builders, one thread per core in the runner).

    python benchmarks/measuring.py [--candidates 64] [--secs 60] [WORKLOAD ...]

It is done in pieces of less than three minutes, each in a process of its own, sides in turns; their outcomes are kept
in results/measuring.pieces, so that it can be interrupted; with `--secs` it stops by itself. TVM's side is timed
without its process' start and import, from the making of the builder to the last latency; ours as well. Its
candidates are built in one go and run 16 a piece, which costs it a new process (a second or two) in each.

The candidates are drawn at random from MetaSchedule's own space. Ours are raced and verified; TVM's are not. The ten
fastest, by our word, are then timed by `plain_harness.py`, which shares no code with this package: each in its turn in
a process of its own, again and again, since where the pages of a process happen to lie decides over a tenth of such a
program's time. The median over processes is what Kendall's τ compares each side's ranking with: once over all ten, once
over those pairs alone whose times in the processes do not overlap. How well the medians of the processes with odd
numbers agree with those of the even ones is given beside it, as a scale for the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import RESULTS, publish

WORKLOADS = ["gemm[512,4096,1024]", "flux-conv[height=64,width=64]"]
PIECES = RESULTS / "measuring.pieces"
RUN_SHARE = 16
HARNESS = Path(__file__).with_name("plain_harness.py")
TOP = 10
TURNS = 8
LIMITS = {"shipped": 1 / 8, "fixed": 1 / 3}


def pieces(num: int) -> list[list[str]]:
    """Returns what there is to do for a workload, in order: the step and its arguments."""
    runs = [[str(start), str(min(num, start + RUN_SHARE))] for start in range(0, num, RUN_SHARE)]
    turns = [[side, *run] for run in runs for side in ("run-fixed", "run-shipped")]
    half = len(turns) // 2
    return [
        ["prepare"],
        ["build-fixed"],
        ["build-shipped"],
        ["ours", "1"],
        *turns[:half],
        ["ours", "2"],
        *turns[half:],
        ["ours", "3"],
        ["careful"],
    ]


def main() -> None:
    """Does what is left, and publishes when nothing is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--secs", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--piece", nargs="+", help="internal: do this one, in this process")
    given = parser.parse_args()
    if given.piece:
        step, *rest = given.piece
        folder = folder_of(given.workloads[0])
        outcome = STEPS[step](given.workloads[0], folder, given.candidates, *rest)
        (folder / ("_".join(given.piece) + ".json")).write_text(json.dumps(outcome) + "\n")
        return
    begun = time.perf_counter()
    nums = {workload: num_of(workload, given.candidates) for workload in given.workloads}
    while left := [(w, p) for w in given.workloads for p in pieces(nums[w]) if not done(w, p)]:
        workload, piece = left[0]
        started = time.perf_counter()
        environment = {k: v for k, v in os.environ.items() if k not in ("TVM_NUM_THREADS", "TVM_BIND_THREADS")}
        if piece[0] == "run-fixed":
            environment["TVM_NUM_THREADS"] = str(cores())
        command = [sys.executable, __file__, workload, "--candidates", str(nums[workload]), "--piece", *piece]
        folder_of(workload).mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, env=environment | {"TMPDIR": str(folder_of(workload))})
        print(f"{workload} {' '.join(piece)}: {time.perf_counter() - started:.0f} s, {len(left) - 1} left", flush=True)
        if time.perf_counter() - begun > given.secs and len(left) > 1:
            return
    publish("measuring", {"rows": [row(workload, nums[workload]) for workload in given.workloads]})
    if set(given.workloads) >= set(WORKLOADS):
        shutil.rmtree(PIECES)


# -- the steps -----------------------------------------------------------------------------------------------------


def prepare(spec: str, folder: Path, num: int) -> dict[str, Any]:
    """Draws the candidates, each another module, and writes them into the folder."""
    from reasoning_compiler.machine import detect, import_tvm, tvm_target
    from reasoning_compiler.space.space import Space
    from reasoning_compiler.workload import parse

    tvm = import_tvm()
    workload = parse(spec)
    space = Space(workload.mod, tvm_target(detect()))
    programs, seed = {}, 0
    while len(programs) < num:
        program = space.sample(seed)
        programs[program.key] = program
        seed += 1
    for number, program in enumerate(programs.values()):
        (folder / f"candidate{number}.json").write_text(tvm.ir.save_json(space.schedule(program).mod))
    return {"target": str(space.target), "candidates": num}


def ours(spec: str, folder: Path, num: int, repeat: str) -> dict[str, Any]:
    """Builds, races and verifies the candidates with our instrument."""
    modules, target = candidates(folder, range(num))
    from reasoning_compiler.core.phases import PhaseTimer
    from reasoning_compiler.measure.executors.local import LocalExecutor
    from reasoning_compiler.measure.instrument import Instrument
    from reasoning_compiler.workload import parse

    workload, clock = parse(spec), PhaseTimer()
    started = time.perf_counter()
    with (
        LocalExecutor(num_threads=cores()) as executor,
        Instrument(workload, target, executor, clock=clock) as instrument,
    ):
        results = [each.measurement for each in instrument.measure(modules, best_secs=None)]
        wall_secs = time.perf_counter() - started
        stages = clock.take()
    return {
        "wall_secs": wall_secs,
        "stage_secs": stages,
        "latencies_secs": [m.latency_secs if m.ok else None for m in results],
        "failures": [f"{m.failure.kind}: {m.failure.message}" for m in results if m.failure],
        "num_cut": sum(m.cut for m in results),
    }


def build(spec: str, folder: Path, num: int, *, fixed: bool) -> dict[str, Any]:
    """Builds the candidates with TVM's builder."""
    modules, target = candidates(folder, range(num))
    from tvm.s_tir import meta_schedule as ms

    from reasoning_compiler.machine import import_tvm

    started = time.perf_counter()
    builder = ms.builder.LocalBuilder(**({"initializer": import_tvm} if fixed else {}))
    results = builder.build([ms.builder.BuilderInput(mod, target) for mod in modules])
    return {
        "wall_secs": time.perf_counter() - started,
        "libraries": [str(result.artifact_path) if result.artifact_path else None for result in results],
        "failures": [str(result.error_msg).strip().splitlines()[0] for result in results if result.error_msg],
    }


def run(spec: str, folder: Path, num: int, start: str, end: str, *, fixed: bool) -> dict[str, Any]:
    """Runs some of the libraries that `build` made with TVM's runner."""
    modules, _ = candidates(folder, range(int(start), int(end)))
    from tvm.s_tir import meta_schedule as ms

    libraries = outcome(folder, "build-fixed" if fixed else "build-shipped")["libraries"][int(start) : int(end)]
    inputs = [
        ms.runner.RunnerInput(library, "cpu", ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True))
        for library, mod in zip(libraries, modules, strict=True)
        if library
    ]
    started = time.perf_counter()
    runner = ms.runner.LocalRunner()
    told = iter([future.result() for future in runner.run(inputs)])
    wall_secs = time.perf_counter() - started
    results = [next(told) if library else None for library in libraries]
    secs = [sorted(map(float, r.run_secs))[len(r.run_secs) // 2] if r and r.run_secs else None for r in results]
    failures = [str(result.error_msg).strip().splitlines()[-1] for result in results if result and result.error_msg]
    return {"wall_secs": wall_secs, "latencies_secs": secs, "failures": failures}


def careful(spec: str, folder: Path, num: int) -> dict[str, Any]:
    """Times the fastest candidates in many fresh processes, in turns."""
    said = outcome(folder, "ours", "1")["latencies_secs"]
    top = sorted((n for n in range(num) if said[n]), key=lambda n: said[n])[:TOP]
    modules, target = candidates(folder, top)
    from reasoning_compiler.measure.executors.local import LocalExecutor
    from reasoning_compiler.measure.instrument import Instrument
    from reasoning_compiler.workload import parse

    with LocalExecutor(num_threads=cores()) as executor, Instrument(parse(spec), target, executor) as instrument:
        # One by one: in one batch those that are slow beside the best would be cut, and their libraries thrown away.
        measured = [each for mod in modules for each in instrument.measure([mod], best_secs=None)]
        commands = [[sys.executable, str(HARNESS), str(each.artifact), str(cores())] for each in measured]
        secs: list[list[float]] = [[] for _ in top]
        for turn in range(TURNS):
            for i in range(len(top)) if turn % 2 == 0 else reversed(range(len(top))):
                done = subprocess.run(commands[i], capture_output=True, text=True, check=True)
                secs[i].append(float(done.stdout))
    return {"top": top, "process_secs": secs}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "ours": ours,
    "careful": careful,
    "build-fixed": lambda *args: build(*args, fixed=True),
    "build-shipped": lambda *args: build(*args, fixed=False),
    "run-fixed": lambda *args: run(*args, fixed=True),
    "run-shipped": lambda *args: run(*args, fixed=False),
}


# -- what they share -----------------------------------------------------------------------------------------------


def row(spec: str, num: int) -> dict[str, Any]:
    """Returns what all pieces of a workload come to."""
    folder = folder_of(spec)
    mine = [outcome(folder, "ours", repeat) for repeat in ("1", "2", "3")]
    wall_secs = sorted(each["wall_secs"] for each in mine)
    truth = outcome(folder, "careful")
    secs = {
        "workload": spec,
        "candidates": num,
        "ours": {
            "wall_secs": wall_secs,
            "stage_secs": mine[0]["stage_secs"],
            "cut": mine[0]["num_cut"],
            "failures": mine[0]["failures"],
            "tau": [ranking(each["latencies_secs"], truth) for each in mine],
        },
        "careful": {
            "latencies_secs": [statistics.median(secs) for secs in truth["process_secs"]],
            "process_secs": truth["process_secs"],
            "tau_with_itself": with_itself(truth),
        },
    }
    for side, limit in LIMITS.items():
        built = outcome(folder, f"build-{side}")
        ran = [outcome(folder, *piece) for piece in pieces(num) if piece[0] == f"run-{side}"]
        latencies = [secs for each in ran for secs in each["latencies_secs"]]
        run_secs = sum(each["wall_secs"] for each in ran)
        total = built["wall_secs"] + run_secs
        secs[side] = {
            "build_secs": built["wall_secs"],
            "run_secs": run_secs,
            "wall_secs": total,
            "failures": [*built["failures"], *(why for each in ran for why in each["failures"])],
            "ours_share": wall_secs[1] / total,
            "limit": limit,
            "within_limit": wall_secs[1] / total <= limit,
            "tau": ranking(latencies, truth),
        }
    return secs


def ranking(said: list[float | None], truth: dict[str, Any]) -> dict[str, float | None]:
    """Returns how a side's latencies rank the ten fastest: Kendall's τ over all pairs, and over those clearly apart."""
    from reasoning_compiler.core.statistics import kendall_tau

    pairs = zip(truth["top"], truth["process_secs"], strict=True)
    known = [(latency, secs) for n, secs in pairs if (latency := said[n])]
    clear = [(a, b) for a, b in itertools.combinations(known, 2) if max(a[1]) < min(b[1]) or max(b[1]) < min(a[1])]
    agreeing = sum((a[0] < b[0]) == (max(a[1]) < min(b[1])) for a, b in clear)
    over_all = kendall_tau([a for a, _ in known], [statistics.median(secs) for _, secs in known]) if known else None
    return {"all": over_all, "clear": 2 * agreeing / len(clear) - 1 if clear else None, "clear_pairs": len(clear)}


def with_itself(truth: dict[str, Any]) -> float | None:
    """Returns Kendall's τ between the medians of every other process and those of the rest."""
    from reasoning_compiler.core.statistics import kendall_tau

    return kendall_tau(*([statistics.median(secs[start::2]) for secs in truth["process_secs"]] for start in (0, 1)))


def candidates(folder: Path, numbers: Any) -> tuple[list[Any], Any]:
    """Returns candidates as modules, and the target that they are for."""
    import tvm

    target = tvm.target.Target(json.loads(outcome(folder, "prepare")["target"]))
    return [tvm.ir.load_json((folder / f"candidate{n}.json").read_text()) for n in numbers], target


def folder_of(workload: str) -> Path:
    return PIECES / "".join(c if c.isalnum() else "-" for c in workload).strip("-")


def outcome(folder: Path, *piece: str) -> dict[str, Any]:
    return json.loads((folder / ("_".join(piece) + ".json")).read_text())


def num_of(workload: str, wanted: int) -> int:
    """Returns how many candidates a workload has that was begun before, or how many are wanted."""
    begun = done(workload, ["prepare"])
    return outcome(folder_of(workload), "prepare")["candidates"] if begun else wanted


def done(workload: str, piece: list[str]) -> bool:
    return (folder_of(workload) / ("_".join(piece) + ".json")).exists()


def cores() -> int:
    from reasoning_compiler.machine import num_physical_cores

    return num_physical_cores()


if __name__ == "__main__":
    main()

"""Runs for the tests of journal and report: one told by hand, and any that hypothesis can think of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from reasoning_compiler.core.costs import typical_costs
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Comparison, Failure, Measurement, Noise
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, Program, Transformation
from reasoning_compiler.core.steps import Step
from reasoning_compiler.journal import Header, Journal, Rejected, Run, read_run
from reasoning_compiler.journal.format import read_events

_TIME_FIELDS = ("at_secs", "stage_secs", "secs", "created")
_MEASUREMENT_FIELDS = ("measurement", "confirmed", "untuned")
_MEASUREMENT_TIME_FIELDS = ("build_secs", "run_secs")

MACHINE = Machine(
    name="Xeon Cascade Lake",
    num_cores=2,
    isa="avx512",
    vector_bytes=64,
    num_vector_registers=32,
    fma_per_cycle=2,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=36 << 20,
    cache_line_bytes=64,
    peak_flops=300e9,
    bandwidth_bytes_per_sec=26e9,
    target='{"kind":"llvm"}',
    costs=typical_costs("avx512"),
    measured=True,
    features=("avx512f", "fma"),
)


def canonical_lines(folder: Path) -> list[str]:
    """Returns a run's events as JSON texts, without anything that a clock said of the run itself.

    Latencies stay: a replayed or simulated measurement gives the same ones.
    """
    return [json.dumps(_without_times(event), sort_keys=True) for _, event in read_events(folder)]


def _without_times(event: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in event.items() if name not in _TIME_FIELDS}
    for name in _MEASUREMENT_FIELDS:
        if kept.get(name):
            kept[name] = {n: v for n, v in kept[name].items() if n not in _MEASUREMENT_TIME_FIELDS}
    return kept


def batches(run: Run) -> list[tuple[int, ...]]:
    """Returns the nodes of each batch that was chosen for measurement."""
    return [event for event in run.events if isinstance(event, tuple)]


def header(**changes: Any) -> Header:
    fields = {
        "task": "gemm",
        "workload": "gemm",
        "spec": "gemm[512,4096,1024]",
        "key": "00ff",
        "flops": 2.0 * 512 * 4096 * 1024,
        "bytes": 4.0 * (512 * 1024 + 1024 * 4096 + 512 * 4096),
        "machine": MACHINE,
        "fingerprint": {"tvm": "0.27.0", "threads": 2},
        "config": {"seed": 7, "samples": 16, "proposer": "expert"},
        "command": "reasonc tune gemm[512,4096,1024] --samples 16",
    }
    return Header(**(fields | changes))


def ok(*secs: float, **changes: Any) -> Measurement:
    return Measurement(latencies_secs=secs, **({"verified": True} | changes))


def failed(kind: str, message: str = "") -> Measurement:
    return Measurement(failure=Failure(kind, message))


def step(node: int, parent: int | None = 0, **changes: Any) -> Step:
    if parent is None:
        return Step(node, None, UNTUNED)
    program = changes.pop("program", Program((("C", "tiled"),), (("C.i tile", (node, 2)), ("unroll", 16))))
    edit = Transformation((("unroll", 16),))
    fields = {"transformation": edit, "proposer": "expert", "reasoning": f"try {node}"}
    return Step(node, parent, program, **(fields | changes))


class OneTask:
    """A journal of a session with one task: the methods of both."""

    def __init__(self, journal: Journal, task: str) -> None:
        self.journal, self.of_task = journal, journal.task(task)

    def rejected(self, *args: Any, **options: Any) -> None:
        self.of_task.expanded([], [Rejected(*args, **options)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of_task if hasattr(self.of_task, name) else self.journal, name)

    def __enter__(self) -> OneTask:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()


def new_journal(folder: Path, told: Header | None = None) -> OneTask:
    """Returns the journal of a new session with one task."""
    told = told or header()
    return OneTask(Journal.create(folder, [told]), told.task)


def old_journal(folder: Path) -> OneTask:
    """Returns the journal of a session with one task that is gone on with."""
    journal = Journal.resume(folder)
    return OneTask(journal, read_run(folder).header.task)


def write_gemm(folder: Path) -> None:
    """Writes a run of seven samples: improvements, a detour, failures, refusals and a confirmed end."""
    tiled = Program(
        (("C", "tiled, written through a cache"),),
        (
            ("C.i tile", (8, 1, 64, 1)),
            ("C.j tile", (16, 4, 1, 64)),
            ("C.k tile", (64, 16)),
            ("unroll", 16),
            ("C_local at", 4),
        ),
    )

    def variant(**values: Any) -> Program:
        names = {"i": "C.i tile", "k": "C.k tile", "unroll": "unroll"}
        new = {names[name]: value for name, value in values.items()}
        return Program(tiled.structure, tuple((n, new.get(n, v)) for n, v in tiled.decisions))

    def edit(expectation: str, **values: Any) -> Transformation:
        return Transformation(tuple(values.items()), expectation)

    with new_journal(folder) as journal:
        journal.node(step(0, None))
        journal.measured(0, ok(0.412, 0.409, 0.42, 0.411, 0.415))
        journal.node(
            step(
                1,
                0,
                program=tiled,
                transformation=edit("a fifth of the peak", C="tiled"),
                predicted_secs=0.07,
                reasoning="Sixteen lanes of j fill a vector; a tile of 1×64 keeps four accumulators in "
                "registers, and a block of 64 rows of A stays in the second-level cache.",
            )
        )
        journal.node(step(2, 0, program=variant(unroll=0), proposer="random", reasoning="", predicted_secs=0.15))
        journal.rejected(0, "random", transformation=edit("", **{"C.i tile": (3, 1, 1, 1)}), why="product 3, not 512")
        journal.asked([1, 2])
        journal.measured(1, ok(0.067, 0.066, 0.069, build_secs=0.4, run_secs=0.5))
        journal.measured(2, ok(0.31, cut=True, verified=False))
        journal.stages({"propose": 0.4, "build": 6.5, "run": 9.0})

        fewer = variant(i=(8, 4, 16, 1))
        journal.node(
            step(
                3,
                1,
                program=fewer,
                transformation=edit("", **{"C.i tile": (8, 4, 16, 1)}),
                predicted_secs=0.05,
                reasoning="Blocks of 16 rows, so that a panel of B is read from the near cache.",
            )
        )
        journal.node(step(4, 1, program=variant(unroll=512), predicted_secs=0.045))
        journal.rejected(1, "random", transformation=None, why="nothing left to propose")
        journal.node(step(5, 1, program=variant(k=(1024, 1)), predicted_secs=0.2))
        journal.asked([3, 4, 5])
        journal.measured(3, failed("timeout", "ran longer than 10 s"))
        journal.measured(4, ok(0.036, 0.0352, 0.0361))
        journal.measured(5, failed("crash"))
        journal.stages({"propose": 0.1, "build": 9.1, "run": 3.25})

        journal.node(
            step(
                6,
                3,
                program=variant(i=(8, 4, 16, 1), unroll=64),
                transformation=edit("close to 100 GFLOP/s", unroll=64),
                predicted_secs=0.04,
                reasoning="The k loop of the register tile is short: unroll it whole.",
            )
        )
        journal.node(step(7, 4, proposer="random", predicted_secs=0.1))
        journal.asked([6, 7])
        journal.measured(6, ok(0.0242, 0.0239, 0.0247))
        journal.measured(7, ok(0.09, 0.088))
        journal.stages({"build": 2.0, "run": 1.5, "wait": 0.01})
        confirmed = ok(0.0241, 0.024, 0.0244)
        same = Comparison("no difference", ratio=1.0012, low=0.9961, high=1.0049, num_pairs=12)
        journal.noise(Noise(same, spread=0.004, drift=(1.002, 0.998, 1.13), left_out=("large",)))
        journal.finished("samples", best=6, confirmed=confirmed, untuned=ok(0.413, 0.41, 0.414))


# -- any run -----------------------------------------------------------------------------------------------

words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["\ud800", "\x1b[2J\x07", "a\nb\r\nc", "\u2028\u202e", '"\\', "\0", "word " * 99]),
)
seconds = st.floats(1e-9, 1e4)
values = st.one_of(st.integers(-1, 10**6), words, st.lists(st.integers(1, 4096), max_size=5).map(tuple))
arguments = st.one_of(words, st.none(), st.integers(0, 99), st.lists(st.none() | words | st.integers()).map(tuple))
primitives = st.lists(st.builds(Primitive, words, st.lists(arguments, max_size=3).map(tuple)), max_size=2).map(tuple)
programs = st.builds(
    Program,
    st.lists(st.tuples(words, words), max_size=2).map(tuple),
    st.lists(st.tuples(words, values), max_size=4).map(tuple),
    primitives,
)
transformations = st.builds(
    Transformation, st.lists(st.tuples(words, values), max_size=3).map(tuple), words, primitives=primitives
)
kinds = st.sampled_from(["illegal", "build", "crash", "timeout", "wrong_result", "nonfinite", "device"])
measurements = st.one_of(
    st.builds(Measurement, failure=st.builds(Failure, kinds, words), build_secs=seconds),
    st.builds(
        Measurement,
        latencies_secs=st.lists(seconds, min_size=1, max_size=6).map(tuple),
        cut=st.booleans(),
        verified=st.booleans(),
        run_secs=seconds,
    ),
)
event_kinds = st.sampled_from(
    ["node", "node", "node", "asked", "measured", "measured", "rejected", "stages", "finished"]
)
stage_secs = st.dictionaries(st.sampled_from(["propose", "build", "run"]), seconds, max_size=3)


@dataclass(frozen=True)
class Event:
    """One call of a journal's method."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def tell(self, journal: OneTask) -> None:
        getattr(journal, self.method)(*self.args, **self.options)


@st.composite
def scripts(draw: st.DrawFn) -> list[Event]:
    """Draws the events of a run, header aside, in an order that makes sense."""
    events: list[Event] = []

    def add(method: str, *args: Any, **options: Any) -> None:
        events.append(Event(method, args, options))

    num_nodes = 0
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(event_kinds)
        known = st.integers(0, num_nodes - 1) if num_nodes else None
        if kind == "node" and known is None:
            add("node", step(0, None))
            num_nodes = 1
        elif kind == "node":
            new = Step(
                node=num_nodes,
                parent=draw(known),
                program=draw(programs),
                transformation=draw(transformations),
                proposer=draw(st.sampled_from(["expert", "random", "a\nb"])),
                reasoning=draw(words),
                predicted_secs=draw(st.none() | seconds),
            )
            add("node", new)
            num_nodes += 1
        elif kind == "stages":
            add("stages", draw(stage_secs))
        elif known is None:
            continue
        elif kind == "asked":
            add("asked", draw(st.lists(known, max_size=3)))
        elif kind == "measured":
            add("measured", draw(known), draw(measurements))
        elif kind == "rejected":
            add(
                "rejected",
                draw(known),
                draw(st.sampled_from(["expert", "random"])),
                transformation=draw(st.none() | transformations),
                why=draw(words),
            )
        else:
            add(
                "finished",
                draw(words),
                best=draw(st.none() | known),
                confirmed=draw(st.none() | measurements),
                untuned=draw(st.none() | measurements),
            )
    return events

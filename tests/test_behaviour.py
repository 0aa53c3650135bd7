"""What the search does on ten workloads and three machine presets, node by node, beside the golden file.

Latencies are invented from the analysis and the program's key, so a run needs no hardware. Learned predictions may
differ in their last digits from one CPU to another, and so what is measured next: compare on one machine.
A change that is meant to change nothing leaves the file alone; one that is meant to shows what it changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from reasoning_compiler import workload as workloads
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.steps import Step
from reasoning_compiler.machine.presets import preset
from reasoning_compiler.search.protocol import Refused
from reasoning_compiler.session.settings import Settings
from reasoning_compiler.session.spaces import make_space, with_threads
from reasoning_compiler.session.task import Task
from space_kernels import conv2d, depthwise, layer_norm, softmax

pytestmark = pytest.mark.tvm

PRESETS = ("core-i9", "xeon-8480", "graviton2")
NAMED = (
    "llama3-attention[seq_len=64]",
    "flux-attention[text_len=32,image_tokens=96]",
    "flux-conv[height=16,width=16]",
    "llama4-mlp[tokens=16]",
    "gemm[197,768,768]",
    "gemm[1,4096,4096]",
)
OWN = {
    "conv2d": lambda: conv2d(17, 16, 32),
    "depthwise": lambda: depthwise(16, 32),
    "softmax": lambda: softmax(64, 256),
    "layer_norm": lambda: layer_norm(64, 256),
}
SAMPLES = 12
_LOST = 0.93  # of the programs, those above it crash


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def invented(program: Program, secs: float) -> Measurement:
    """Returns a latency that the analysis' seconds and the program alone decide, or a failure."""
    draw = int(digest(program.key)[:6], 16) / 0xFFFFFF
    if draw > _LOST:
        return Measurement(failure=Failure("crash", "invented"))
    return Measurement((secs * (0.7 + 0.9 * draw),) * 3, verified=True)


def behaviour(name: str, machine: Machine, proposer: str) -> Iterator[str]:
    workload = workloads.from_tvm(OWN[name]().mod) if name in OWN else workloads.parse(name)
    settings = Settings(samples=SAMPLES, proposer=proposer, seed=3)
    steps: list[Step] = []
    refused: list[Any] = []

    def on_expanded(node: int, added: Sequence[Step], rejected: Sequence[Refused]) -> None:
        steps.extend(added)
        refused.extend((node, *each) for each in rejected)

    machine = with_threads(machine, machine.num_cores)
    task = Task(name, workload, machine, settings, make_space(workload, machine, settings), on_expanded=on_expanded)
    search = task.search
    num = 0
    while num < SAMPLES and (batch := search.ask(min(4, SAMPLES - num))):
        search.tell([(step.node, invented(step.program, task.analyze(step.program).secs)) for step in batch])
        num += len(batch)
        yield f"  asked {' '.join(str(step.node) for step in batch)}"
    for step in steps:
        analysis = task.analyze(step.program)
        edge = json.dumps(step.transformation.to_json()) if step.transformation else ""
        code = task.space.schedule(step.program)
        yield (
            f"  {step.node} of {step.parent}: {step.program.key} by {step.proposer}, edge {digest(edge)}, "
            f"because {digest(step.reasoning)}, predicted {step.predicted_secs or 0:.3e}, "
            f"analysed {analysis.secs:.6e} {digest(analysis.describe(min_share=0))}, "
            f"trace {digest(json.dumps(code.trace.as_json(), default=str))}, code {digest(code.mod.script())}"
        )
    for told in refused:
        yield f"  refused {digest(repr(told))}"


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*NAMED, *OWN])
def test_behaviour_is_as_it_was(name: str, golden: Any) -> None:
    lines = []
    for machine in PRESETS:
        for proposer in ("expert", "random"):
            lines += [f"{name} on {machine}, {proposer}", *behaviour(name, preset(machine), proposer)]
    file = re.sub(r"\W+", "-", name).strip("-")
    golden(f"behaviour/{file}.txt", "\n".join(lines) + "\n")

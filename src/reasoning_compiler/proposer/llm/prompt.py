"""The prompt: from records to text, by pure functions.

The system text is the same in every call of a run, so that providers can cache it: the task and the form of
the answer, the machine, the program. The user's text is about one node (`node.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.proposer.llm.calls import Message, estimate_tokens
from reasoning_compiler.proposer.llm.language import language_text
from reasoning_compiler.proposer.llm.node import ProgramFacts, node_text
from reasoning_compiler.proposer.llm.settings import DEFAULT_PROMPT_TOKENS
from reasoning_compiler.proposer.llm.shorten import shorten
from reasoning_compiler.proposer.llm.values import clip
from reasoning_compiler.proposer.protocol import Context

if TYPE_CHECKING:
    from reasoning_compiler.cost.tiling import TileGroup

PROMPT_VERSION = "4"
"""Changes with every change of the text; transcripts name it."""

_PROGRAM_SHARE = 0.4
_MIN_PROGRAM_TOKENS = 150
_MIN_NODE_TOKENS = 700
_MIN_TOKENS_WITH_PRIMITIVES = 2_500
_MAX_ANALYSIS_CHARS = 2_000

_TASK = """\
You are the proposal engine of an autotuning compiler. You read a tensor program, the decisions that its schedule \
leaves open and what was measured, and propose the next transformations of one program of the search: new values \
for some of its decisions. Each proposal is checked, compiled, verified and timed.

HOW TO ANSWER
Reason step by step, in at most 300 words: what limits this program (vectors and register tile, working sets \
against caches, memory traffic, work per core, loop overhead, code size), what the measurements say about it, what \
follows. Then end with one JSON object and nothing after it:
{"transformations": [{"edits": {"<decision>": <value>, ...}, "expect": "<what gets better and why>"}, ...]}
- "edits" holds the decisions that change, one or many, by their exact names; the others keep their values.
- A tile's value is the list of its factors, outermost loop first; their product must equal the extent. Other values \
are those listed for the decision; a location may go by its loop's name. Anything else makes the transformation \
worthless.
- The best first; different in their idea, not in one factor; no program that was measured, proposed or refused \
before."""


@dataclass(frozen=True)
class Kernel:
    """What a prompt says of the workload, the same in every call.

    Args:
        name: the workload's name.
        program_text: the untuned kernel as TVMScript.
        flops: its floating-point operations; 0 where unknown.
        arguments: its arguments.
        notes: what else a reader needs to understand the decisions, as the order of the tiles' loops.
        takes_primitives: whether its space takes primitives beside decisions.
        example: primitives in the kernel's own names that its start program takes.
        peak: what the machine can do at best of its types; None for float32's multiply-adds.
    """

    name: str
    program_text: str
    flops: float = 0.0
    arguments: tuple[Argument, ...] = ()
    notes: str = ""
    takes_primitives: bool = False
    example: tuple[Primitive, ...] = ()
    peak: Peak | None = None

    def peak_flops(self, machine: Machine) -> float:
        """Returns that in operations per second."""
        return machine.peak_flops if self.peak is None else self.peak.flops


def build_prompt(
    context: Context,
    num: int,
    facts: ProgramFacts,
    *,
    kernel: Kernel,
    machine: Machine,
    refused: Sequence[tuple[Transformation, str]] = (),
    context_depth: int = 2,
    max_tokens: int = DEFAULT_PROMPT_TOKENS,
) -> tuple[Message, Message]:
    """Returns the system's and the user's message that ask for `num` transformations of the context's node.

    Args:
        context: what the search knows.
        num: how many transformations to ask for, ≥ 1.
        facts: of the node's program.
        kernel: the workload.
        machine: what it runs on.
        refused: what was proposed for the node and refused before it came to the search, and why.
        context_depth: how many ancestors to tell of. The paper tells of two, the parent and the grandparent.
        max_tokens: about how long the prompt may be. The program gives way first, then results of other
            nodes; the decision table stays whole.
    """
    system = system_text(kernel, machine, max_tokens=max_tokens)
    rest = max_tokens - estimate_tokens(system)
    if max_tokens < _MIN_TOKENS_WITH_PRIMITIVES:
        facts = replace(facts, blocks=())
    user = ""
    for num_results, depth in ((5, context_depth), (3, context_depth), (2, min(context_depth, 1)), (0, 0)):
        user = node_text(
            context,
            num,
            replace(facts, analysis=clip(facts.analysis, _MAX_ANALYSIS_CHARS * (num_results + 1) // 6)),
            flops=kernel.flops,
            peak_flops=kernel.peak_flops(machine),
            refused=refused,
            context_depth=depth,
            num_results=num_results,
        )
        if estimate_tokens(user) <= rest:
            break
    return Message("system", system), Message("user", user)


def system_text(kernel: Kernel, machine: Machine, *, max_tokens: int = DEFAULT_PROMPT_TOKENS) -> str:
    """Returns the part of the prompt that is the same for every node of a run."""
    facts = []
    if kernel.flops:
        at_peak = f"{kernel.flops / kernel.peak_flops(machine) * 1e3:.3g} ms at peak"
        by = f" by {kernel.peak.instruction}" if kernel.peak is not None and kernel.peak.instruction else ""
        facts.append(f"{kernel.flops / 1e9:.3g} GFLOP, {at_peak}{by}")
    weights = [a.name for a in kernel.arguments if a.role == "weight"]
    if weights:
        facts.append(f"constant weights: {', '.join(weights)}")
    header = f"PROGRAM {kernel.name}" + (f" ({'; '.join(facts)})" if facts else "")
    with_primitives = kernel.takes_primitives and max_tokens >= _MIN_TOKENS_WITH_PRIMITIVES
    language = f"\n\n{language_text(kernel.example)}" if with_primitives else ""
    before = f"{_TASK}{language}\n\nMACHINE\n{machine_text(machine)}\n\n{header}\n"
    after = f"\n\nNOTES\n{kernel.notes.strip()}" if kernel.notes.strip() else ""
    room = max_tokens - estimate_tokens(before + after) - _MIN_NODE_TOKENS
    program = shorten(kernel.program_text, max(min(room, int(max_tokens * _PROGRAM_SHARE)), _MIN_PROGRAM_TOKENS))
    return before + program + after


def machine_text(machine: Machine) -> str:
    """Returns the machine in numbers."""
    caches = [f"L1d {_bytes(machine.l1_bytes)} and L2 {_bytes(machine.l2_bytes)} per core"]
    if machine.l3_bytes:
        caches.append(f"L3 {_bytes(machine.l3_bytes)} shared")
    peaks = "measured here" if machine.measured else "published"
    return (
        f"{machine.name}: {machine.num_cores} cores, {machine.isa}, vectors of {machine.vector_bytes} bytes "
        f"({machine.vector_bytes // 4} float32), {machine.num_vector_registers} vector registers, "
        f"{machine.fma_per_cycle} vector FMA per cycle and core; {', '.join(caches)}; "
        f"peak {machine.peak_flops / 1e9:.4g} GFLOP/s float32, "
        f"memory {machine.bandwidth_bytes_per_sec / 1e9:.3g} GB/s ({peaks}). "
        "TVM schedules, LLVM generates the code."
    )


def tiling_notes(groups: Iterable[TileGroup]) -> str:
    """Returns how the tiled blocks' loops are ordered, and which of them run in parallel or as vectors."""
    lines = []
    limits: list[str] = []
    for group in groups:
        kinds: dict[str, list[str]] = {"S": [], "R": []}
        for loop in group.nest.loops:
            kinds["R" if loop.reduces else "S"].append(loop.name)
        counts = {"S": 0, "R": 0}
        levels = []
        for kind in group.structure:
            levels.append(" ".join(f"{name}_{counts[kind]}" for name in kinds[kind]))
            counts[kind] += 1
        where = "".join(f" and {name} is {value!r}" for name, value in group.needs)
        lines.append(f"Loops of {group.block} when tiled{where}, outermost first: {' | '.join(levels)}.")
        limits.append(f"up to {group.max_jobs} jobs; the innermost loop is vectorized, up to {group.max_vector} long.")
    if lines:
        lines.append("x_0 is the first factor of x's tile, and so on.")
        lines += [f"The outermost spatial loops run in parallel, {limit}" for limit in dict.fromkeys(limits)]
    return "\n".join(lines)


def repair_text(faults: Mapping[int, str], num: int) -> str:
    """Returns the message that says what was wrong with an answer and asks for `num` replacements.

    Args:
        faults: by the proposal's number in the answer, 0 for the answer as a whole.
        num: how many transformations to ask for, ≥ 1.
    """
    told = [f"- proposal {number}: {why}" if number else f"- {why}" for number, why in faults.items()]
    plural = "transformation" if num == 1 else f"{num} transformations"
    return (
        "Not usable:\n"
        + "\n".join(clip(line, 700) for line in told[:8])
        + f"\n\nGive {'a ' if num == 1 else ''}{plural} in place of that: a few words of reasoning, "
        'then only the JSON object {"transformations": [{"edits": {...}, "expect": "..."}]}.'
    )


def _bytes(count: int) -> str:
    return f"{count / 2**20:g} MB" if count >= 2**20 else f"{count / 2**10:g} KB"

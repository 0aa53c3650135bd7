"""A 3x3 convolution as the search would show it: kernel, machine, decision table, a path of three nodes."""

from __future__ import annotations

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.costs import typical_costs
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.measurements import Failure, Measurement
from reasoning_compiler.core.primitives import Primitive
from reasoning_compiler.core.programs import UNTUNED, ChoiceDomain, Decision, Program, TileDomain, Transformation, Value
from reasoning_compiler.core.steps import Step
from reasoning_compiler.proposer.llm.prompt import Kernel
from reasoning_compiler.proposer.protocol import Context, Rejection
from reasoning_compiler.space.named import NamedBlock, NamedLoop

MACHINE = Machine(
    name="Xeon (Cascade Lake)",
    num_cores=2,
    isa="avx512",
    vector_bytes=64,
    num_vector_registers=32,
    fma_per_cycle=2,
    l1_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=36 * 1024 * 1024,
    cache_line_bytes=64,
    peak_flops=300e9,
    bandwidth_bytes_per_sec=25e9,
    target="{}",
    costs=typical_costs("avx512"),
    measured=True,
)

PROGRAM_TEXT = """\
# from tvm.script import tirx as T

@T.prim_func(s_tir=True)
def main(x: T.Buffer((1, 64, 64, 512), "float32"), w: T.Buffer((3, 3, 512, 512), "float32"), conv2d: T.Buffer((1, 64, 64, 512), "float32")):
    T.func_attr({"layout_free_buffers": [1], "tirx.noalias": True})
    # with T.sblock("root"):
    pad = T.sblock_alloc_buffer((1, 66, 66, 512))
    for i0, i1, i2, i3 in T.grid(1, 66, 66, 512):
        with T.sblock("pad"):
            v_i0, v_i1, v_i2, v_i3 = T.axis.remap("SSSS", [i0, i1, i2, i3])
            T.reads(x[v_i0, v_i1 - 1, v_i2 - 1, v_i3])
            T.writes(pad[v_i0, v_i1, v_i2, v_i3])
            pad[v_i0, v_i1, v_i2, v_i3] = T.if_then_else(1 <= v_i1 and v_i1 < 65 and 1 <= v_i2 and v_i2 < 65, x[v_i0, v_i1 - 1, v_i2 - 1, v_i3], T.float32(0.0))
    for n, h, w_1, co, rh, rw, rc in T.grid(1, 64, 64, 512, 3, 3, 512):
        with T.sblock("conv2d"):
            v_n, v_h, v_w, v_co, v_rh, v_rw, v_rc = T.axis.remap("SSSSRRR", [n, h, w_1, co, rh, rw, rc])
            T.reads(pad[v_n, v_h + v_rh, v_w + v_rw, v_rc], w[v_rh, v_rw, v_rc, v_co])
            T.writes(conv2d[v_n, v_h, v_w, v_co])
            with T.init():
                conv2d[v_n, v_h, v_w, v_co] = T.float32(0.0)
            conv2d[v_n, v_h, v_w, v_co] = conv2d[v_n, v_h, v_w, v_co] + pad[v_n, v_h + v_rh, v_w + v_rw, v_rc] * w[v_rh, v_rw, v_rc, v_co]
"""  # noqa: E501

KERNEL = Kernel(
    name="conv3x3",
    program_text=PROGRAM_TEXT,
    flops=19.3e9,
    arguments=(
        Argument("x", (1, 64, 64, 512), "float32", "input"),
        Argument("w", (3, 3, 512, 512), "float32", "weight"),
        Argument("conv2d", (1, 64, 64, 512), "float32", "output"),
    ),
    notes=(
        "Tiled blocks have the loop order S S R S R S: all first factors of the spatial loops, all second "
        "ones, the first ones of the reductions, the third spatial ones, the second of the reductions, the "
        "fourth spatial ones. The outermost spatial loops are fused and run in parallel; the innermost is "
        "vectorized."
    ),
    takes_primitives=True,
    example=(
        Primitive("cache_read", ("conv2d", "pad", "global")),
        Primitive("transform_layout", ("conv2d", "pad_global", ("3", "0", "1", "2"))),
    ),
)

_TILED = {"n_0": 1, "h_0": 16, "h_1": 4, "w_1": 4, "co_1": 8, "rh_0": 3, "rc_0": 16, "co_3": 64}
BLOCKS = (
    NamedBlock(
        "pad", tuple(NamedLoop(f"i{i}", n, False) for i, n in enumerate((1, 66, 66, 512))), ("x",), 4, "pad", ((),)
    ),
    NamedBlock(
        "conv2d",
        tuple(NamedLoop(x, n, x.startswith("r")) for x, n in _TILED.items()),
        ("pad", "w"),
        4,
        "conv2d",
        (("n", "", "", "rc"), ("rh", "rw", "rc", "co")),
    ),
)

ANALYSIS = """\
register tile 4 x 64 = 16 accumulators of 32 registers
working set: inner reduction 18 KB (L1 32 KB), one outer tile 2.4 MB (L2 1 MB)
innermost loop contiguous in w and conv2d; parallel grain 16 tasks for 2 cores
each weight chunk is used for 16 positions before the next one"""

_DOMAINS: dict[str, TileDomain] = {
    "conv2d.n tile": TileDomain(1, 4, max_innermost=64),
    "conv2d.h tile": TileDomain(64, 4, max_innermost=64),
    "conv2d.w tile": TileDomain(64, 4, max_innermost=64),
    "conv2d.co tile": TileDomain(512, 4, max_innermost=64),
    "conv2d.rh tile": TileDomain(3, 2, max_innermost=64),
    "conv2d.rw tile": TileDomain(3, 2, max_innermost=64),
    "conv2d.rc tile": TileDomain(512, 2, max_innermost=64),
}
_STRUCTURE = ChoiceDomain(
    ("tiled", "cached", "cached-outer"),
    (
        "tiled, accumulates in the output",
        "tiled with a local cache buffer",
        "the same, written back further out",
    ),
)
_PAD_AT = ChoiceDomain((-1, 4, 8, 10), ("root, computed before", "at co0", "at co1", "at rw0"))
_UNROLL = ChoiceDomain((0, 16, 64, 512))

START: dict[str, Value] = {
    "conv2d": "tiled",
    "conv2d.n tile": (1, 1, 1, 1),
    "conv2d.h tile": (64, 1, 1, 1),
    "conv2d.w tile": (1, 16, 1, 4),
    "conv2d.co tile": (1, 8, 1, 64),
    "conv2d.rh tile": (3, 1),
    "conv2d.rw tile": (1, 3),
    "conv2d.rc tile": (16, 32),
    "unroll": 16,
    "pad at": -1,
}


def table(values: dict[str, Value]) -> tuple[Decision, ...]:
    """Returns the decision table with the given present values."""
    decisions = [Decision("conv2d", "structure", _STRUCTURE, values["conv2d"])]
    decisions += [Decision(n, "tile", domain, values[n]) for n, domain in _DOMAINS.items()]
    decisions.append(Decision("unroll", "choice", _UNROLL, values["unroll"], role="unroll"))
    decisions.append(Decision("pad at", "location", _PAD_AT, values["pad at"]))
    return tuple(decisions)


def program(values: dict[str, Value]) -> Program:
    """Returns the program with the given values."""
    return Program(
        structure=(("conv2d", str(values["conv2d"])),),
        decisions=tuple((n, v) for n, v in values.items() if n != "conv2d"),
    )


def step(
    node: int,
    parent: int | None,
    values: dict[str, Value],
    edits: dict[str, Value],
    secs: float | None,
    **kwargs,
) -> Step:
    """Returns a node whose measurement took `secs`; None for one that was not measured."""
    measurement = None if secs is None else Measurement((secs,), verified=True)
    transformation = Transformation(tuple(edits.items()), kwargs.pop("expectation", ""))
    kwargs = {"proposer": "llm", "measurement": measurement} | kwargs
    return Step(node, parent, program(values), transformation, **kwargs)


UNTUNED_STEP = Step(0, None, UNTUNED, measurement=Measurement((21.5,), verified=True))


def conv_context() -> Context:
    """Returns the context of node 5: measured, with ancestors, a better cousin, a failure and a refusal."""
    first_edits: dict[str, Value] = {}
    first = step(1, 0, START, first_edits, 0.264, proposer="expert", predicted_secs=0.31)
    second_edits: dict[str, Value] = {
        "conv2d.h tile": (16, 4, 1, 1),
        "conv2d.w tile": (1, 4, 4, 4),
        "unroll": 64,
    }
    second = START | second_edits
    node = step(
        5, 1, second, second_edits, 0.155, predicted_secs=0.17,
        expectation="weights are used four times as often before they leave L2",
    )  # fmt: skip
    best_edits: dict[str, Value] = {
        "conv2d.h tile": (16, 1, 4, 1),
        "conv2d.w tile": (1, 1, 16, 4),
        "unroll": 64,
    }
    best = step(7, 1, START | best_edits, best_edits, 0.105)
    cached_edits: dict[str, Value] = {"conv2d": "cached"}
    cached = step(8, 5, second | cached_edits, cached_edits, 0.217)
    wide_edits: dict[str, Value] = {"conv2d.co tile": (16, 1, 1, 32)}
    wide = step(3, 1, START | wide_edits, wide_edits, 0.333)
    broken_edits: dict[str, Value] = {"unroll": 512}
    failure = Measurement(failure=Failure("timeout", "built longer than 30 s"))
    broken = step(4, 1, START | broken_edits, broken_edits, None, measurement=failure)
    refused_edits = (("pad at", 10), ("conv2d.rh tile", (1, 3)))
    refused = Rejection(Transformation(refused_edits), "pad is used at an outer loop too")
    return Context(
        lineage=(node, first, UNTUNED_STEP),
        table=table(second),
        children=(cached,),
        best=best,
        measured=(UNTUNED_STEP, first, wide, broken, node, best, cached),
        rejected=(refused,),
        num_samples=7,
        max_samples=64,
    )


def root_context() -> Context:
    """Returns the context of the untuned program before anything was measured."""
    return Context(lineage=(Step(0, None, UNTUNED),), table=table(START), max_samples=64)

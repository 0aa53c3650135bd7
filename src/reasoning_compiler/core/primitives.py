"""The language of transformations: what each kind of decision means, and the primitives that may follow them.

A transformation sets decisions, which the rules of the space leave open, and may then apply schedule primitives of
TVM's to what comes out of them, in the order in which they are given and before the postprocessors. A primitive is
data: a name of this page, and arguments that name blocks, loops and buffers as the space shows them. Here it is only
read and spelled. Whether it fits a program is for `space/free.py` to say, which applies it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_PRIMITIVES = 16
"""Most primitives of one program."""

BUFFER_SIDES = ("read", "write")
BUFFER_SCOPES = ("global", "local")
MAX_SPLIT = 8
MAX_UNROLLED = 256
MAX_LANES = 256
MAX_PADDING = 256
MAX_NAME_CHARS = 200

DECISION_MEANINGS: Mapping[str, str] = {
    "structure": "how a block is treated",
    "tile": "factors, outermost loop first",
    "choice": "one of the values that are listed",
    "location": "the loop of its consumer in which a block is computed, or root for loops of its own",
}
"""What a value of each kind of decision says."""

Argument = int | str | None | tuple[int | str | None, ...]
"""An argument of a primitive: a name, a number, or a list of either."""

ArgumentKind = Literal["block", "loop", "loops", "buffer", "factors", "axis", "scope", "layout", "multiples"]

KIND_MEANINGS: Mapping[ArgumentKind, str] = {
    "block": "a block's name, as `C`",
    "loop": "a loop around a block, as `C.j_1`",
    "loops": "a list of loops around one block",
    "buffer": "a buffer that the block reads, by name, as `A`, or by position, from 0",
    "factors": f"2 to {MAX_SPLIT} factors in a list, outermost first; one may be `null`",
    "axis": "the new dimension's position in the partial results, from 0",
    "scope": '`"global"` or `"local"`',
    "layout": "a list of what each new dimension holds: an old one, by number or name, or a part of one, as "
    '`["1/32", 0, "1%32"]`, or the text of a lambda, as `"lambda k, n: (n // 32, k, n % 32)"`',
    "multiples": f"a list with a number from 1 to {MAX_PADDING} for each iterator of the block",
}
"""What the arguments of each kind look like."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a primitive: its name, the kind of its argument, and its default; None where it has none."""

    name: str
    kind: ArgumentKind
    default: int | str | None = None


@dataclass(frozen=True)
class Signature:
    """What there is to know of a primitive.

    Args:
        name: TVM's, which is also ours.
        parameters: in order.
        does: what it does, in a sentence.
        makes: names that it makes of `x` and `y`, or for block C that reads A; may be empty.
        before, after: what the example changes.
        words: how a report tells it, with the parameters' names in braces.
        example: its arguments there.
    """

    name: str
    parameters: tuple[Parameter, ...]
    does: str
    makes: str
    before: str
    after: str
    words: str
    example: tuple[Argument, ...]

    def __str__(self) -> str:
        told = (p.name if p.default is None else f"{p.name}={json.dumps(p.default)}" for p in self.parameters)
        return f"{self.name}({', '.join(told)})"


_LOOP_ALONE = (Parameter("loop", "loop"),)
_LOOPS = (Parameter("loops", "loops"),)
_INTO = (Parameter("block", "block"), Parameter("loop", "loop"))

SIGNATURES: Mapping[str, Signature] = {
    s.name: s
    for s in (
        Signature(
            "split",
            (*_LOOP_ALONE, Parameter("factors", "factors")),
            "Splits a loop into nested ones. Where the factors do not divide it, the rest is guarded by a condition.",
            "`x_0`, `x_1`, …",
            "for j in range(512)",
            "for j_0 in range(64): for j_1 in range(8)",
            "split {loop} into {factors}",
            ("C.j", (64, 8)),
        ),
        Signature(
            "fuse",
            _LOOPS,
            "Makes one loop of loops that stand directly inside each other.",
            "`x_y_fused`",
            "for i in range(4): for j in range(8)",
            "for i_j_fused in range(32)",
            "fuse {loops}",
            (("C.i", "C.j"),),
        ),
        Signature(
            "reorder",
            _LOOPS,
            "Puts loops of one nest into the given order, outermost first, in the places that they have together.",
            "",
            "for i: for k: for j",
            "for i: for j: for k",
            "reorder the loops to {loops}",
            (("C.j", "C.k"),),
        ),
        Signature(
            "vectorize",
            _LOOP_ALONE,
            f"Runs a loop of at most {MAX_LANES} iterations in vector lanes; no other one around the block then is.",
            "",
            "for j_1 in range(16)",
            "for j_1 in vectorized(16)",
            "vectorize {loop}",
            ("C.j_1",),
        ),
        Signature(
            "unroll",
            _LOOP_ALONE,
            f"Writes out the iterations of a loop, of which there may be {MAX_UNROLLED}.",
            "",
            "for k_1 in range(4)",
            "for k_1 in unroll(4)",
            "unroll {loop}",
            ("C.k_1",),
        ),
        Signature(
            "parallel",
            _LOOP_ALONE,
            "Spreads the iterations of a loop over the cores; no other one around the block then is.",
            "",
            "for i_0 in range(64)",
            "for i_0 in parallel(64)",
            "run {loop} in parallel",
            ("C.i_0",),
        ),
        Signature(
            "compute_at",
            _INTO,
            "Computes what a block makes inside a loop of its consumer, as much as one iteration needs.",
            "loops `ax0`, `ax1`, …",
            "for i: B[i] = …\nfor i: C[i] = B[i] …",
            "for i:\n    B[i] = …\n    C[i] = B[i] …",
            "compute {block} in loop {loop}",
            ("B", "C.i"),
        ),
        Signature(
            "reverse_compute_at",
            _INTO,
            "Computes a block inside a loop of its producer, as soon as that has made what it needs.",
            "loops `ax0`, `ax1`, …",
            "for i: B[i] = …\nfor i: C[i] = B[i] …",
            "for i:\n    B[i] = …\n    C[i] = B[i] …",
            "compute {block} in loop {loop} of its producer",
            ("C", "B.i"),
        ),
        Signature(
            "cache_read",
            (Parameter("block", "block"), Parameter("buffer", "buffer"), Parameter("scope", "scope", "global")),
            "Has a block read a copy of a buffer. A new block makes it: place that with `compute_at`, or lay it out.",
            "block and buffer `A_global`",
            "C[i, j] += A[i, k] * …",
            "A_global[…] = A[…]\nC[i, j] += A_global[i, k] * …",
            "copy {buffer} into a {scope} buffer for {block}",
            ("C", "A", "global"),
        ),
        Signature(
            "cache_write",
            (Parameter("block", "block"), Parameter("scope", "scope", "global")),
            "Has a block write into a buffer of its own. A new block copies it to where it was written before: place "
            "that with `reverse_compute_at`.",
            "block and buffer `C_global`",
            "C[i, j] += …",
            "C_local[i, j] += …\nC[…] = C_local[…]",
            "have {block} write into a {scope} buffer first",
            ("C", "local"),
        ),
        Signature(
            "transform_layout",
            (Parameter("block", "block"), Parameter("buffer", "buffer"), Parameter("layout", "layout")),
            "Lays out an intermediate buffer that the block reads, as a copy by `cache_read`, in another order.",
            "",
            "B_global[k, n], layout [1/32, 0, 1%32]",
            "B_global[n // 32, k, n % 32]",
            "lay out {buffer} as {layout}",
            ("C", "B_global", ("1/32", "0", "1%32")),
        ),
        Signature(
            "decompose_reduction",
            _INTO,
            "Initializes a reduction in loops of its own in front of the given loop, instead of inside it. What is to "
            "be parallel or vectorized has to be so before: afterwards nothing of the block can.",
            "blocks `C_init`, `C_update`",
            "for i: for k: (C[i] = 0 if k == 0); C[i] += …",
            "for i:\n    C[i] = 0\n    for k: C[i] += …",
            "initialize {block} in front of loop {loop}",
            ("C", "C.k"),
        ),
        Signature(
            "rfactor",
            (*_LOOP_ALONE, Parameter("axis", "axis", 0)),
            "Sums up each iteration of a reduction loop by itself, so that the loop can run in parallel or in vector "
            "lanes, and adds up the partial results in the end.",
            "block `C_rf`, with the same loops",
            "for k_0: for k_1: C[i] += …",
            "for k_1: for k_0: C_rf[k_1, i] += …\nfor k_1: C[i] += C_rf[k_1, i]",
            "sum up {loop} in parts",
            ("C.k_1", 0),
        ),
        Signature(
            "pad_einsum",
            (Parameter("block", "block"), Parameter("multiples", "multiples")),
            "Pads a contraction, so that its iterators become multiples of the given numbers; copies with zeros around "
            "go before it, and a copy of the result without them goes behind.",
            "blocks `A_pad`, `C_pad`, …",
            "for i in range(500): C[i, …] += A[i, …] …",
            "for i in range(504): C_pad[i, …] += A_pad[i, …] …",
            "pad the iterators of {block} to multiples of {multiples}",
            ("C", (8, 1, 1)),
        ),
    )
}
"""The primitives that there are, by name."""


@dataclass(frozen=True)
class Primitive:
    """A schedule primitive with its arguments, as somebody proposed it: nothing of it has been checked.

    Args:
        name: of `SIGNATURES`.
        arguments: in the order of its parameters; what has a default may be left out at the end.
    """

    name: str
    arguments: tuple[Argument, ...]

    def to_json(self) -> list[Any]:
        return [self.name, *(list(a) if isinstance(a, tuple) else a for a in self.arguments)]

    @classmethod
    def from_json(cls, obj: Any) -> Primitive:
        return cls(str(obj[0]), tuple(tuple(a) if isinstance(a, list | tuple) else a for a in obj[1:]))

    def __str__(self) -> str:
        """The primitive as a call, as `split(C.j_1, [64, 8])`."""
        return f"{self.name}({', '.join(map(_spelled, self.arguments))})"

    @property
    def words(self) -> str:
        """What it does, for a report."""
        signature = SIGNATURES.get(self.name)
        if signature is None or len(self.arguments) != len(signature.parameters):
            return str(self)
        told = zip(signature.parameters, self.arguments, strict=True)
        return signature.words.format(**{p.name: _told(p.kind, argument) for p, argument in told})


def checked(primitive: Primitive) -> Primitive:
    """Returns a primitive with all its arguments, each of its parameter's kind.

    Raises:
        ValueError: there is no such primitive, or an argument cannot be one; says what is allowed.
    """
    signature = SIGNATURES.get(primitive.name)
    if signature is None:
        raise ValueError(f"there is no primitive `{_clipped(primitive.name)}`; there are {', '.join(SIGNATURES)}")
    given = list(primitive.arguments)
    most = len(signature.parameters)
    least = sum(p.default is None for p in signature.parameters)
    if not least <= len(given) <= most:
        counts = str(most) if least == most else f"{least} to {most}"
        raise ValueError(f"`{signature.name}` takes {counts} arguments, not {len(given)}: {signature}")
    given += [p.default for p in signature.parameters[len(given) :]]
    arguments = []
    for parameter, argument in zip(signature.parameters, given, strict=True):
        why = _why_not(parameter.kind, argument)
        if why is not None:
            what = f"`{parameter.name}` of `{signature.name}` is {_clipped(argument)}"
            raise ValueError(f"{what}, which {why}; it has to be {KIND_MEANINGS[parameter.kind]}")
        arguments.append(argument)
    return Primitive(signature.name, tuple(arguments))


def split_loop(loop: str) -> tuple[str, str]:
    """Returns the block and the name of a loop as `C.j_1`; the block is empty where only the loop is named."""
    block, _, name = loop.rpartition(".")
    return block, name


# -- inside -----------------------------------------------------------------------------------------------------------


def _why_not(kind: ArgumentKind, argument: Any) -> str | None:
    """Returns why something is no argument of a kind, None if it is one."""
    if kind in ("block", "loop"):
        return None if _is_name(argument) else "is no name"
    if kind == "buffer":
        by_side = isinstance(argument, tuple) and len(argument) == 2 and argument[0] in BUFFER_SIDES
        return None if _is_name(argument) or _is_position(argument[1] if by_side else argument) else "is neither"
    if kind == "axis":
        return None if _is_position(argument) else "is no position"
    if kind == "scope":
        return None if argument in BUFFER_SCOPES else "is none of them"
    if kind == "layout" and _is_name(argument):
        return None
    if not isinstance(argument, tuple) or not argument:
        return "is no list"
    if kind == "loops":
        return _why_no_loops(argument)
    if kind == "factors":
        return _why_no_factors(argument)
    if kind == "layout":
        return None if all(_is_name(part) or _is_position(part) for part in argument) else "has a part that is none"
    return None if all(_is_count(m) and m <= MAX_PADDING for m in argument) else "has a number out of range"


def _why_no_loops(loops: tuple[Any, ...]) -> str | None:
    if not all(map(_is_name, loops)):
        return "has a part that is no name"
    if len({split_loop(loop)[0] for loop in loops} - {""}) > 1:
        return "names loops of several blocks"
    if len(loops) < 2:
        return "has one loop only"
    return "names a loop twice" if len(set(loops)) < len(loops) else None


def _why_no_factors(factors: tuple[Any, ...]) -> str | None:
    if not 2 <= len(factors) <= MAX_SPLIT:
        return f"has {len(factors)} factors"
    if sum(factor is None for factor in factors) > 1:
        return "leaves more than one open"
    return None if all(factor is None or _is_count(factor) for factor in factors) else "has a factor that is none"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and not value.isspace()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _is_position(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 64


def _spelled(argument: Any) -> str:
    if isinstance(argument, tuple | list):
        return f"[{', '.join(map(_spelled, argument))}]"
    return "null" if argument is None else str(argument)


def _told(kind: ArgumentKind, argument: Any) -> str:
    if kind == "factors":
        return "×".join("?" if factor is None else str(factor) for factor in argument)
    if kind == "layout":
        return _spelled(argument)
    return ", ".join(map(str, argument)) if isinstance(argument, tuple) else str(argument)


def _clipped(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:59] + "…"

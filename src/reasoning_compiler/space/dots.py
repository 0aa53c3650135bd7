"""Instructions that multiply small integers or short floats and sum them up, a few products to a vector lane.

One of them takes a group of `terms` neighbours of A, the same for all lanes, and for each lane a group of B:

    for lane: for t: sums[lane] += A[t] * B[lane, t]

Knows nothing of TVM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

DOT = "reasoning_compiler.dot"
"""A block's annotation: the instruction that takes the place of its two innermost loops, lanes and terms."""


@dataclass(frozen=True)
class Dot:
    """One such instruction, for one pair of types.

    Args:
        name: for people, and in annotations.
        feature: LLVM's name of the extension that has it.
        left: dtype of A.
        right: dtype of B.
        sums: dtype of the sums.
        lanes: of a vector of sums.
        terms: products that go into each lane.
        shifted: A is signed where the instruction wants it unsigned. A copy of it has 128 added, and 128 times the sums
            over B, which the same instruction makes, are subtracted in the end.
        per_fma: how many of them a core starts in the time of a float32 multiply-add.
    """

    name: str
    feature: str
    left: str
    right: str
    sums: str
    lanes: int
    terms: int
    shifted: bool = False
    per_fma: float = 1.0

    @property
    def label(self) -> str:
        """What the alternative is called that uses it."""
        return f"dot products of {self.terms} ({self.name})"

    @property
    def gain(self) -> float:
        """How many times the multiply-adds of float32 it makes in the same time."""
        return self.terms * self.per_fma


DOTS = (
    Dot("vpdpbusd", "avx512vnni", "uint8", "int8", "int32", 16, 4),
    Dot("vpdpbusd, shifted", "avx512vnni", "int8", "int8", "int32", 16, 4, shifted=True),
    Dot("vdpbf16ps", "avx512bf16", "bfloat16", "bfloat16", "float32", 16, 2),
)


def dot_named(name: str) -> Dot:
    """Returns the instruction of a name. Raises KeyError where there is none."""
    return {dot.name: dot for dot in DOTS}[name]


def dot_for(dtypes: Iterable[str], features: Collection[str]) -> Dot | None:
    """Returns the instruction for the dtypes of A, B and the sums; None where a CPU with these features has none."""
    wanted = tuple(dtypes)
    return next((d for d in DOTS if (d.left, d.right, d.sums) == wanted and d.feature in features), None)

"""Instructions that multiply small integers or short floats and sum them up, a few products to a vector lane.

One of them takes a group of `terms` neighbours of A, the same for all lanes, and for each lane a group of B:

    for lane: for t: sums[lane] += A[t] * B[lane, t]

Knows nothing of TVM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reasoning_compiler.records import Machine

DOT = "reasoning_compiler.dot"
"""A block's annotation: the instruction that takes the place of its two innermost loops, lanes and terms."""

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Dot:
    """One such instruction, for one pair of types.

    Args:
        name: for people, and in annotations.
        features: LLVM's names of the extensions that it takes, all of them.
        left: dtype of A.
        right: dtype of B.
        sums: dtype of the sums.
        lanes: of a vector of sums.
        terms: products that go into each lane.
        intrinsic: LLVM's name of it; it takes the sums, A and B.
        shifted: A has a sign where the instruction wants none, or none where it wants one. A copy of it has 128 added
            or taken away, and the sums over B of that, which the same instruction makes, are subtracted in the end.
        per_fma: how many of them a core starts in the time of a float32 multiply-add of whole vectors.
    """

    name: str
    features: tuple[str, ...]
    left: str
    right: str
    sums: str
    lanes: int
    terms: int
    intrinsic: str
    shifted: bool = False
    per_fma: float = 1.0

    @property
    def label(self) -> str:
        """What the alternative is called that uses it."""
        return f"dot products of {self.terms} ({self.name})"

    def gain(self, machine: Machine) -> float:
        """Returns how many times the multiply-adds of float32 it makes on a machine in the same time."""
        return self.per_fma * self.terms * self.lanes * _FLOAT_BYTES / machine.vector_bytes


_VNNI_512 = ("avx512vnni",)
_VNNI_256 = ("avx512vl", "avx512vnni")
_AVX_VNNI = ("avxvnni",)  # the same as the one above, in another encoding
_VPDPBUSD = "llvm.x86.avx512.vpdpbusd"
_NEON = "llvm.aarch64.neon"

DOTS = (
    Dot("vpdpbusd", _VNNI_512, "uint8", "int8", "int32", 16, 4, f"{_VPDPBUSD}.512"),
    Dot("vpdpbusd, shifted", _VNNI_512, "int8", "int8", "int32", 16, 4, f"{_VPDPBUSD}.512", shifted=True),
    Dot("vdpbf16ps", ("avx512bf16",), "bfloat16", "bfloat16", "float32", 16, 2, "llvm.x86.avx512bf16.dpbf16ps.512"),
    Dot("vpdpbssd, 256 bits", ("avxvnniint8",), "int8", "int8", "int32", 8, 4, "llvm.x86.avx2.vpdpbssd.256"),
    *(
        Dot(f"vpdpbusd, 256 bits{more}", features, left, "int8", "int32", 8, 4, f"{_VPDPBUSD}.256", shifted=bool(more))
        for features in (_VNNI_256, _AVX_VNNI)
        for left, more in (("uint8", ""), ("int8", ", shifted"))
    ),
    Dot("sdot", ("dotprod",), "int8", "int8", "int32", 4, 4, f"{_NEON}.sdot"),
    Dot("udot", ("dotprod",), "uint8", "uint8", "int32", 4, 4, f"{_NEON}.udot"),
    Dot("usdot", ("i8mm",), "uint8", "int8", "int32", 4, 4, f"{_NEON}.usdot"),
    Dot("sdot, shifted", ("dotprod",), "uint8", "int8", "int32", 4, 4, f"{_NEON}.sdot", shifted=True),
    Dot("bfdot", ("bf16",), "bfloat16", "bfloat16", "float32", 4, 2, f"{_NEON}.bfdot.v4f32.v8bf16"),
)
"""The best for a pair of types first."""


def dot_named(name: str) -> Dot:
    """Returns the instruction of a name. Raises KeyError where there is none."""
    return {dot.name: dot for dot in DOTS}[name]


def dots_for(dtypes: Iterable[str], features: Collection[str]) -> tuple[Dot, ...]:
    """Returns the instructions for the dtypes of A, B and the sums that a CPU with these features has, the best first.

    Those with fewer lanes fit where there are not as many columns.
    """
    wanted = tuple(dtypes)
    return tuple(d for d in DOTS if (d.left, d.right, d.sums) == wanted and set(d.features) <= set(features))

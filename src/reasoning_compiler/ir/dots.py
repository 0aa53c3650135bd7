"""Instructions that multiply small integers or short floats and sum them up, a few products to a vector lane.

One of them takes a group of `terms` neighbours of A, the same for all lanes, and for each lane a group of B:

    for lane: for t: sums[lane] += A[t] * B[lane, t]

Those that multiply tiles (AMX) do that for several rows of A, and for several groups that follow one another in each:

    for row: for g: for lane: for t: sums[row, lane] += A[row, g, t] * B[g, lane, t]

Knows nothing of TVM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reasoning_compiler.core.machines import Machine

DOT = "reasoning_compiler.dot"
"""A block's annotation: the instruction that takes the place of its innermost loops, see `Dot.extents`."""

TILE_REGISTERS = 8
"""Of AMX: tiles of sums, of A and of B all lie in them."""

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
        terms: products of one group that go into each lane.
        intrinsic: LLVM's name of it; it takes the sums, A and B.
        shifted: A has a sign where the instruction wants none, or none where it wants one. A copy of it has 128 added
            or taken away, and the sums over B of that, which the same instruction makes, are subtracted in the end.
        per_fma: how many of them a core starts in the time of a float32 multiply-add of whole vectors.
        rows: of A, each with sums of its own; 1 where the sums are a vector.
        groups: of terms, in each row.
        latency_cycles: until the next one may add to the same sums.
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
    rows: int = 1
    groups: int = 1
    latency_cycles: int = 4

    @property
    def label(self) -> str:
        """What the alternative is called that uses it."""
        return f"dot products of {self.depth} ({self.name})"

    @property
    def by_tiles(self) -> bool:
        """Whether it multiplies tiles, in registers of their own."""
        return self.rows > 1

    @property
    def depth(self) -> int:
        """Products that it adds to each of the sums."""
        return self.groups * self.terms

    @property
    def extents(self) -> tuple[int, ...]:
        """Of the loops in whose place it is put, outermost first: lanes and terms, of tiles rows and groups before."""
        return (self.rows, self.groups, self.lanes, self.terms) if self.by_tiles else (self.lanes, self.terms)

    @property
    def products_text(self) -> str:
        """How many products it makes, in words."""
        rows = f"{self.rows} × " if self.by_tiles else ""
        return f"{rows}{self.lanes} × {self.depth}"

    def gain(self, machine: Machine) -> float:
        """Returns how many times the multiply-adds of float32 it makes on a machine in the same time."""
        return self.per_fma * self.rows * self.depth * self.lanes * _FLOAT_BYTES / machine.vector_bytes


_VNNI_512 = ("avx512vnni",)
_VNNI_256 = ("avx512vl", "avx512vnni")
_AVX_VNNI = ("avxvnni",)  # the same as the one above, in another encoding
_VPDPBUSD = "llvm.x86.avx512.vpdpbusd"
_NEON = "llvm.aarch64.neon"


def _of_tiles(name: str, feature: str, left: str, right: str, sums: str, terms: int) -> Dot:
    # One starts every 16 cycles, and the next may add to the same sums after 52 (Intel, "64 and IA-32 Architectures
    # Optimization Reference Manual", on Intel AMX); two multiply-adds of float32 start in each cycle.
    per_fma, rows, groups, cycles = 1 / 32, 16, 16, 52
    features, intrinsic = ("amx-tile", feature), f"llvm.x86.{name}"
    return Dot(name, features, left, right, sums, 16, terms, intrinsic, False, per_fma, rows, groups, cycles)


DOTS = (
    _of_tiles("tdpbusd", "amx-int8", "uint8", "int8", "int32", 4),
    _of_tiles("tdpbssd", "amx-int8", "int8", "int8", "int32", 4),
    _of_tiles("tdpbuud", "amx-int8", "uint8", "uint8", "int32", 4),
    _of_tiles("tdpbf16ps", "amx-bf16", "bfloat16", "bfloat16", "float32", 2),
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


def registers_of(machine: Machine, dot: Dot | None) -> tuple[int, str]:
    """Returns how many registers hold the sums of a register tile, and what one of them holds: a vector or a tile."""
    return (TILE_REGISTERS, "tile") if dot is not None and dot.by_tiles else (machine.num_vector_registers, "vector")


def dots_for(dtypes: Iterable[str], features: Collection[str]) -> tuple[Dot, ...]:
    """Returns the instructions for the dtypes of A, B and the sums that a CPU with these features has, the best first.

    Those with fewer lanes fit where there are not as many columns.
    """
    wanted = tuple(dtypes)
    return tuple(d for d in DOTS if (d.left, d.right, d.sums) == wanted and set(d.features) <= set(features))

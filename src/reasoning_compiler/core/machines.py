"""The machine as a record: what the rest of the package knows of the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoning_compiler.core.costs import Costs, typical_costs
from reasoning_compiler.core.records import Record


@dataclass(frozen=True)
class Machine(Record):
    """What a program runs on. Peaks are measured on the probed machine and published figures on presets.

    Args:
        name: a preset's name, or the CPU's own.
        num_cores: physical cores that this process may use.
        isa: the vector instruction set, as "avx512", "avx2", "neon".
        vector_bytes: bytes of one vector register.
        num_vector_registers: architectural vector registers.
        fma_per_cycle: fused multiply-adds on full vectors per cycle and core.
        l1_bytes: first-level data cache of one core.
        l2_bytes: second-level cache of one core (its share, where cores share it).
        l3_bytes: last-level cache of the package; 0 where there is none.
        cache_line_bytes: usually 64.
        peak_flops: float32 FLOP/s of all cores together.
        bandwidth_bytes_per_sec: main memory, reading, all cores together.
        target: the TVM target as JSON text.
        costs: what the cost model counts with; on presets typical of the class.
        measured: whether the two peaks were measured here.
        features: instruction-set extensions, sorted.
    """

    name: str
    num_cores: int
    isa: str
    vector_bytes: int
    num_vector_registers: int
    fma_per_cycle: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    cache_line_bytes: int
    peak_flops: float
    bandwidth_bytes_per_sec: float
    target: str
    costs: Costs
    measured: bool = False
    features: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Machine:
        """Returns the machine of a record; one from before costs were measured has typical ones."""
        return super().from_json(obj if "costs" in obj else obj | {"costs": typical_costs(obj["isa"]).to_json()})


@dataclass(frozen=True)
class Peak(Record):
    """What a machine can do at best of one kind of work.

    Args:
        flops: operations per second of all cores together.
        instruction: that does it; "" where it is the multiply-add of float32.
    """

    flops: float
    instruction: str = ""

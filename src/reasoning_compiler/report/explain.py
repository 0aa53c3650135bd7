"""What the analysis says of programs of a run, beside what was measured: for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasoning_compiler.core.machines import Machine, Peak
from reasoning_compiler.core.measurements import Measurement
from reasoning_compiler.core.programs import Program
from reasoning_compiler.cost.analysis import Analysis, BlockAnalysis, roofline_secs
from reasoning_compiler.ir.dots import dot_named, registers_of
from reasoning_compiler.journal import Header
from reasoning_compiler.report.lines import harmless
from reasoning_compiler.report.units import bandwidth_text, flops_text, ratio_text, share_text, size_text, time_text

_MIN_SHARE = 0.02  # of the estimated time, for a paragraph of its own


@dataclass(frozen=True)
class Explained:
    """One program with its analysis.

    Args:
        name: what it is to the run, as "best".
        node: its number.
        program: itself.
        measurement: what the hardware said of it; None where it was not asked.
        analysis: what the model of the machine says.
    """

    name: str
    node: int
    program: Program
    measurement: Measurement | None
    analysis: Analysis

    @property
    def latency_secs(self) -> float | None:
        return self.measurement.latency_secs if self.measurement is not None and self.measurement.ok else None

    @property
    def roofline_share(self) -> float | None:
        """The least time that the machine would take over the time that the program took; None without one."""
        if self.latency_secs is None or self.measurement.censored:
            return None
        return self.analysis.roofline_secs / self.latency_secs


def explain_text(programs: Sequence[Explained], header: Header, machine: Machine) -> str:
    """Returns the explanation for a terminal.

    Args:
        programs: what to explain, in order.
        header: of the run.
        machine: as the run used it, with as many cores as it had threads.
    """
    blocks = [
        _kernel(header, machine, _peak(programs, machine)),
        *(_program(each, header, machine) for each in programs),
    ]
    return "\n\n".join("\n".join(harmless(line).rstrip() for line in lines) for lines in blocks) + "\n"


def explain_json(programs: Sequence[Explained], header: Header, machine: Machine) -> dict[str, Any]:
    """Returns the explanation as JSON values; seconds, bytes and floating-point operations in their units."""
    peak = _peak(programs, machine)
    return {
        "kind": "explanation",
        "workload": header.spec,
        "flops": header.flops,
        "bytes": header.bytes,
        "intensity": _intensity(header),
        "peak_flops": peak.flops,
        "peak_instruction": peak.instruction,
        "roofline_secs": roofline_secs(header.flops or 0, header.bytes, machine, peak_flops=peak.flops),
        "ridge_intensity": peak.flops / machine.bandwidth_bytes_per_sec,
        "machine": machine.to_json(),
        "programs": [_program_json(each, machine) for each in programs],
    }


def _peak(programs: Sequence[Explained], machine: Machine) -> Peak:
    peaks = (each.analysis.peak for each in programs)
    return max(peaks, key=lambda peak: peak.flops, default=Peak(machine.peak_flops))


# -- JSON -------------------------------------------------------------------------------------------------------------


def _program_json(each: Explained, machine: Machine) -> dict[str, Any]:
    failure = each.measurement.failure if each.measurement else None
    return {
        "name": each.name,
        "node": each.node,
        "program": each.program.to_json(),
        "latency_secs": each.latency_secs,
        "latency_is_bound": each.measurement is not None and each.measurement.censored,
        "failure": asdict(failure) if failure else None,
        "roofline_share": each.roofline_share,
        "estimated_secs": each.analysis.secs,
        "blocks": [_block_json(block, each.analysis, machine) for block in each.analysis.blocks],
    }


def _block_json(block: BlockAnalysis, analysis: Analysis, machine: Machine) -> dict[str, Any]:
    sizes = _cache_bytes(machine)
    return asdict(block) | {
        "estimated_share": block.secs / analysis.secs if analysis.secs else 0.0,
        "tile": [list(loop) for loop in block.tile],
        "strided": list(block.strided),
        "levels": [asdict(level) | {"capacity_bytes": sizes[level.level]} for level in block.levels],
        "vector_registers": machine.num_vector_registers,
        "bytes_moved": block.bytes_moved,
        "intensity": block.intensity,
        "roofline_secs": roofline_secs(block.flops, block.bytes_moved, machine, peak_flops=block.peak_flops),
    }


def _cache_bytes(machine: Machine) -> dict[str, int]:
    return {"L1": machine.l1_bytes, "L2": machine.l2_bytes, "L3": machine.l3_bytes}


# -- words ------------------------------------------------------------------------------------------------------------


def _intensity(header: Header) -> float | None:
    """Returns operations for each byte of the arguments; None where their number is not known."""
    return None if header.flops is None else header.flops / header.bytes if header.bytes else 0.0


def _kernel(header: Header, machine: Machine, peak: Peak) -> list[str]:
    intensity = _intensity(header)
    ridge = peak.flops / machine.bandwidth_bytes_per_sec
    limit = "compute" if intensity is not None and intensity > ridge else "memory"
    by = f" by {peak.instruction}" if peak.instruction else ""
    peaks = f"{flops_text(peak.flops)}{by} and {bandwidth_text(machine.bandwidth_bytes_per_sec)}"
    least = roofline_secs(header.flops or 0, header.bytes, machine, peak_flops=peak.flops)
    operations = "an unknown number of operations" if header.flops is None else _operations(header.flops)
    ratio = "" if intensity is None else f": {_figure(intensity)} FLOP/byte"
    cores = f"{machine.num_cores} core{'s' if machine.num_cores > 1 else ''}"
    return [
        f"{header.spec} on {machine.name}, {cores}, {machine.isa}",
        f"  {operations} and {size_text(header.bytes)} of arguments{ratio}",
        f"  roofline: {time_text(least)}, {limit}-bound (peaks {peaks}; ridge point {_figure(ridge)} FLOP/byte)",
    ]


def _program(each: Explained, header: Header, machine: Machine) -> list[str]:
    total = each.analysis.secs or 1.0
    lines = [f"{each.name} (node {each.node}): {_measured(each, header)}"]
    for block in sorted(each.analysis.blocks, key=lambda b: -b.secs):
        if block.secs >= _MIN_SHARE * total:
            lines += _block(block, block.secs / total, machine)
    small = [b for b in each.analysis.blocks if b.secs < _MIN_SHARE * total]
    if small:
        share = share_text(sum(b.secs for b in small) / total)
        plural = "block takes" if len(small) == 1 else "blocks take"
        lines.append(f"  {len(small)} more {plural} {share} of the estimated time: {', '.join(b.block for b in small)}")
    return lines


def _measured(each: Explained, header: Header) -> str:
    estimated = f"estimated {time_text(each.analysis.secs)}"
    if each.measurement is None:
        return f"not measured, {estimated}"
    if each.latency_secs is None:
        return f"failed ({each.measurement.failure.kind if each.measurement.failure else ''}), {estimated}"
    share = f"{share_text(each.roofline_share or 0)} of the roofline"
    cut = ", stopped early" if each.measurement.cut else ""
    if each.measurement.censored:
        return f"{time_text(each.latency_secs, is_bound=True)} measured{cut}; {estimated}"
    rate = "unknown FLOP/s" if header.flops is None else flops_text(header.flops / each.latency_secs)
    return f"{time_text(each.latency_secs)} measured{cut}, {rate}, {share}; {estimated}"


def _block(block: BlockAnalysis, share: float, machine: Machine) -> list[str]:
    bound = {"compute": "compute", "pages": "page crossings"}.get(block.bound, f"{block.bound} traffic")
    lines = [f"  {block.block}: {share_text(share)} of the estimated time, limited by {bound}"]
    rows = [("register tile", _tile(block, machine)), ("vectors", _vectors(block)), ("cores", _cores(block, machine))]
    if block.padded:
        rows.append(("padding", "; ".join(f"{p}: {share_text(p.extra_work)} more work" for p in block.padded)))
    sizes = _cache_bytes(machine)
    for level in block.levels:
        whole = level.working_set_bytes <= sizes[level.level]
        part = f"loop {level.from_loop}" if level.from_loop else "one iteration"
        held = f"holds the working set of {part}, {size_text(level.working_set_bytes)}"
        name = f"{level.level} {size_text(sizes[level.level])}"
        held = held if whole else "too small for one iteration"
        rows.append((name, f"{held}; {size_text(level.bytes_in)} of traffic"))
    least = roofline_secs(block.flops, block.bytes_moved, machine, peak_flops=block.peak_flops)
    of_estimate = f", {share_text(least / block.secs)} of it reached by this estimate" if block.secs else ""
    rows.append(
        (
            "memory",
            f"{size_text(block.bytes_moved)} moved for {_operations(block.flops)}: {_figure(block.intensity)} "
            f"FLOP/byte; roofline {time_text(least)}{of_estimate}",
        )
    )
    return lines + [f"    {name:14} {text}" for name, text in rows]


def _tile(block: BlockAnalysis, machine: Machine) -> str:
    loops = " × ".join(f"{name}={extent}" for name, extent in block.tile) or "one element"
    if not block.accumulators:
        return loops
    where = "kept in registers" if block.in_registers else "loaded and stored in each iteration"
    plural = "" if block.accumulators == 1 else "s"
    registers, kind = registers_of(machine, dot_named(block.instruction) if block.instruction else None)
    many = f"{block.accumulators} {kind} accumulator{plural} for {registers} {kind} registers"
    return f"{loops}: {many}, {where}" if block.in_registers or block.reduces else loops


def _vectors(block: BlockAnalysis) -> str:
    if block.vector_lanes == 1:
        return "none: the innermost loop is scalar"
    strided = f", strided access to {', '.join(block.strided)}" if block.strided else ""
    by = f" by {block.instruction}" if block.instruction else ""
    return f"{block.vector_lanes} lanes{by}{strided}"


def _cores(block: BlockAnalysis, machine: Machine) -> str:
    if block.parallel_extent == 1:
        return f"one of {machine.num_cores}: no parallel loop" if machine.num_cores > 1 else "one"
    rounds = block.parallel_extent / machine.num_cores
    busy = share_text(block.parallel_efficiency)
    return f"{block.parallel_extent} parallel tasks, {_figure(rounds)} per core; cores are busy {busy} of the time"


def _operations(flops: float) -> str:
    return flops_text(flops).removesuffix("/s")


def _figure(value: float) -> str:
    return ratio_text(value).removesuffix("×")

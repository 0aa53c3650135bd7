"""`reasonc machine`: what programs run on."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json
from reasoning_compiler.cli.output import print_json
from reasoning_compiler.core.costs import Costs, Level


def machine(
    preset: Annotated[
        str | None, typer.Option(help="Preset to show instead of this machine, or `list` for their names.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure everything again.")] = False,
    json: Json = False,
) -> None:
    """Show cores, vectors, caches, peaks, what loads and calls cost, and the TVM target of a machine."""

    from reasoning_compiler.machine import PRESET_NOTES, PRESETS, detect
    from reasoning_compiler.machine import preset as named
    from reasoning_compiler.report.units import size_text

    if preset == "list":
        for name in PRESETS:
            typer.echo(f"{name:12} {PRESET_NOTES.get(name, '')}")
        return
    found = named(preset) if preset else detect(refresh=refresh)
    if json:
        print_json(found.to_json())
        return
    costs = found.costs
    lanes, registers = found.vector_bytes // 4, found.num_vector_registers
    origin = "measured here" if found.measured else "from published figures"
    own_caches = f"L1 {size_text(found.l1_bytes)}, L2 {size_text(found.l2_bytes)} a core"
    rows = [
        ("cores", f"{found.num_cores} physical" + ", as this process may use them" * found.measured),
        ("vectors", f"{found.isa}: {registers} registers of {lanes} float32, {found.fma_per_cycle} FMA a cycle"),
        ("caches", f"{own_caches}; L3 {size_text(found.l3_bytes)} shared"),
        ("peak", f"{found.peak_flops / 1e9:.0f} GFLOP/s float32 ({origin})"),
        ("memory", f"{found.bandwidth_bytes_per_sec / 1e9:.1f} GB/s ({origin})"),
        *[
            (name, f"{level.latency_cycles:.0f} cycles; {_rates(level)} a core and cycle")
            for name, level in (("L1", costs.l1), ("L2", costs.l2), ("L3", costs.l3))
        ],
        ("latency", f"memory {costs.memory_latency_cycles:.0f} cycles, FMA {costs.fma_latency_cycles:.1f} cycles"),
        ("streams", f"one core alone {costs.lone_bytes_per_cycle:.1f} bytes a cycle; {_streams(costs)}"),
        (
            "pages",
            f"{costs.near_page_cycles:.0f} cycles for a near one, {costs.far_page_cycles:.0f} from memory",
        ),
        ("loads", f"{costs.split_cycles:.1f} cycles across a line, {costs.gather_cycles:.1f} per strided element"),
        ("calls", f"{costs.call_cycles:.0f} cycles a scalar exp; a parallel region {costs.region_secs * 1e6:.1f} us"),
        ("target", found.target),
    ]
    typer.echo(found.name)
    for name, text in rows:
        typer.echo(f"  {name:8} {text}")
    if found.measured and costs.typical:
        typer.echo(f"  Typical of {found.isa}, not of this machine: {', '.join(costs.typical)}.")


def _rates(level: Level) -> str:
    return f"{level.read_bytes_per_cycle:.0f} bytes read, {level.update_bytes_per_cycle:.0f} read and written,"


def _streams(costs: Costs) -> str:
    update, beside = costs.memory_update, costs.side_by_side
    return f"read and written back at {update:.0%} of the bandwidth; four side by side in {beside:.0%} of the time"

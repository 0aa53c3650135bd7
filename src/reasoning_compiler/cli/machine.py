"""`reasonc machine`: what programs run on."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoning_compiler.cli.options import Json


def register(app: typer.Typer) -> None:
    app.command("machine")(machine)


def machine(
    preset: Annotated[
        str | None, typer.Option(help="Show a preset instead of this machine; `list` for their names.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure the peaks again.")] = False,
    json: Json = False,
) -> None:
    """Show cores, vectors, caches, peak FLOP/s, bandwidth and the TVM target of this machine or of a preset."""
    import json as json_module

    from reasoning_compiler.machine import PRESET_NOTES, PRESETS, detect
    from reasoning_compiler.machine import preset as named
    from reasoning_compiler.report.units import size_text

    if preset == "list":
        for name in PRESETS:
            typer.echo(f"{name:12} {PRESET_NOTES.get(name, '')}")
        return
    found = named(preset) if preset else detect(refresh=refresh)
    if json:
        typer.echo(json_module.dumps(found.to_json(), indent=2))
        return
    lanes, registers = found.vector_bytes // 4, found.num_vector_registers
    origin = "measured here" if found.measured else "from published figures"
    own_caches = f"L1 {size_text(found.l1_bytes)}, L2 {size_text(found.l2_bytes)} a core"
    rows = [
        ("cores", f"{found.num_cores} physical" + ", as this process may use them" * found.measured),
        ("vectors", f"{found.isa}: {registers} registers of {lanes} float32, {found.fma_per_cycle} FMA a cycle"),
        ("caches", f"{own_caches}; L3 {size_text(found.l3_bytes)} shared"),
        ("peak", f"{found.peak_flops / 1e9:.0f} GFLOP/s float32 ({origin})"),
        ("memory", f"{found.bandwidth_bytes_per_sec / 1e9:.1f} GB/s ({origin})"),
        ("target", found.target),
    ]
    typer.echo(found.name)
    for name, text in rows:
        typer.echo(f"  {name:8} {text}")

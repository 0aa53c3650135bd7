"""Knowing this machine: what the system tells and what a short measurement adds, remembered between runs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import psutil

from reasoning_compiler.core.costs import costs_of
from reasoning_compiler.core.errors import ReasoningCompilerError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.processes.call import ChildError, call_in_child
from reasoning_compiler.core.whole_files import write_whole
from reasoning_compiler.machine.cgroup import memory_limit_bytes
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.machine.cpu import Cpu, read_cpu
from reasoning_compiler.machine.targets import vector_unit
from reasoning_compiler.machine.toolchain import TVM_VERSION, why_not_tvm

# Raised when the probe measures or records something else than before.
_PROBE_VERSION = 3

_DISTURBED_SECS = 3600  # a disturbed measurement is used for so long


def detect(refresh: bool = False, *, threads: int | None = None) -> Machine:
    """Returns this machine with measured peaks: at once if it was probed before, in about 5 seconds if not.

    What was measured is kept as JSON in `cache_dir()`, for each CPU, number of usable cores and TVM version.
    If other programs disturbed the measurement, what did not repeat is typical of the CPU's class, and it is measured
    again after an hour. If they held some core all the time, the peak is estimated from one core.

    Args:
        refresh: measure again, as after a busy moment, and remember that.
        threads: where it has yet to be measured, use so many cores and scale the peak; None for all.

    Raises:
        UsageError: TVM is missing or of a wrong version.
        ReasoningCompilerError: the measurement failed.
    """
    cpu, num_cores = read_cpu(), num_physical_cores()
    num_used = min(threads or num_cores, num_cores)
    files = [cache_dir() / f"machine-{_key(cpu, num_cores, number)}.json" for number in (num_cores, num_used)]
    in_the_meantime = files[1].with_suffix(".disturbed.json")
    known = None if refresh else _load(files[0]) or _load(files[1])
    known = known or (_load(in_the_meantime) if not refresh and _is_recent(in_the_meantime) else None)
    if known is not None:
        return known
    machine, disturbed = _probe(cpu, num_cores, num_used)
    _store(in_the_meantime if disturbed else files[1], machine)
    return machine


def cache_dir() -> Path:
    """Returns the folder that keeps what was measured; it need not exist.

    It is `$REASONC_CACHE_DIR` if that is set, or `reasonc` in `$XDG_CACHE_HOME` or in `~/.cache`.
    """
    own = os.environ.get("REASONC_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path(os.path.expanduser("~"), ".cache")) / "reasonc"


def _probe(cpu: Cpu, num_cores: int, num_used: int) -> tuple[Machine, bool]:
    wrong = why_not_tvm()
    if wrong is not None:
        raise UsageError(wrong)
    room_bytes = min(psutil.virtual_memory().available, memory_limit_bytes() or 1 << 62) // 6
    try:
        measured = call_in_child(
            "reasoning_compiler.machine.peaks:measure_peaks",
            *(num_used, sorted(cpu.features), list(astuple(cpu.caches)[:3]), room_bytes),
            timeout_secs=60,
        )
    except ChildError as error:
        raise ReasoningCompilerError(f"cannot probe this machine: {error}; run `reasonc doctor`") from None
    unit = vector_unit(measured["features"])
    machine = Machine(
        name=cpu.name or measured["target"]["mcpu"],
        num_cores=num_cores,
        isa=unit.isa,
        vector_bytes=unit.vector_bytes,
        num_vector_registers=unit.num_registers,
        fma_per_cycle=measured["fma_per_cycle"],
        l1_bytes=cpu.caches.l1_bytes,
        l2_bytes=cpu.caches.l2_bytes,
        l3_bytes=cpu.caches.l3_bytes,
        cache_line_bytes=cpu.caches.line_bytes,
        peak_flops=measured["peak_flops"] * num_cores / num_used,
        bandwidth_bytes_per_sec=measured["bandwidth_bytes_per_sec"],
        target=json.dumps(measured["target"] | {"num-cores": num_cores}),
        costs=costs_of(measured["costs"], unit.isa),
        measured=True,
        features=tuple(measured["features"]),
    )
    return machine, measured["disturbed"]


def _key(cpu: Cpu, num_cores: int, num_used: int) -> str:
    text = f"{_PROBE_VERSION} {cpu.identity} {cpu.caches} {num_cores} {TVM_VERSION}"
    text += f" {num_used} used" if num_used < num_cores else ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(file: Path) -> Machine | None:
    try:
        return Machine.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # absent, unreadable or damaged: it is measured again


def _is_recent(file: Path) -> bool:
    try:
        return 0 <= time.time() - file.stat().st_mtime < _DISTURBED_SECS
    except OSError:
        return False


def _store(file: Path, machine: Machine) -> None:
    # What cannot be kept is measured again next time, which is no error.
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(machine.to_json(), indent=1).encode())

"""Counting the physical cores that this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine.cgroup import cpu_quota, read_text

_CPU_DIR = Path("/sys/devices/system/cpu")


def num_physical_cores() -> int:
    """Returns how many physical cores this process may use, at least 1.

    Two hardware threads of one core count once; the scheduling affinity (`taskset`, cpusets) and the cgroup's
    CPU quota (containers) are respected. A quota of 2.5 CPUs counts as 2: a third thread would be throttled.
    """
    cpus = allowed_cpus()
    num_cores = len(one_cpu_per_core(cpus)) or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, num_cores if quota is None else min(num_cores, int(quota)))


def chosen_threads(threads: int | None, num_cores: int, *, whose: str = "this process may use") -> int:
    """Returns how many threads to use: those that are asked for, or as many as there are cores.

    Args:
        threads: asked for; None for every core.
        num_cores: physical ones.
        whose: words for whose cores they are.

    Raises:
        UsageError: there are fewer cores.
    """
    if threads is not None and threads > num_cores:
        raise UsageError(f"`threads` is {threads}; {whose} {num_cores} physical cores")
    return num_cores if threads is None else threads


def allowed_cpus() -> list[int]:
    """Returns the logical CPUs that this thread may run on, sorted; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def one_cpu_per_core(cpus: Iterable[int], *, cpu_dir: Path = _CPU_DIR) -> list[int]:
    """Returns one logical CPU of each physical core among `cpus`: the core's lowest."""
    first_of_core: dict[str, int] = {}
    for cpu in sorted(cpus):
        first_of_core.setdefault(_core_name(cpu, cpu_dir), cpu)
    return list(first_of_core.values())


def _core_name(cpu: int, cpu_dir: Path) -> str:
    topology = cpu_dir / f"cpu{cpu}" / "topology"
    return read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list") or str(cpu)

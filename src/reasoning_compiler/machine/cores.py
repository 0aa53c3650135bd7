"""Counting the physical cores that this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_CPU_DIR = Path("/sys/devices/system/cpu")
_CGROUP_DIR = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def num_physical_cores() -> int:
    """Returns how many physical cores this process may use, at least 1.

    Two hardware threads of one core count once; the scheduling affinity (`taskset`, cpusets) and the cgroup's
    CPU quota (containers) are respected. A quota of 2.5 CPUs counts as 2: a third thread would be throttled.
    """
    cpus = allowed_cpus()
    num_cores = len(one_cpu_per_core(cpus)) or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, num_cores if quota is None else min(num_cores, int(quota)))


def allowed_cpus() -> list[int]:
    """Returns the logical CPUs that this thread may run on, sorted; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def one_cpu_per_core(cpus: Iterable[int], *, cpu_dir: Path = _CPU_DIR) -> list[int]:
    """Returns one logical CPU of each physical core among `cpus`: the core's lowest."""
    first_of_core: dict[str, int] = {}
    for cpu in sorted(cpus):
        first_of_core.setdefault(_core_name(cpu, cpu_dir), cpu)
    return list(first_of_core.values())


def cpu_quota(*, cgroup_dir: Path = _CGROUP_DIR, own_cgroups: Path = _OWN_CGROUPS) -> float | None:
    """Returns the CPUs that the control groups (version 1 or 2) of this process allow; None for no limit."""
    limits = []
    for line in _read(own_cgroups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts, read_limit = [cgroup_dir, cgroup_dir / "unified"], _limit_v2
        elif "cpu" in controllers.split(","):
            mounts, read_limit = [cgroup_dir / controllers, cgroup_dir / "cpu"], _limit_v1
        else:
            continue
        # A limit may sit on any ancestor; in a container the path may name a folder that only the host sees.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                limits.append(read_limit(mount.joinpath(*parts[:depth])))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_v2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _limit_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _core_name(cpu: int, cpu_dir: Path) -> str:
    topology = cpu_dir / f"cpu{cpu}" / "topology"
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(cpu)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

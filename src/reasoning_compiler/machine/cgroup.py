"""The limits that Linux control groups (containers) put on this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CGROUP_DIR = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cpu_quota(*, cgroup_dir: Path = _CGROUP_DIR, own_cgroups: Path = _OWN_CGROUPS) -> float | None:
    """Returns the CPUs that the control groups of this process allow, as a fraction; None for no limit."""
    limits = []
    for folder in _folders("cpu", cgroup_dir, own_cgroups):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # not where it is "max" or -1
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit_bytes(*, cgroup_dir: Path = _CGROUP_DIR, own_cgroups: Path = _OWN_CGROUPS) -> int | None:
    """Returns the bytes of memory that the control groups of this process allow; None for no limit."""
    limits = []
    for folder in _folders("memory", cgroup_dir, own_cgroups):
        limit = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
        if limit.isdigit():
            limits.append(int(limit))
    return min(limits, default=None)


def _folders(controller: str, cgroup_dir: Path, own_cgroups: Path) -> Iterator[Path]:
    """Yields the folders of our own groups (version 1 or 2) and their ancestors: any may hold a limit."""
    for line in read_text(own_cgroups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = [cgroup_dir, cgroup_dir / "unified"]
        elif controller in controllers.split(","):
            mounts = [cgroup_dir / controllers, cgroup_dir / controller]
        else:
            continue
        # In a container the path may name a folder that only the host sees: then the mount's root is our own.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                yield mount.joinpath(*parts[:depth])


def read_text(path: Path) -> str:
    """Returns what a file of the system says, without space around it; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""

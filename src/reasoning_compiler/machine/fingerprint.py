"""What decides whether two measurements may be compared, as plain JSON."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import Any

from reasoning_compiler.core.machines import Machine
from reasoning_compiler.machine.toolchain import installed_version

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "reasoning-compiler")


def fingerprint(machine: Machine, threads: int) -> dict[str, Any]:
    """Returns the environment of a run as plain JSON.

    Args:
        machine: what the programs run on.
        threads: how many threads they use.
    """
    versions = {name: installed_version(name) for name in _PACKAGES}
    versions["xgboost"] = installed_version("xgboost-cpu") or installed_version("xgboost")
    return {
        "versions": {"python": platform.python_version()} | versions,
        "cpu": machine.name,
        "features": sorted(machine.features),
        "features_sha256": hashlib.sha256(",".join(sorted(machine.features)).encode()).hexdigest(),
        "target": json.loads(machine.target),
        "threads": threads,
        "os": platform.system(),
        "kernel": platform.release(),
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Returns one line for each difference between two fingerprints that makes their times incomparable.

    These are the CPU, its features, the target, the threads and TVM's versions; not the kernel or Python.

    Args:
        a: the fingerprint that was recorded.
        b: the fingerprint of now.
    """
    lines = [
        f"{words}: was {_show(a.get(field))}, is {_show(b.get(field))}"
        for field, words in (("cpu", "CPU"), ("target", "target"), ("threads", "threads"))
        if a.get(field) != b.get(field)
    ]
    if a.get("features_sha256") != b.get("features_sha256"):
        before, after = set(a.get("features", ())), set(b.get("features", ()))
        new = [f"+{name}" for name in sorted(after - before)]
        gone = [f"-{name}" for name in sorted(before - after)]
        lines.append(f"CPU features: {' '.join(new + gone)}")
    for package in ("apache-tvm", "apache-tvm-ffi"):
        before, after = (x.get("versions", {}).get(package) for x in (a, b))
        if before != after:
            lines.append(f"{package}: was {_show(before)}, is {_show(after)}")
    return lines


def _show(value: Any) -> str:
    return "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)

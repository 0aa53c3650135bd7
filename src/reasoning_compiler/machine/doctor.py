"""Whether this installation can do its work, and what to do where it cannot."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_compiler.core.processes.call import ChildError, call_in_child
from reasoning_compiler.machine.cores import num_physical_cores
from reasoning_compiler.machine.probe import cache_dir
from reasoning_compiler.machine.toolchain import (
    INSTALL_COMMAND,
    c_compiler,
    import_tvm,
    installed_version,
    use_threads,
    why_not_tvm,
)

_MIN_PYTHON = (3, 10)
_MIN_FREE_BYTES = 1 << 30
_CHILD_TIMEOUT_SECS = 120


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Args:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        advice: what to do where it is not ok.
    """

    name: str
    ok: bool
    detail: str
    advice: str


def checks() -> Iterator[Check]:
    """Yields every check as soon as it is made: eight in about 4 seconds.

    What could crash or hang runs in a process of its own: a segmentation fault of TVM is a failed check.
    """
    yield _python()
    yield _versions()
    yield from _tvm()
    yield _xgboost()
    yield _compiler()
    yield _cache()
    yield _disk()


def try_tvm(num_threads: int) -> dict[str, Any]:
    """Returns what TVM does here, as JSON: its LLVM, the CPU that it sees, sketches found, threads used.

    To be called in a process of its own: with a wrong pair of versions it crashes.
    """
    tvm = import_tvm(any_version=True)
    use_threads(num_threads)
    if not tvm.runtime.enabled("llvm"):
        return {"llvm": None}
    from tvm import te
    from tvm.s_tir.meta_schedule import TuneContext
    from tvm.target.codegen import llvm_get_system_cpu, llvm_version_major
    from tvm_ffi import get_global_func

    a, b = te.placeholder((64, 64), name="a"), te.placeholder((64, 64), name="b")
    k = te.reduce_axis((0, 64), name="k")
    product = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="product")
    module = tvm.IRModule({"main": te.create_prim_func([a, b, product])})
    cpu = str(llvm_get_system_cpu())
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": num_threads})
    context = TuneContext(module, target=target, space_generator="post-order-apply", num_threads=1)
    return {
        "llvm": llvm_version_major(),
        "cpu": cpu,
        "num_sketches": len(context.generate_design_space()),
        "num_threads": get_global_func("runtime.NumThreads")(),
    }


def try_xgboost() -> str:
    """Returns the version of XGBoost; importing it may fail where its shared libraries are missing."""
    import xgboost

    return xgboost.__version__


def _python() -> Check:
    detail = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", sys.version_info >= _MIN_PYTHON, detail, "install Python 3.10 or later")


def _versions() -> Check:
    wrong = why_not_tvm()
    pair = ", ".join(f"{name} {installed_version(name)}" for name in ("apache-tvm", "apache-tvm-ffi"))
    return Check("TVM versions", wrong is None, pair, wrong or "")


def _tvm() -> Iterator[Check]:
    num_cores = num_physical_cores()
    advice = f"run `{INSTALL_COMMAND}`"
    try:
        found = call_in_child(f"{__name__}:try_tvm", num_cores, timeout_secs=_CHILD_TIMEOUT_SECS)
    except ChildError as error:
        yield Check("TVM", False, f"a small search failed: {error}", advice)
        return
    if found["llvm"] is None:
        yield Check("TVM", False, "this build has no LLVM", advice)
        return
    detail = f"LLVM {found['llvm']}, CPU {found['cpu']}, {found['num_sketches']} sketches for a small kernel"
    yield Check("TVM", True, detail, advice)
    num_threads = found["num_threads"]
    yield Check(
        "threads",
        num_threads == num_cores,
        f"TVM uses {num_threads} of {num_cores} physical cores (of {os.cpu_count()} logical ones)",
        f"set TVM_NUM_THREADS={num_cores} before the start",
    )


def _xgboost() -> Check:
    advice = 'run `python -m pip install "xgboost-cpu>=2.1"`'
    try:
        version = call_in_child(f"{__name__}:try_xgboost", timeout_secs=_CHILD_TIMEOUT_SECS)
    except ChildError as error:
        return Check("XGBoost", False, str(error), advice)
    return Check("XGBoost", True, version, advice)


def _compiler() -> Check:
    found = c_compiler()
    return Check(
        "C compiler",
        found is not None,
        str(shutil.which(found[0])) if found else f"not found: {os.environ.get('CC') or 'cc, gcc, clang'}",
        "install one to link libraries (`apt install gcc`, `xcode-select --install`), or set CC to yours",
    )


def _cache() -> Check:
    folder = cache_dir()
    advice = "set REASONC_CACHE_DIR to a writable folder, or this machine is probed again at every start"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("cache", False, f"{folder} is not writable: {error.strerror}", advice)
    return Check("cache", True, str(folder), advice)


def _disk() -> Check:
    folders = (Path.cwd(), Path(tempfile.gettempdir()))
    free_bytes = {folder: shutil.disk_usage(folder).free for folder in folders}
    detail = ", ".join(f"{free / 1e9:.1f} GB free in {folder}" for folder, free in free_bytes.items())
    return Check("disk", min(free_bytes.values()) >= _MIN_FREE_BYTES, detail, "make room: a run may need a gigabyte")

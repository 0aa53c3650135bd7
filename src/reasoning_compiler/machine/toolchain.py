"""The one way in which this package imports TVM, and how its threads and its logging are set."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine.cores import allowed_cpus

TVM_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What TVM raises where it refuses something: `ScheduleError` and `InternalError` are RuntimeErrors, and a failed check
may carry the name of any of Python's own exceptions."""

TVM_VERSION = "0.27.0.post1"
FFI_VERSIONS = ">=0.1.14.post0,<0.1.15"
INSTALL_COMMAND = f'python -m pip install "apache-tvm=={TVM_VERSION}" "apache-tvm-ffi{FFI_VERSIONS}"'

_COMPILERS = ("cc", "gcc", "clang")
_lock = threading.RLock()


def import_tvm(*, any_version: bool = False) -> ModuleType:
    """Returns the module `tvm`, with MetaSchedule and its tensor intrinsics imported.

    Every use of TVM in this package starts here: the intrinsics' import takes ten seconds or more where TVM
    does it by itself, and one or two here. May be called often, from any thread, and after others have
    imported TVM.

    Args:
        any_version: do not refuse versions that are known to crash; for a process that may.

    Raises:
        UsageError: TVM is not installed, or its version and that of its FFI are known to crash together.
    """
    with _lock:
        if not any_version:
            _require_known_versions()
        with _without_torch():
            import tvm
        import tvm.s_tir.meta_schedule

        if "tvm.s_tir.tensor_intrin" not in sys.modules:
            with _quick_inspect_stack():
                import tvm.s_tir.tensor_intrin
        return tvm


@cache  # reading what is installed takes a millisecond, and this is asked for hundreds of times a second
def _require_known_versions() -> None:
    wrong = why_not_tvm()
    if wrong is not None:
        raise UsageError(wrong)


def c_compiler() -> list[str] | None:
    """Returns the command that links libraries, as words: `CC`'s, or the first compiler found; None without any."""
    words = shlex.split(os.environ.get("CC", "")) or [name for name in _COMPILERS if shutil.which(name)][:1]
    return words if words and shutil.which(words[0]) else None


def why_not_tvm() -> str | None:
    """Returns why the installed TVM cannot be used and what mends it, in one line, or None if it can.

    Only package metadata is read: a pair of versions that crashes together is found before it is loaded.
    """
    tvm, ffi = installed_version("apache-tvm"), installed_version("apache-tvm-ffi")
    if tvm is None:
        return f"TVM is not installed: run `{INSTALL_COMMAND}`"
    if tvm != TVM_VERSION:
        return f"apache-tvm {tvm} was never tested here, only {TVM_VERSION}: run `{INSTALL_COMMAND}`"
    if ffi is None:
        return f"apache-tvm {tvm} lacks its package apache-tvm-ffi: run `{INSTALL_COMMAND}`"
    # Later ones import, and then MetaSchedule's `TuneContext` ends the process with a segmentation fault.
    if re.fullmatch(r"0\.1\.14\.post\d+", ffi) is None:
        return f"apache-tvm {tvm} with apache-tvm-ffi {ffi} crashes in every search: run `{INSTALL_COMMAND}`"
    return None


def installed_version(package: str) -> str | None:
    """Returns the version of an installed package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def use_threads(num_threads: int) -> None:
    """Makes TVM's kernels use `num_threads` threads: in this thread, in later ones and in child processes.

    Without it TVM takes half of the logical CPUs on x86, and ignores affinity and quotas. TVM also binds its
    threads to logical CPUs 0, 1, …, and the main thread with its later children to the same ones; where those
    are not all that this process has, that is switched off. Call it in the thread that runs the kernels and
    after importing TVM: then it also holds where cores differ in clock, of which TVM uses the fastest only.

    Raises:
        UsageError: `num_threads` is below 1, or kernels have already run in this thread with fewer threads:
            TVM's pool of a thread cannot grow.
    """
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise UsageError(f"`num_threads` must be an integer ≥ 1, not {num_threads!r}")
    os.environ["TVM_NUM_THREADS"] = str(num_threads)
    if allowed_cpus() != list(range(num_threads)):
        os.environ["TVM_BIND_THREADS"] = "0"
    if num_threads == 1 or "tvm_ffi" not in sys.modules:
        return  # one thread is no pool; and a runtime that starts later reads the environment
    from tvm_ffi import get_global_func

    configure = get_global_func("runtime.config_threadpool", allow_missing=True)
    if configure is None:
        return
    fastest_first = 1
    configure(fastest_first, num_threads)
    actual = get_global_func("runtime.NumThreads")()
    if actual != num_threads:
        raise UsageError(
            f"`num_threads` is {num_threads}, but TVM already runs {actual} threads here and cannot grow: "
            f"start again with TVM_NUM_THREADS={num_threads} set, or use them before the first kernel"
        )


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keeps MetaSchedule, inside the `with`, from writing to the terminal and from making log files.

    Errors still reach the root logger. A worker process, which logs for nobody, need not leave the `with`.
    """
    import_tvm()
    from tvm.s_tir.meta_schedule import logging as ms_logging

    logger, make_files = logging.getLogger("tvm.s_tir.meta_schedule"), ms_logging.create_loggers
    level = logger.level
    logger.setLevel(logging.ERROR)
    ms_logging.create_loggers = lambda *args, **kwargs: None
    try:
        yield
    finally:
        logger.setLevel(level)
        ms_logging.create_loggers = make_files


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hides PyTorch while TVM is first imported: TVM imports it too, which takes seconds.

    A PyTorch that has been imported before stays in sight. Tensors of one that is imported later reach TVM's functions
    all the same, through DLPack.
    """
    if "torch" in sys.modules or "tvm" in sys.modules:
        yield
        return
    sys.modules["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextmanager
def _quick_inspect_stack() -> Iterator[None]:
    """Replaces `inspect.stack`, for this thread, by one that reads no source files.

    Each of the intrinsics' some 250 TVMScript functions asks for the stack, and finding the source lines of
    every frame (which nobody looks at) searches all loaded modules.
    """
    original, owner = inspect.stack, threading.get_ident()

    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        if threading.get_ident() != owner:
            return original(context)
        frames, frame = [], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            info = (frame, code.co_filename, frame.f_lineno, code.co_name, None, None)
            frames.append(inspect.FrameInfo(*info))
            frame = frame.f_back
        return frames

    inspect.stack = stack
    try:
        yield
    finally:
        inspect.stack = original


def last_line(error: Exception) -> str:
    """Returns what a TVM exception has to say, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("Error message:"):
            return line.removeprefix("Error message:").strip()[:300]
    return (lines[-1] if lines else type(error).__name__)[:300]

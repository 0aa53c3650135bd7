"""A user's own kernel: from a Python file, or as an object of TVM."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.workload.normal_form import in_normal_form
from reasoning_compiler.workload.older_dialect import renamed_in
from reasoning_compiler.workload.primfunc import arguments, has_known_loops, require_buffers, require_tunable
from reasoning_compiler.workload.workload import Workload

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.tirx import PrimFunc


def names_a_file(text: str) -> bool:
    """Returns whether `text` means a Python file, as "kernels.py" or "kernels.py:my_matmul"."""
    return _split(text)[0].endswith(".py")


def from_file(text: str) -> Workload:
    """Returns the kernel that a Python file defines. The file is executed.

    Args:
        text: "path.py:name", the name of a PrimFunc, an IRModule with one PrimFunc, a `Workload` (which may have a
            reference of its own), or a function that needs no arguments and returns one of them.

    Raises:
        UsageError: the file does not exist, does not parse or does not run; it has no such name, or what has the
            name cannot be tuned (see `from_tvm`).
    """
    file, name = _split(text)
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"there is no file `{file}`; give a Python file and a function, as kernels.py:my_matmul")
    module = _execute(path)
    candidates = _candidates(module)
    listing = f"it has {', '.join(candidates)}" if candidates else "it defines no PrimFunc, IRModule or function"
    if not name:
        raise UsageError(f"`{file}` needs the name of a function, as {file}:{(*candidates, 'my_matmul')[0]}; {listing}")
    if not hasattr(module, name):
        raise UsageError(f"`{file}` has no function `{name}`; {listing}")
    kernel = getattr(module, name)
    if inspect.isroutine(kernel):
        kernel = _call(kernel, path, name)
    if isinstance(kernel, Workload):
        return replace(kernel, spec=f"{path}:{name}")
    return _workload(kernel, name, spec=f"{path}:{name}")


def from_tvm(kernel: PrimFunc | IRModule, *, name: str = "") -> Workload:
    """Returns a TVM program as a workload.

    Outputs are the arguments that the program writes, weights those that its attribute `layout_free_buffers` lists.
    It has no reference: results are compared with those of the program itself in float64.

    Args:
        kernel: a PrimFunc, or an IRModule with one.
        name: what to call it; the function's own name where empty.

    Raises:
        UsageError: it is no PrimFunc; there are several; its shapes are dynamic; or it has no output.
    """
    return _workload(kernel, name or _own_name(kernel), spec="")


def _workload(kernel: Any, name: str, *, spec: str) -> Workload:
    tvm = import_tvm()
    func = _only_function(kernel, name)
    require_buffers(func, name)
    func = in_normal_form(func)
    require_tunable(func, name)
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    flops = None
    if has_known_loops(func):
        with suppress(Exception):  # TVM has no estimate for some expressions, and says so by several kinds of error
            flops = int(tvm.s_tir.analysis.estimate_tir_flops(mod))
    return Workload(name=name, mod=mod, arguments=arguments(func), flops=flops, reference=None, spec=spec)


def _only_function(kernel: Any, name: str) -> PrimFunc:
    tvm = import_tvm()
    if isinstance(kernel, tvm.tirx.PrimFunc):
        return kernel
    if not isinstance(kernel, tvm.IRModule):
        raise UsageError(
            f"`{name}` is of the type {type(kernel).__name__}, not a PrimFunc; "
            "it must be a PrimFunc, an IRModule with one, or a function that returns one"
        )
    functions = {var.name_hint: function for var, function in kernel.functions.items()}
    others = sorted(key for key, function in functions.items() if not isinstance(function, tvm.tirx.PrimFunc))
    if others:
        raise UsageError(f"`{name}` holds functions that are no PrimFuncs: {', '.join(others)}; give one PrimFunc")
    if len(functions) != 1:
        listing = ", ".join(sorted(functions)) or "none"
        raise UsageError(f"`{name}` must hold one PrimFunc, but holds {len(functions)} ({listing}); give one of them")
    return next(iter(functions.values()))


def _own_name(kernel: Any) -> str:
    names = [var.name_hint for var in getattr(kernel, "functions", ())]
    if getattr(kernel, "attrs", None) is not None and "global_symbol" in kernel.attrs:
        names = [str(kernel.attrs["global_symbol"])]
    return names[0] if names else "kernel"


def _split(text: str) -> tuple[str, str]:
    file, suffix, name = text.partition(".py:")
    return (f"{file}.py", name) if suffix else (text, "")


def _execute(path: Path) -> ModuleType:
    # TVMScript reads its functions' source through `sys.modules`; the name must not hide another module.
    module_name = f"reasoning_compiler_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"`{path}` cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(spec)
    import_tvm()
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"`{path}` does not parse: line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` does not parse: it is not UTF-8 text") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"`{path}` does not run: {_where(error, path)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _call(function: Any, path: Path, name: str) -> Any:
    required = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise UsageError(
            f"`{name}` needs arguments ({', '.join(required)}); "
            "give them defaults, or write a function without them that returns the PrimFunc"
        )
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"`{path}:{name}` does not run: {_where(error, path)}") from error


def _candidates(module: ModuleType) -> list[str]:
    """Returns the names that the file itself defines and that might be kernels."""
    tvm = import_tvm()
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, (tvm.tirx.PrimFunc, tvm.IRModule, Workload))
            or (inspect.isfunction(value) and value.__module__ == module.__name__)
        )
    ]


def _where(error: BaseException, path: Path) -> str:
    """Returns an error of the user's code as one line, with the line of their file that it came from."""
    if renamed := renamed_in(path):
        return renamed
    # TVMScript renders the place into the message: "error: Undefined variable: C\n --> kernels.py:8:13\n ...".
    text = str(error).strip()
    place = re.search(r"-->\s*.*:(\d+):\d+", text)
    frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    line = place.group(1) if place else frames[-1] if frames else None
    first = next((part.strip() for part in text.splitlines() if part.strip()), "")
    message = first.removeprefix("error: ") if place else f"{type(error).__name__}: {first}".rstrip(": ")
    return f"line {line}: {message}" if line else message

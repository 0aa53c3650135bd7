"""From generated code to a library: linked here, by a cross compiler, or later by the device itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoning_compiler.core.refused import Refused
from reasoning_compiler.machine.targets import is_native
from reasoning_compiler.machine.toolchain import c_compiler


def link(module: Any, library: Path, *, target: str) -> None:
    """Writes a built module as a shared library, or its object beside it where nothing here can link for its target.

    The object has the suffix `.o`; a device links it when it is measured there. A cross compiler is used where one
    of the usual name is installed, as `aarch64-linux-gnu-gcc`.

    Args:
        module: what `tvm.compile` has made.
        library: the file to write.
        target: the TVM target as JSON text.

    Raises:
        Refused: "build" where it cannot be linked.
    """
    is_plain = module.kind == "llvm" and not module.imports
    native = is_native(target)
    if native and not (is_plain and sys.platform.startswith("linux")):
        module.export_library(str(library))
        return
    if not is_plain:
        raise Refused("build", f"a module of kind {module.kind!r} with imports cannot be linked for another machine")
    if native:
        compiler = c_compiler()
        if compiler is None:
            raise Refused("build", "no C compiler found to link with: install gcc or clang, or set CC")
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            code = Path(folder, "kernel.o")
            module.write_to_file(str(code))
            _link(compiler, code, library)
        return
    code = library.with_suffix(".o")
    module.write_to_file(str(code))
    cross = shutil.which(f"{json.loads(target)['mtriple']}-gcc")
    if cross is not None:
        _link([cross], code, library)


def _link(compiler: Sequence[str], code: Path, library: Path) -> None:
    # TVM's own way, `g++ -shared`, takes three to four times as long: it looks at start-up code and libstdc++, of
    # which a kernel, which is called and never started, uses nothing. Line numbers, which modules read from TVMScript
    # have and others do not, are left out: equal modules have equal libraries.
    libraries = ["-lm", "-lc", "-lgcc"]
    command = [*compiler, "-shared", "-nostdlib", "-o", str(library), str(code), *libraries, "-Wl,--strip-debug"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Refused("build", f"linking failed: {' '.join(done.stderr.split())}")

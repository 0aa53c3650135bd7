"""Building a library from a scheduled module: what a builder process does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tvm_ffi.serialization import from_json_graph_str

from reasoning_compiler import codegen
from reasoning_compiler.codegen import dot_products, prefetching  # noqa: F401  imported before the first build
from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.processes.serving import Action, one_line
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.ir.races import racing_loop
from reasoning_compiler.measure.workers.store import Store


class Builder:
    """Builds libraries, one at a time.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def actions(self) -> dict[str, Action]:
        """What this process can be asked for."""
        return {"build": self.build}

    def build(self, *, module: str, target: str, arguments: tuple[Argument, ...] | None) -> dict[str, Any]:
        """Builds a shared library with `main` and the packing functions.

        For another machine it may be an object, see `link`.

        Args:
            module: the IRModule in TVM's JSON.
            target: the TVM target as JSON text.
            arguments: those of `main` as its user passes them; None to take them from the module.

        Returns:
            {"code": its key in the store, "signature": its `Signature`, "build_secs": time to generate and link it}

        Raises:
            Refused: "wrong_result" where parallel iterations write the same, "build" where TVM or the linker fails,
                "device" where the library cannot be written.
        """
        started = time.perf_counter()
        try:
            # `tvm.ir.load_json` would look through it for what older versions have written: 9 ms of some 150.
            mod = from_json_graph_str(module)
            racing = racing_loop(mod["main"])
            if racing is not None:
                raise Refused("wrong_result", racing)
            compiled = codegen.compile(mod, target, arguments=arguments)
            with tempfile.TemporaryDirectory(dir=self._store.folder) as folder:
                made = compiled.link(Path(folder, "kernel.so"))
                code = self._store.put(made.read_bytes(), suffix=made.suffix)
        except Refused:
            raise
        except OSError as error:
            raise Refused("device", one_line(error)) from None
        except Exception as error:  # whatever a compiler throws at an odd schedule is this candidate's failure
            raise Refused("build", one_line(error)) from None
        return {"code": code, "signature": compiled.signature, "build_secs": time.perf_counter() - started}

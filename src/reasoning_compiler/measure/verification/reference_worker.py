"""What the process does that runs a kernel as it was written: it says what the kernel must compute, or dies of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm.target.codegen import llvm_get_system_cpu
from tvm_ffi.serialization import from_json_graph_str

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.processes.serving import one_line
from reasoning_compiler.core.refused import Refused
from reasoning_compiler.measure.verification.reference import Kernel
from reasoning_compiler.measure.verification.stored import StoredArray, StoredOutputs
from reasoning_compiler.measure.workers.store import Store


class ReferenceWorker:
    """One kernel, compiled when it is first asked for.

    Args:
        store: where the kernel and its inputs are, and where its outputs go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kernel: Kernel | None = None

    @property
    def actions(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """What this process can be asked for."""
        return {"expect": self.expect}

    def expect(
        self,
        *,
        module: str,
        arguments: tuple[Argument, ...],
        inputs: tuple[StoredArray, ...],
        any_order: bool,
    ) -> dict[str, Any]:
        """Computes the right outputs on some inputs.

        Args:
            module: the key of the kernel in TVM's JSON, the same in each request.
            arguments: those of the kernel.
            inputs: one per argument that is no output, in order.
            any_order: see `Kernel.reference`.

        Returns:
            {"expected": a `StoredOutputs`, None where the inputs say nothing, "origin": see `Origin`}

        Raises:
            Refused: "build" where TVM cannot compile the kernel as it was written, "crash" where it gives up on it.
        """
        try:
            if self._kernel is None:
                mod = from_json_graph_str(self._store.get(module).decode())
                self._kernel = Kernel(
                    mod, arguments, tvm.target.Target({"kind": "llvm", "mcpu": str(llvm_get_system_cpu())})
                )
        except Exception as error:  # whatever a compiler throws
            raise Refused("build", one_line(error)) from None
        try:
            arrays = [each.get(self._store) for each in inputs]
            made = self._kernel.reference(arrays, any_order=any_order)
        except Exception as error:
            raise Refused("crash", one_line(error)) from None
        if made is None:
            return {"expected": None, "origin": ""}
        expected = StoredOutputs(
            tuple(StoredArray.put(self._store, values) for values in made.values),
            tuple(None if mask is None else StoredArray.put(self._store, mask) for mask in made.unwritten),
            made.tolerance,
        )
        return {"expected": expected, "origin": made.origin}

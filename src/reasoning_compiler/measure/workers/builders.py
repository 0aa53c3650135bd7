"""The processes that build libraries, as the process that asks them sees them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.workers.pool import Pool, Request, WorkerOptions
from reasoning_compiler.measure.workers.scratch import Scratch, no_space

BUILD_TIMEOUT_SECS = 60.0


@dataclass(frozen=True)
class Built:
    """A library, or why there is none.

    Args:
        library: the shared library, alone with its signature in a folder.
        build_secs: time to generate and link the code.
        failure: why it does not exist; None where it does.
    """

    library: Path
    build_secs: float = 0.0
    failure: Failure | None = None


class Builders:
    """Processes that build libraries, several at once.

    Args:
        num_workers: how many, ≥ 1.
        scratch: where libraries go.
        timeout_secs: the longest that a build may take.
    """

    def __init__(self, num_workers: int, scratch: Scratch, *, timeout_secs: float = BUILD_TIMEOUT_SECS) -> None:
        self._pool = Pool(num_workers, WorkerOptions("builder"))
        self._scratch = scratch
        self._timeout_secs = timeout_secs

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._pool.pids

    def wait_until_ready(self) -> float:
        """Returns how many seconds the builders still needed to start."""
        started = time.perf_counter()
        self._pool.wait_until_ready()
        return time.perf_counter() - started

    def build(self, modules: Sequence[tuple[Any, str]], *, arguments: Sequence[Argument] | None = None) -> list[Built]:
        """Returns what became of each module.

        Args:
            modules: (scheduled IRModule, TVM target as JSON text) pairs.
            arguments: the arguments of every module's `main`; None to take them from the module, where the
                last is taken for the output.

        Raises:
            ReasoningCompilerError: the builders do not start, or temporary files cannot be written.
        """
        import tvm

        known = None if arguments is None else [asdict(argument) for argument in arguments]
        requests, libraries = [], []
        for mod, target in modules:
            folder = self._scratch.new_folder()
            try:
                (folder / "module.json").write_text(tvm.ir.save_json(mod))
            except OSError as error:
                raise no_space(error) from None
            libraries.append(folder / "kernel.so")
            payload = {
                "module": str(folder / "module.json"),
                "target": target,
                "arguments": known,
                "library": str(libraries[-1]),
            }
            requests.append(Request("build", payload, self._timeout_secs))
        built = [Built(library) for library in libraries]
        for index, answer in self._pool.map(requests):
            (libraries[index].parent / "module.json").unlink(missing_ok=True)
            if not isinstance(answer, Failure):
                built[index] = replace(built[index], build_secs=answer["build_secs"])
            elif answer.kind == "crash":
                # "crash" is for programs that die when they run; this one never came to that.
                why = Failure("build", f"the compiler died: {answer.message}")
                built[index] = replace(built[index], failure=why)
            else:
                built[index] = replace(built[index], failure=answer)
        return built

    def close(self) -> None:
        """Ends the workers. May be called again."""
        self._pool.close()

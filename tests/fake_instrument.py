"""A measuring instrument that measures nothing: what it says of a program depends on the program alone.

In the place of `Instrument`, it lets everything else of a run be real, fast, and the same whenever it is repeated.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm_ffi

from reasoning_compiler.codegen.signature import KernelArgument, Signature, write_signature
from reasoning_compiler.core.measurements import Comparison, Failure, Measurement, Noise
from reasoning_compiler.measure.instrument import Measured
from reasoning_compiler.workload import Workload

UNTUNED_SECS = 5e-3

Judge = Callable[[int], Measurement]
"""What the hardware says of a program, by 64 bits that identify it."""


def rugged(bits: int) -> Measurement:
    """Returns a latency from 1 to 2 ms, for one program in eight a failure."""
    if bits % 8 == 0:
        return failing("crash")(bits)
    secs = 1e-3 * (1 + (bits >> 8) % 1000 / 1000)
    return Measurement((secs, 1.01 * secs, 0.99 * secs), verified=True)


def lasting(secs: float) -> Judge:
    """Returns a judge to whom all programs take so long, give or take a millionth part."""
    return lambda bits: Measurement((secs * (1 + bits % 1000 * 1e-9),), verified=True)


def failing(kind: Any, message: str = "as planned") -> Judge:
    """Returns a judge to whom all programs fail in the same way."""
    return lambda bits: Measurement(failure=Failure(kind, message))


_untuned = lasting(UNTUNED_SECS)


class FakeInstrument:
    """See `Instrument`; `judge` and `untuned` say what it says."""

    def __init__(
        self,
        workload: Workload,
        target: Any,
        executor: Any,
        *,
        seed: int = 0,
        timeout_secs: float = 30.0,
        clock: Any = None,
        judge: Judge = rugged,
        untuned: Judge = _untuned,
    ) -> None:
        self._workload, self._target = workload, str(target)
        self._judge, self._judge_untuned = judge, untuned
        self._judges: dict[Path, tuple[Judge, int]] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="fake-instrument-"))
        self.notices: tuple[str, ...] = ()

    def __enter__(self) -> FakeInstrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(
        self,
        modules: Sequence[Any],
        *,
        best_secs: float | None,
        on_result: Callable[[int, Measured], None] | None = None,
    ) -> list[Measured]:
        results = []
        for index, mod in enumerate(modules):
            result = self._measure(mod, self._judge, best_secs)
            if result.measurement.counts:
                best_secs = min(result.measurement.latency_secs, best_secs or result.measurement.latency_secs)
            results.append(result)
            if on_result is not None:
                on_result(index, result)
        return results

    def measure_untuned(self) -> Measured:
        return self._measure(self._workload.mod, self._judge_untuned, None)

    def confirm(self, artifacts: Sequence[Path], *, rounds: int = 10, budget_secs: float = 10.0) -> list[Measurement]:
        known = (self._judges.get(path, (self._judge, _bits(path.read_text()))) for path in artifacts)
        return [judge(bits) for judge, bits in known]

    def noise(self, artifact: Path) -> Noise | None:
        return Noise(Comparison("no difference", 1.0, 1.0, 1.0, 12), spread=0.0)

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _measure(self, mod: Any, judge: Judge, best_secs: float | None) -> Measured:
        text = str(tvm_ffi.structural_hash(mod) & (2**64 - 1))
        bits = _bits(text)
        said = judge(bits)
        if not said.ok:
            return Measured(said)
        if best_secs is not None and said.latency_secs > 1.5 * best_secs:
            return Measured(Measurement(said.latencies_secs[:1], cut=True))
        library = Path(tempfile.mkdtemp(dir=self._scratch)) / "kernel.so"
        library.write_bytes(text.encode())
        arguments = tuple(
            KernelArgument(a.name, a.shape, a.dtype, a.role, None, a.shape, a.dtype) for a in self._workload.arguments
        )
        write_signature(library, Signature(arguments, self._target))
        self._judges[library] = (judge, bits)
        return Measured(said, library)


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

"""A reference of the caller's: a run folder does not keep it, so whoever goes on is told, or gives it again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import reasoning_compiler as rc
from reasoning_compiler.cli.main import main
from reasoning_compiler.journal import read_run
from reasoning_compiler.session import Progress
from reasoning_compiler.workload import from_tvm, parse
from space_kernels import elementwise

pytestmark = pytest.mark.tvm


@pytest.mark.nightly
def test_going_on_without_the_callers_reference_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, notices = [], []

    def reference(inputs: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(1)
        return [np.exp(inputs[0].astype(np.float64)) + 1]

    def listen(progress: Progress) -> None:
        notices.extend([progress.notice] * bool(progress.notice))

    workload = replace(from_tvm(elementwise().mod, name="mine"), reference=reference)
    folder = rc.tune(workload, out=tmp_path / "run", samples=1, on_progress=listen).folder
    assert calls and not notices and read_run(folder).header.own_reference
    calls.clear()
    rc.resume(folder, samples=2, on_progress=listen)
    assert not calls and len(notices) == 1 and "those of the kernel itself" in notices[0]
    rc.resume(folder, samples=3, on_progress=listen, reference=reference)
    assert calls and len(notices) == 1
    monkeypatch.setattr(sys, "argv", ["reasonc", "run", str(folder), "--rounds", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "those of the kernel itself" in capsys.readouterr().err


def test_kernels_that_can_be_made_again_bring_theirs(tmp_path: Path) -> None:
    folder = rc.tune(parse("gemm[8,8,8]"), out=tmp_path / "run", samples=1).folder
    assert not read_run(folder).header.own_reference

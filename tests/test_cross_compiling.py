"""Building for machines that are not here: the paper's five platforms, by looking at the object code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tvm")

import reasoning_compiler as rc
from measure_kernels import Gemm
from reasoning_compiler import machine
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine.targets import is_native
from reasoning_compiler.measure.executors.local import LocalExecutor
from reasoning_compiler.session import Settings
from reasoning_compiler.session.spaces import make_space

pytestmark = pytest.mark.tvm

X86_64, AARCH64 = 62, 183
OBJECT, SHARED = 1, 3


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(num_threads=1, num_build_workers=1) as executor:
        yield executor


def describe(code: bytes) -> str:
    """Returns the format, the kind and the processor that code is for, from its first bytes."""
    head = code[:20]
    if head[:4] == b"\x7fELF":
        kind, cpu = (int.from_bytes(head[i : i + 2], "little") for i in (16, 18))
        return f"ELF {kind} {cpu}"
    assert head[:4] == bytes.fromhex("cffaedfe")
    cpu, kind = (int.from_bytes(head[i : i + 4], "little") for i in (4, 12))
    return f"Mach-O {kind} {cpu:#x}"


@pytest.mark.parametrize("name", machine.PRESETS)
def test_what_the_search_starts_with_builds_for_every_platform(name: str, executor: LocalExecutor) -> None:
    preset = machine.preset(name)
    space = make_space(rc.workloads.gemm(64, 64, 64), preset, Settings())
    (built,) = executor.build([(space.schedule(space.start).mod, preset.target)])
    assert built.kernel is not None, built.failure
    if is_native(preset.target):
        suffix, expected = ".so", f"ELF {SHARED} {AARCH64 if preset.isa == 'neon' else X86_64}"
    else:
        # Nothing here links for these: the device does.
        suffix, expected = ".o", "Mach-O 1 0x100000c" if name == "m2-pro" else f"ELF {OBJECT} {AARCH64}"
    assert built.kernel.code.endswith(suffix)
    assert describe(executor.store.get(built.kernel.code)) == expected


def test_a_cross_compiler_links_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It says what it was asked for, in the place of the library.
    (tmp_path / "aarch64-linux-gnu-gcc").write_text('#!/bin/sh\necho "$@" > "$4"\n')
    (tmp_path / "aarch64-linux-gnu-gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with LocalExecutor(num_threads=1, num_build_workers=1) as executor:
        (built,) = executor.build([(Gemm().mod, machine.preset("graviton2").target)])
        assert built.kernel is not None, built.failure
        assert executor.store.get(built.kernel.code).startswith(b"-shared -nostdlib -o ")


def test_machines_and_devices_go_together() -> None:
    for wrong, words in [
        ({"rpc": "127.0.0.1:9190"}, "`rpc` and `key` go together"),
        ({"machine": "graviton2"}, "give `--rpc HOST:PORT --key KEY`"),
        ({"rpc": "9190", "key": "board"}, "must be HOST:PORT"),
        ({"rpc": "127.0.0.1:9190", "key": "two words"}, "without spaces"),
    ]:
        with pytest.raises(UsageError, match=words):
            Settings(**wrong)
    settings = Settings(rpc="[::1]:9190", key="board", machine="graviton2")
    assert Settings.from_json(settings.to_json()) == settings
    assert str(settings.devices.tracker) == "[::1]:9190" and settings.devices.tracker.host == "::1"


def test_a_target_of_another_kind_of_machine_needs_that_machine() -> None:
    text = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}'
    board = machine.with_target(machine.preset("graviton2"), text)
    assert machine.tvm_target(board).attrs["mcpu"] == "cortex-a76"
    assert "dotprod" in board.features
    older = machine.with_target(machine.preset("graviton2"), text.replace("a76", "a72"))
    assert "dotprod" not in older.features, "what the target lacks is not planned with"
    with pytest.raises(UsageError, match="give `--machine` too"):
        machine.with_target(machine.preset("xeon-e3"), text)

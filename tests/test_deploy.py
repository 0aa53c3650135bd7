"""Saved libraries: they load, compute, refuse wrong arguments, and run with TVM and numpy alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

from measure_kernels import Gemm, N, calling, scheduled, target, tvm
from own_executor import measuring
from reasoning_compiler.core.errors import ReasoningCompilerError, UsageError
from reasoning_compiler.core.programs import Program
from reasoning_compiler.core.steps import Step
from reasoning_compiler.deploy import TunedKernel, load, loading_code, save, time_against_untuned
from reasoning_compiler.deploy.best import save_best, saved_node

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    scratch = tmp_path_factory.mktemp("scratch")
    with measuring(Gemm(), target(), num_threads=1, num_build_workers=1, scratch_dir=scratch) as instrument:
        (measured,) = instrument.measure([scheduled(Gemm())], best_secs=None)
        assert measured.artifact is not None
        yield measured.artifact


@pytest.fixture
def library(artifact: Path, tmp_path: Path) -> Path:
    return save(artifact, tmp_path / "out" / "gemm.so", about={"workload": "gemm", "num_threads": 2})


@pytest.fixture
def kernel(library: Path) -> TunedKernel:
    return load(library)


@pytest.fixture
def inputs() -> list[np.ndarray]:
    return Gemm().make_inputs(3)


class TestLoading:
    def test_it_computes(self, kernel: TunedKernel, inputs: list[np.ndarray]) -> None:
        np.testing.assert_allclose(kernel(*inputs), inputs[0] @ inputs[1], rtol=1e-4, atol=1e-4)
        assert [argument.name for argument in kernel.inputs] == ["A", "B"]

    def test_tensors_and_views_are_as_good_as_arrays(self, kernel: TunedKernel, inputs: list[np.ndarray]) -> None:
        a, b = inputs
        outputs = kernel(tvm.runtime.tensor(a), np.asfortranarray(b))
        np.testing.assert_allclose(outputs, a @ b, rtol=1e-4, atol=1e-4)

    def test_an_output_belongs_to_the_caller(self, kernel: TunedKernel, inputs: list[np.ndarray]) -> None:
        a, b = inputs
        first = kernel(a, b)
        copy = first.copy()
        kernel(-a, b)
        np.testing.assert_array_equal(first, copy)

    def test_a_weight_is_packed_once_and_another_one_again(self, kernel: TunedKernel, inputs: list[np.ndarray]) -> None:
        a, b = inputs
        kernel(a, b)
        b_before = b.copy()
        b[:] = 0  # a weight is constant: nobody looks at it again
        np.testing.assert_allclose(kernel(a, b), a @ b_before, rtol=1e-4, atol=1e-4)
        other = 2 * b_before
        np.testing.assert_allclose(kernel(a, other), a @ other, rtol=1e-4, atol=1e-4)

    def test_an_input_is_read_at_every_call(self, kernel: TunedKernel, inputs: list[np.ndarray]) -> None:
        a, b = inputs
        kernel(a, b)
        a[:] = 0
        assert not kernel(a, b).any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a, b: (a,), r"takes 2 arrays \(A, B\), not 1"),
            (lambda a, b: (a, b, a), "takes 2 arrays .* not 3"),
            (lambda a, b: (a[:3], b), r"`A` has shape \(3, 64\) and dtype float32; the kernel takes \(64, 64\)"),
            (lambda a, b: (a, b.astype("float64")), "`B` has .* dtype float64; the kernel takes .* float32"),
            (lambda a, b: (a.tolist(), b), "`A` must be a numpy array or a TVM tensor, not list"),
        ],
    )
    def test_wrong_arguments_are_refused(
        self, kernel: TunedKernel, inputs: list[np.ndarray], change: object, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            kernel(*change(*inputs))  # type: ignore[operator]


class TestFiles:
    def test_loading_code_needs_only_tvm_and_numpy(self, library: Path, tmp_path: Path) -> None:
        code = loading_code(library)
        assert "reasoning_compiler" not in code
        code += "assert os.environ['TVM_NUM_THREADS'] == '2'\n"
        code += "np.testing.assert_allclose(C.numpy(), A.numpy() @ B.numpy(), rtol=1e-4, atol=1e-4)\n"
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TVM_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()

    def test_what_is_said_about_it_is_kept(self, library: Path) -> None:
        about = json.loads(library.with_suffix(".json").read_text())["about"]
        assert about == {"workload": "gemm", "num_threads": 2}

    def test_saving_again_replaces_it_and_leaves_nothing_else(self, artifact: Path, library: Path) -> None:
        save(artifact, library)
        assert sorted(path.name for path in library.parent.iterdir()) == ["gemm.json", "gemm.so"]
        assert load(library).signature.arguments[1].packer == "pack_B"

    @pytest.mark.parametrize("num_written", [0, 1, 2])
    def test_a_library_and_the_signature_of_another_are_not_loaded(
        self, artifact: Path, library: Path, monkeypatch: pytest.MonkeyPatch, num_written: int
    ) -> None:
        scratch = library.parent / "built"
        scratch.mkdir()
        other = Path(shutil.copy(artifact, scratch / "other.so"))
        other.write_bytes(other.read_bytes() + b"other code")
        shutil.copy(artifact.with_suffix(".json"), other.with_suffix(".json"))
        renamed: list[Path] = []

        def killed(self: Path, target: Path) -> None:
            if len(renamed) == num_written:
                raise KeyboardInterrupt
            renamed.append(target)
            os.replace(self, target)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Path, "replace", killed)
            save(other, library)
        assert sorted(path.name for path in library.parent.iterdir()) == ["built", "gemm.json", "gemm.so"]
        if num_written == 1:
            for use in (load, loading_code, lambda path: save(path, path.with_name("copy.so"))):
                with pytest.raises(UsageError, match=r"`.*gemm\.json` and `gemm\.so` do not belong together"):
                    use(library)
            save(artifact, library)
        load(library)

    def test_files_of_others_are_not_replaced(self, artifact: Path, tmp_path: Path) -> None:
        for name, text in (("model.so", "their code"), ("config.json", '{"layers": 2}')):
            (tmp_path / name).write_text(text)
            with pytest.raises(UsageError, match=rf"{name}` exists and is no library .*choose another name"):
                save(artifact, (tmp_path / name).with_suffix(".so"))
            assert (tmp_path / name).read_text() == text

    def test_the_best_programs_files_are_of_one_program_or_of_none(self, artifact: Path, tmp_path: Path) -> None:
        best = tmp_path / "best"
        best.mkdir()
        (best / "notes.txt").write_text("mine")
        schedule = SimpleNamespace(trace=None, mod=Gemm().mod)
        for node in (3, 4):
            save_best(best, artifact, step=Step(node, None, Program()), schedule=schedule, about={})
            assert saved_node(best) == node
        assert (best / "notes.txt").read_text() == "mine"
        names = [path.name for path in best.iterdir() if path.name not in ("notes.txt", "program.json")]
        assert sorted(names) == ["kernel.json", "kernel.so", "schedule.py", "trace.json"]
        for name in names:
            before = (best / name).read_bytes()
            (best / name).write_bytes(before + b" ")
            assert saved_node(best) is None
            (best / name).write_bytes(before)
        assert saved_node(best) == 4

    def test_a_folder_in_the_way_is_a_clear_error(self, artifact: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=r"`path` is .*cannot be written"):
            save(artifact, tmp_path / "file" / "gemm.so")
        with pytest.raises(UsageError, match=r"ends in \.so"):
            save(artifact, tmp_path / "gemm.json")

    def test_what_is_no_library_is_a_clear_error(self, library: Path) -> None:
        with pytest.raises(UsageError, match="is not a file"):
            load(library.with_name("missing.so"))
        library.with_name("other.so").write_bytes(b"no library")
        with pytest.raises(UsageError, match=r"other\.json"):
            load(library.with_name("other.so"))
        obj = json.loads(library.with_suffix(".json").read_text())
        library.write_bytes(b"no library")
        with pytest.raises(UsageError, match="do not belong together"):
            load(library)
        del obj["sha256"]  # as older versions wrote it
        library.with_suffix(".json").write_text(json.dumps(obj))
        with pytest.raises(UsageError, match="TVM cannot load"):
            load(library)
        library.with_suffix(".json").write_text("{")
        with pytest.raises(UsageError, match="damaged"):
            load(library)


class TestTiming:
    def test_both_are_timed_and_verified(self, library: Path) -> None:
        tuned, untuned = time_against_untuned(library, Gemm(), num_threads=1, rounds=3)
        assert tuned.verified and untuned.verified
        assert tuned.latency_secs < untuned.latency_secs
        assert len(untuned.latencies_secs) == 3

    def test_the_library_of_another_workload_is_refused(self, library: Path) -> None:
        with pytest.raises(UsageError, match="not those of the workload"):
            time_against_untuned(library, Gemm(size=N // 2), num_threads=1)

    def test_an_untuned_program_that_fails_says_why(self, library: Path) -> None:
        class Broken(Gemm):
            mod = calling("abort")

        with pytest.raises(ReasoningCompilerError, match=r"does not run: .*SIGABRT"):
            time_against_untuned(library, Broken(), num_threads=1)

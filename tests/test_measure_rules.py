"""What needs no TVM in measuring: when to stop timing, what counts as right, messages, temporary folders."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_compiler.core.errors import ReasoningCompilerError
from reasoning_compiler.core.processes.messages import MAX_BYTES, Decoder, GarbledError, encode, receive, send
from reasoning_compiler.core.processes.serving import Refused, serve
from reasoning_compiler.measure.timing.racing import Race, half_width, runs_per_timing, verdict
from reasoning_compiler.measure.verification.compare import Expected, poison
from reasoning_compiler.measure.verification.tolerance import Tolerance
from reasoning_compiler.measure.workers.scratch import Scratch


class TestRacing:
    def test_without_a_best_everything_is_timed_to_the_end(self) -> None:
        race = Race(best_secs=None, repeats=4, budget_secs=10)
        said = [verdict(race, 0.1, [0.1] * n) for n in range(5)]
        assert said == ["again", "again", "again", "again", "enough"]

    def test_a_hopeless_first_run_ends_the_race(self) -> None:
        race = Race(best_secs=0.1)
        assert verdict(race, 0.24, []) == "cut"

    def test_a_first_run_that_a_neighbour_may_have_disturbed_does_not(self) -> None:
        race = Race(best_secs=0.1)
        assert verdict(race, 0.2, []) == "again"
        assert verdict(race, 0.2, [0.16]) == "cut"
        assert verdict(race, 0.2, [0.14]) == "again"

    def test_warming_up_is_not_held_against_a_short_kernel(self) -> None:
        assert verdict(Race(best_secs=1e-4), 4e-3, []) == "again"

    def test_who_cannot_win_is_timed_a_few_times_only(self) -> None:
        race = Race(best_secs=0.1, repeats=10, budget_secs=100)
        assert verdict(race, 0.13, [0.13] * 2) == "again"
        assert verdict(race, 0.13, [0.13] * 3) == "enough"
        assert verdict(race, 0.11, [0.11] * 3) == "again"

    def test_timings_that_disagree_are_repeated_until_they_agree_or_are_too_many(self) -> None:
        race = Race(repeats=5, budget_secs=100)
        agreeing, disagreeing = [0.1, 0.1001, 0.0999, 0.1, 0.1002], [0.1, 0.13, 0.11, 0.12, 0.105]
        assert verdict(race, 0.1, agreeing) == "enough"
        assert verdict(race, 0.1, disagreeing) == "again"
        assert verdict(race, 0.1, [*disagreeing, *[0.1] * 9]) == "enough"
        assert verdict(race, 0.1, disagreeing * 3) == "enough"
        assert verdict(Race(repeats=5, budget_secs=0.7), 0.1, disagreeing) == "enough"

    def test_one_wild_timing_does_not_make_the_others_disagree(self) -> None:
        assert verdict(Race(repeats=5, budget_secs=100), 0.1, [0.1, 0.1, 9.0, 0.1, 0.1]) == "enough"

    def test_the_half_width_is_that_of_a_medians_interval(self) -> None:
        """Of a thousand medians of normal timings, about 95 % lie within it of the true one."""
        rng = np.random.default_rng(0)
        samples = 1 + 0.01 * rng.standard_normal((1000, 51))
        inside = sum(abs(np.median(each) - 1) <= half_width(list(each)) * np.median(each) for each in samples)
        assert 900 < inside < 990

    def test_the_budget_ends_it(self) -> None:
        race = Race(repeats=10, budget_secs=1.0)
        assert verdict(race, 0.3, [0.3]) == "again"
        assert verdict(race, 0.3, [0.3] * 3) == "enough"
        assert verdict(race, 5.0, []) == "enough"

    @pytest.mark.parametrize(("run_secs", "expected"), [(1.0, 1), (0.01, 1), (0.001, 10), (1e-6, 10_000)])
    def test_short_kernels_are_timed_together(self, run_secs: float, expected: int) -> None:
        assert runs_per_timing(Race(min_timing_secs=0.01), run_secs) == expected

    @given(first=st.floats(1e-6, 100), rest=st.lists(st.floats(1e-6, 100), max_size=20), best=st.floats(1e-6, 100))
    def test_every_race_ends(self, first: float, rest: list[float], best: float) -> None:
        race = Race(best_secs=best, repeats=20)
        assert verdict(race, first, [*rest, *[1.0] * (20 - len(rest))]) != "again"


def failure_kind(values: np.ndarray, actual: np.ndarray, *, rtol: float = 1e-3, atol: float = 0) -> str | None:
    failure = Expected.of([values], Tolerance(rtol, atol)).why_not([actual])
    return failure.kind if failure else None


class TestVerification:
    VALUES = np.arange(1, 100_001, dtype=np.float32).reshape(100, 1000)

    def test_equal_and_close_outputs_pass(self) -> None:
        assert failure_kind(self.VALUES, self.VALUES.copy()) is None
        assert failure_kind(self.VALUES, self.VALUES * np.float32(1.0009)) is None

    @pytest.mark.parametrize("where", [(0, 0), (50, 500), (99, 999)])
    def test_one_wrong_element_is_found_anywhere(self, where: tuple[int, int]) -> None:
        actual = self.VALUES.copy()
        actual[where] *= 1.01
        failure = Expected.of([self.VALUES], Tolerance(1e-3, 0.0)).why_not([actual])
        assert failure is not None and failure.kind == "wrong_result"
        assert "1 of 100000 values differ" in failure.message

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_a_kind_of_its_own(self, odd: float) -> None:
        actual = self.VALUES.copy()
        actual[3, 4] = odd
        assert failure_kind(self.VALUES, actual) == "nonfinite"

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
    def test_what_the_reference_has_must_be_there_too(self, odd: float) -> None:
        values = self.VALUES.copy()
        values[3, 4] = odd
        assert failure_kind(values, values.copy()) is None
        assert failure_kind(values, self.VALUES) == "wrong_result"

    def test_an_infinity_of_the_other_sign_is_wrong(self) -> None:
        values = np.array([np.inf, 1], dtype=np.float32)
        assert failure_kind(values, -values) == "wrong_result"

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "uint8"])
    def test_unwritten_outputs_are_wrong(self, dtype: str) -> None:
        values = np.zeros((4, 4), dtype)
        actual = np.full((4, 4), poison(np.dtype(dtype)))
        failure = Expected.of([values], Tolerance(1.0, 1.0)).why_not([actual])
        assert failure is not None and failure.kind == "wrong_result"
        assert failure.message.endswith("16 were never written")

    def test_integers_must_be_equal(self) -> None:
        values = np.arange(10, dtype=np.int8)
        assert failure_kind(values, values.copy(), rtol=0, atol=0) is None
        assert failure_kind(values, values + np.int8(1), rtol=0, atol=0) == "wrong_result"

    def test_what_numbers_lose_near_zero_does_not_count(self) -> None:
        values = np.full((4, 4), 1e-40, np.float32)
        assert failure_kind(values, np.zeros_like(values)) == "wrong_result"
        expected = Expected.of([values], Tolerance(1e-3, 1e-3, least=1e-38))
        assert expected.why_not([np.zeros_like(values)]) is None
        assert expected.why_not([np.full_like(values, 1e-37)]) is not None

    def test_every_output_counts(self) -> None:
        expected = Expected.of([self.VALUES, self.VALUES], Tolerance(1e-3, 0.0))
        assert expected.why_not([self.VALUES, self.VALUES]) is None
        failure = expected.why_not([self.VALUES, -self.VALUES])
        assert failure is not None and failure.message.startswith("output 1")

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
    def test_short_floats_are_compared_in_float32(self, dtype: type) -> None:
        values = np.arange(1, 9).astype(dtype)
        assert failure_kind(values, values.copy()) is None
        assert failure_kind(values, values[::-1].copy()) == "wrong_result"
        assert np.isfinite(poison(np.dtype(dtype)).astype(np.float32))


class TestMessages:
    @given(
        messages=st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text()), max_size=5),
        size=st.integers(1, 50),
    )
    def test_messages_survive_being_cut_anywhere(self, messages: list[dict], size: int) -> None:
        stream = b"".join(encode(message) for message in messages)
        decoder = Decoder()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        received = [message for piece in pieces for message in decoder.feed(piece)]
        assert received == messages

    @pytest.mark.parametrize("garbage", [(MAX_BYTES + 1).to_bytes(8, "big"), bytes(7) + b"\2[]", bytes(7) + b"\1{"])
    def test_garbage_is_noticed(self, garbage: bytes) -> None:
        with pytest.raises(GarbledError):
            Decoder().feed(garbage)


class TestServing:
    @staticmethod
    def ask(action: Callable[..., dict], *, max_growth_bytes: int | None = None) -> dict:
        (request_read, request_write), (reply_read, reply_write) = os.pipe(), os.pipe()
        try:
            send(request_write, {"action": "do", "payload": {"number": 3}, "number": 7})
            os.close(request_write)
            serve({"do": action}, request_fd=request_read, reply_fd=reply_write, max_growth_bytes=max_growth_bytes)
            answer = receive(reply_read)
            assert answer is not None and answer.pop("number") == 7
            return answer
        finally:
            for fd in (request_read, reply_read, reply_write):
                os.close(fd)

    def test_an_answer_comes_back(self) -> None:
        assert self.ask(lambda number: {"double": 2 * number}) == {"double": 6}

    def test_a_refusal_is_a_failure(self) -> None:
        def refuse(number: int) -> dict:
            raise Refused("build", f"{number} is too many", retire=True)

        failure = {"kind": "build", "message": "3 is too many"}
        assert self.ask(refuse) == {"failure": failure, "retire": True}

    def test_a_process_that_has_grown_retires(self) -> None:
        assert self.ask(lambda number: {}, max_growth_bytes=-1) == {"retire": True}
        assert self.ask(lambda number: {}, max_growth_bytes=1 << 40) == {}


class TestScratch:
    def test_where_it_cannot_be_made_there_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ReasoningCompilerError, match="set TMPDIR"):
            Scratch(tmp_path / "file")

    def test_it_is_gone_when_closed(self, tmp_path: Path) -> None:
        scratch = Scratch(tmp_path)
        (scratch.new_folder() / "file").write_text("x")
        assert scratch.new_folder() != scratch.new_folder()
        scratch.close()
        scratch.close()
        assert not list(tmp_path.iterdir())

    def test_one_that_is_being_made_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lock = fcntl.flock

        def sweep_first(fd: int, how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", lock)
            Scratch(tmp_path).close()  # as another process may, before the folder is locked
            lock(fd, how)

        monkeypatch.setattr(fcntl, "flock", sweep_first)
        scratch = Scratch(tmp_path)
        assert scratch.new_folder().is_dir()
        scratch.close()
        assert not list(tmp_path.iterdir())

    def test_the_next_one_sweeps_away_what_a_killed_owner_left(self, tmp_path: Path) -> None:
        code = (
            "import os, signal; from pathlib import Path\n"
            "from reasoning_compiler.measure.workers.scratch import Scratch\n"
            f"scratch = Scratch(Path({str(tmp_path)!r})); scratch.new_folder(); os.kill(os.getpid(), signal.SIGKILL)"
        )
        alive = Scratch(tmp_path)
        subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
        assert len(list(tmp_path.iterdir())) == 2
        last = Scratch(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {alive.path.name, last.path.name}
        alive.close()
        last.close()

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reasoning_compiler
from journal_examples import (
    Event,
    batches,
    canonical_lines,
    failed,
    header,
    measurements,
    new_journal,
    ok,
    old_journal,
    scripts,
    step,
    write_gemm,
)
from reasoning_compiler.core.errors import EnvironmentMismatchError, JournalError, UsageError
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.journal import (
    ENVIRONMENT_FILE,
    JOURNAL_FILE,
    Finish,
    Rejected,
    check_environment,
    read_run,
    require_free,
)

SOURCE = Path(reasoning_compiler.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def disk(tmp_path: Path):
    """Gives a function that mounts a small file system with some options; skips where that is not allowed."""
    mounted = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(mounted)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        if os.name != "posix" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", str(point)], check=True)


def writer(folder: Path, body: str) -> subprocess.Popen[str]:
    """Starts another process that has `journal` open for resuming, and runs `body`."""
    code = (
        f"import sys; sys.path[:0] = [{str(SOURCE)!r}, {str(Path(__file__).parent)!r}]\n"
        "from journal_examples import *\n"
        f"journal = old_journal({str(folder)!r})\n{body}"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


# -- round trips -------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(events=scripts())
def test_every_event_comes_back(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    folder = tmp_path_factory.mktemp("run")
    told = header()
    with new_journal(folder, told) as journal:
        for event in events:
            event.tell(journal)
    run = read_run(folder)

    def of(method: str) -> list[Event]:
        return [event for event in events if event.method == method]

    latest = {e.args[0]: e.args[1] for e in of("measured")}
    assert run.header == told
    assert run.steps == tuple(e.args[0] for e in of("node"))
    assert {s.node: s.measurement for s in run.steps if s.measurement} == latest
    assert batches(run) == [tuple(e.args[0]) for e in of("asked")]
    assert [(s.node, s.measurement) for s in run.samples] == [e.args for e in of("measured")]
    assert run.rejected == tuple(Rejected(*e.args, **e.options) for e in of("rejected"))
    of_task = [event for event in events if event.method != "stages"]
    last = of_task[-1] if of_task and of_task[-1].method == "finished" else None
    told_last = last and Finish(at_secs=0, reason=last.args[0], **last.options)
    assert (run.ended and replace(run.ended, at_secs=0)) == told_last
    secs = [e.args[0] for e in of("stages")]
    for stage in ("propose", "build", "run"):
        assert run.stage_secs.get(stage, 0) == pytest.approx(sum(s.get(stage, 0) for s in secs))
    assert run.num_samples == sum(e.args[0] != 0 for e in of("measured"))


def test_a_run_knows_its_best_and_its_path(folder: Path) -> None:
    write_gemm(folder)
    run = read_run(folder)
    assert run.best.node == 6
    assert run.untuned.latency_secs == 0.412
    assert [s.node for s in run.path(6)] == [0, 1, 3, 6]
    assert run.num_samples == 7
    assert batches(run) == [(1, 2), (3, 4, 5), (6, 7)]
    assert run.stage_secs == pytest.approx({"propose": 0.5, "build": 17.6, "run": 13.75, "wait": 0.01})
    assert run.outcome.confirmed
    assert run.speedup == 0.413 / 0.0241
    with pytest.raises(UsageError, match="`node` is 99"):
        run.path(99)


def test_the_best_is_verified_and_measured_in_full(folder: Path) -> None:
    with new_journal(folder) as journal:
        for node in range(6):
            journal.node(step(node, None if node == 0 else 0))
        journal.asked([5, 1, 2, 3, 4])
        assert read_run(folder).best is None
        journal.measured(1, ok(1.0, cut=True))
        journal.measured(2, ok(2.0, verified=False))
        journal.measured(3, failed("wrong_result"))
        assert read_run(folder).best is None
        assert read_run(folder).speedup is None
        journal.measured(0, ok(9.0))
        assert read_run(folder).best.node == 0
        journal.measured(4, ok(3.0))
    run = read_run(folder)
    assert run.best.node == 4
    assert run.speedup == 3.0
    assert not run.outcome.confirmed


def test_an_ending_counts_until_the_run_goes_on(folder: Path) -> None:
    with new_journal(folder) as journal:
        for node in range(3):
            journal.node(step(node, None if node == 0 else 0))
            journal.measured(node, ok(4.0 - node))
        journal.finished("minutes", best=1, confirmed=ok(2.5), untuned=ok(5.0))
    run = read_run(folder)
    assert (run.ended.reason, run.outcome.step.node, run.speedup) == ("minutes", 1, 2.0)
    with old_journal(folder) as journal:
        journal.asked([1])
    run = read_run(folder)
    assert run.ended is None
    assert (run.outcome.step.node, run.speedup) == (2, 2.0)


def test_environment_json_is_the_header(folder: Path) -> None:
    told = header(command="tune ä\ud800")
    new_journal(folder, told).close()
    assert json.loads((folder / ENVIRONMENT_FILE).read_text())["fingerprint"] == told.fingerprint
    assert read_run(folder).header == told


# -- kill and resume ---------------------------------------------------------------------------------------


def test_a_journal_torn_at_any_byte_loses_only_the_torn_line(folder: Path) -> None:
    with new_journal(folder, header(machine=replace(header().machine, target=""))) as journal:
        journal.node(step(0, None))
        journal.measured(0, ok(1.0))
        journal.node(step(1, reasoning='a "quoted"\nline, ×'))
        journal.asked([1])
        journal.finished("samples", best=0)
    path = folder / JOURNAL_FILE
    whole, lines = path.read_bytes(), canonical_lines(folder)
    header_bytes = whole.index(b"\n") + 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        num_lines = whole[:size].count(b"\n")
        if size < header_bytes:
            with pytest.raises(UsageError, match="holds no run"):
                read_run(folder)
            with pytest.raises(UsageError, match="holds no run"):
                old_journal(folder)
            continue
        read_run(folder)
        with old_journal(folder) as journal:
            journal.stages({"run": 1.0})
        assert canonical_lines(folder) == [*lines[:num_lines], '{"event": "stages"}']
        assert path.read_bytes().startswith(whole[: whole[:size].rindex(b"\n") + 1])
        read_run(folder)


def test_what_became_of_a_proposal_is_kept_whole_or_not_at_all(folder: Path) -> None:
    refused = Rejected(0, "expert", Transformation((("unroll", 3),)), "not one of 0, 16")
    with new_journal(folder, header(machine=replace(header().machine, target=""))) as journal:
        journal.node(step(0, None))
        journal.expanded([step(1), step(2)], [refused, refused])
        journal.asked([1])
    path = folder / JOURNAL_FILE
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(ends[1], len(content)):
        path.write_bytes(content[:size])
        with old_journal(folder) as journal:
            journal.stages({})
        run = read_run(folder)
        num_steps = 3 if size >= ends[5] else 1
        assert [s.node for s in run.steps] == list(range(num_steps))
        assert run.rejected == (() if num_steps == 1 else (refused, refused))
        assert path.read_bytes().startswith(content[: ends[5] if num_steps == 3 else ends[1]])
    assert run.events == (*run.steps, refused, refused)


def test_the_settings_of_the_last_resume_count(folder: Path) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        assert read_run(folder).config == header().config
        journal.resumed({"samples": 99})
    assert read_run(folder).config == {"samples": 99}
    assert read_run(folder).header == replace(header(), created=read_run(folder).header.created)


@pytest.mark.parametrize("size", [0, 1, 14, 40])
def test_a_torn_header_leaves_the_folder_free(folder: Path, size: int) -> None:
    new_journal(folder, header(key="first")).close()
    path = folder / JOURNAL_FILE
    path.write_bytes(path.read_bytes()[:size])
    new_journal(folder, header(key="second")).close()
    assert read_run(folder).header.key == "second"


def test_a_killed_writer_loses_nothing_that_append_returned_for(folder: Path) -> None:
    new_journal(folder).close()
    body = (
        "journal.node(step(0, None))\nnode = 0\n"
        "while True:\n    node += 1\n    journal.node(step(node, reasoning='x' * 3000))\n"
        "    print(node, flush=True)"
    )
    process = writer(folder, body)
    for _ in range(200):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    last = int((rest.split("\n")[-2:-1] or [last])[0])
    assert read_run(folder).steps[last].node == last
    with old_journal(folder) as journal:
        journal.asked([last])
    assert batches(read_run(folder)) == [(last,)]


def test_time_goes_on_after_a_resume(folder: Path) -> None:
    with new_journal(folder) as journal:
        time.sleep(0.05)
        journal.stages({})
    time.sleep(0.3)
    with old_journal(folder) as journal:
        assert 0.05 <= journal.elapsed_secs < 0.3
        journal.stages({})
    assert 0.05 <= read_run(folder).elapsed_secs < 0.3


# -- one writer --------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused(folder: Path) -> None:
    with new_journal(folder), pytest.raises(UsageError, match="written by another process"):
        old_journal(folder)
    old_journal(folder).close()


def test_a_second_process_is_refused_until_the_first_is_gone(folder: Path) -> None:
    new_journal(folder).close()
    process = writer(folder, "print('open', flush=True); sys.stdin.read()")
    try:
        assert process.stdout.readline() == "open\n", process.stderr.read()
        for begin in (old_journal, lambda path: new_journal(path)):
            with pytest.raises(UsageError, match="written by another process"):
                begin(folder)
        read_run(folder)
    finally:
        process.kill()
        process.communicate()
    old_journal(folder).close()


def test_threads_do_not_mix_their_lines(folder: Path) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))

        def tell() -> None:
            for _ in range(100):
                journal.rejected(0, "expert", transformation=None, why="w" * 500)

        threads = [threading.Thread(target=tell) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    run = read_run(folder)
    assert len(run.rejected) == 400
    times = [json.loads(line)["at_secs"] for line in (folder / JOURNAL_FILE).open()]
    assert times == sorted(times)


def test_a_closed_journal_says_so(folder: Path) -> None:
    journal = new_journal(folder)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="was closed"):
        journal.asked([])


# -- disks -------------------------------------------------------------------------------------------------


def fail_writes(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, num_bytes: int) -> None:
    """Lets the next write take `num_bytes` and the one after it fail."""
    real = os.write
    left = [num_bytes]

    def write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise error
        done = real(fd, bytes(data)[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("num_bytes", [0, 1, 30])
def test_a_full_disk_keeps_what_was_written(folder: Path, num_bytes: int) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        before = canonical_lines(folder)
        with pytest.MonkeyPatch.context() as patch:
            fail_writes(patch, OSError(errno.ENOSPC, "No space left on device"), num_bytes=num_bytes)
            with pytest.raises(JournalError, match=r"disk is full.*reasonc resume") as caught:
                journal.node(step(1))
            assert "\n" not in str(caught.value)
        assert canonical_lines(folder) == before
        journal.node(step(2))
    assert [s.node for s in read_run(folder).steps] == [0, 2]


def test_a_really_full_disk(disk) -> None:
    folder = disk("size=32k") / "run"
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        with pytest.raises(JournalError, match="disk is full"):
            for node in range(1, 200):
                journal.node(step(node))
        num_nodes = len(read_run(folder).steps)
        assert 5 < num_nodes == node < 200
        (folder / ENVIRONMENT_FILE).unlink()
        journal.node(step(node))
    assert len(read_run(folder).steps) == num_nodes + 1


def test_a_disk_too_full_for_a_header_leaves_the_folder_free(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_writes(patch, OSError(errno.ENOSPC, "No space left on device"), num_bytes=25)
        with pytest.raises(JournalError, match="disk is full"):
            new_journal(folder)
    assert not list(folder.iterdir())
    new_journal(folder).close()


def test_ctrl_c_in_the_middle_of_a_line(folder: Path) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        with pytest.MonkeyPatch.context() as patch:
            fail_writes(patch, KeyboardInterrupt(), num_bytes=20)
            with pytest.raises(KeyboardInterrupt):
                journal.node(step(1))
        journal.finished("interrupted", best=None)
    assert read_run(folder).ended.reason == "interrupted"


def test_a_read_only_folder(disk, tmp_path: Path) -> None:
    if os.name == "posix" and os.geteuid():
        place = tmp_path / "locked"
        place.mkdir(mode=0o500)
    else:
        place = disk("ro,size=16k")
    with pytest.raises(UsageError, match="is not writable") as caught:
        new_journal(place / "run")
    assert caught.value.exit_code == 2


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="is not writable"):
            new_journal(place)
        with pytest.raises(UsageError, match="holds no run"):
            read_run(place)


def test_syncing_costs_a_millisecond_an_event_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        calls = []

        def slow_fsync(fd: int) -> None:
            calls.append(fd)
            time.sleep(0.02)

        monkeypatch.setattr(os, "fsync", slow_fsync)
        for _ in range(100):
            journal.asked([0])
        assert 1 <= len(calls) <= 6
        num_calls = len(calls)
        journal.finished("samples", best=0)
        assert len(calls) == num_calls + 1


# -- refusals ----------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_not_taken(folder: Path) -> None:
    write_gemm(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"holds another run.*reasonc resume"):
        new_journal(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_that_is_no_journal_is_not_overwritten(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / JOURNAL_FILE).write_text("my diary")
    with pytest.raises(UsageError, match="holds another run"):
        new_journal(folder)
    assert (folder / JOURNAL_FILE).read_text() == "my diary"


@pytest.mark.parametrize("torn", [False, True])
def test_a_folder_with_anything_else_in_it_is_not_taken(folder: Path, torn: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    if torn:
        (folder / JOURNAL_FILE).write_bytes(b"")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for begin in (require_free, new_journal):
        with pytest.raises(UsageError, match=r"is not empty \(it holds `notes.txt`\).*name a new one") as caught:
            begin(folder)
        assert caught.value.exit_code == 2
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_is_taken(folder: Path) -> None:
    folder.mkdir(parents=True)
    require_free(folder)
    new_journal(folder).close()


def test_a_folder_without_a_run(folder: Path) -> None:
    for begin in (read_run, old_journal, canonical_lines):
        with pytest.raises(UsageError, match="holds no run"):
            begin(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "line",
    [
        "{torn",
        "",
        "[]",
        "7",
        "\\ud800",
        '{"event":"node","at_secs":1}',
        '{"event":"asked"}',
        '{"event":"asked","at_secs":1,"nodes":[17]}',
        '{"event":"asked","at_secs":1,"nodes":3}',
        '{"event":"measured","at_secs":1,"node":0,"measurement":{"latencies_secs":[]}}',
        '{"event":"measured","at_secs":1,"node":0,"measurement":{"latencies_secs":[1.0],"colour":1}}',
        '{"event":"finished","at_secs":1,"reason":"x","best":17,"confirmed":null,"untuned":null}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(folder: Path, line: str) -> None:
    write_gemm(folder)
    path = folder / JOURNAL_FILE
    lines = path.read_text().split("\n")
    lines[4] = line
    path.write_text("\n".join(lines))
    for begin in (read_run, old_journal):
        with pytest.raises(JournalError, match=r"journal.jsonl` is damaged at line 5: ") as caught:
            begin(folder)
        assert "\n" not in str(caught.value)
    assert path.read_text().split("\n")[4] == line


@pytest.mark.parametrize("change", [{"node": 1}, {"node": 3, "parent": None}, {"node": 3, "parent": 3}])
def test_a_tree_that_is_none_is_refused(folder: Path, change: dict) -> None:
    with new_journal(folder) as journal:
        journal.node(step(0, None))
        journal.node(step(1))
        journal.node(replace(step(2), **change))
    with pytest.raises(JournalError, match="damaged at line 4"):
        read_run(folder)


def test_a_newer_journal_says_to_upgrade(folder: Path, tmp_path: Path) -> None:
    with new_journal(folder) as journal:
        journal.append([("dreamed", {})])
    with pytest.raises(JournalError, match=r"line 2: unknown event `dreamed`.*upgrade"):
        read_run(folder)
    new_journal(tmp_path / "newer", header(format_version=99, package_version="9.9")).close()
    with pytest.raises(JournalError, match=r"format 99 \(of version 9.9\).*upgrade"):
        read_run(tmp_path / "newer")


def test_a_first_line_that_is_no_header(folder: Path) -> None:
    folder.mkdir(parents=True)
    for line in ('{"event":"node","at_secs":0}', '{"event":"run","at_secs":0,"format_version":1}'):
        (folder / JOURNAL_FILE).write_text(line + "\n")
        with pytest.raises(JournalError, match="damaged at line 1"):
            read_run(folder)


def test_numbers_that_json_has_not_are_refused(folder: Path) -> None:
    with new_journal(folder) as journal:
        with pytest.raises(ValueError):
            journal.stages({"run": float("nan")})
        journal.stages({"run": 1.0})
    assert read_run(folder).stage_secs == {"run": 1.0}


def test_another_environment_is_refused(folder: Path) -> None:
    new_journal(folder).close()
    run = read_run(folder)
    check_environment(run, [])
    with pytest.raises(EnvironmentMismatchError, match=r"tvm is now 0.28.0; threads 2 is now 4") as caught:
        check_environment(run, ["tvm is now 0.28.0", "threads 2 is now 4"])
    assert caught.value.exit_code == 2


# -- comparing ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurement=measurements, build_secs=st.floats(0, 9), secs=st.floats(0, 9))
def test_canonical_lines_leave_out_the_clock_only(tmp_path_factory, measurement, build_secs, secs) -> None:
    def lines(measurement, secs: float, reasoning: str) -> list[str]:
        folder = tmp_path_factory.mktemp("run")
        with new_journal(folder, header(created=f"2030-01-01T00:00:{secs}")) as journal:
            journal.node(step(0, None))
            journal.node(step(1, reasoning=reasoning))
            journal.measured(1, measurement)
            journal.stages({"run": secs})
            journal.finished("samples", best=1, confirmed=measurement, untuned=measurement)
        return canonical_lines(folder)

    first = lines(measurement, 1.0, "why")
    assert first == lines(replace(measurement, build_secs=build_secs, run_secs=secs), secs, "why")
    assert first != lines(measurement, 1.0, "why not")
    assert first != lines(failed("build", "another"), 1.0, "why")


def test_canonical_lines_keep_edits(folder: Path, tmp_path: Path) -> None:
    for place, unroll in ((folder, 16), (tmp_path / "other", 64)):
        with new_journal(place, header(created="now")) as journal:
            journal.node(step(0, None))
            journal.node(step(1, transformation=Transformation((("unroll", unroll),))))
    assert canonical_lines(folder) != canonical_lines(tmp_path / "other")

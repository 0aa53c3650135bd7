"""Measuring on other machines: a real tracker and real servers on loopback, with devices that die and come back."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("tvm")
pytest.importorskip("tornado", reason="TVM's tracker needs it: pip install tornado")

import reasoning_compiler as rc
from device_farm import KEY, Server, free_port, wait_for
from measure_kernels import Gemm, calling, gemm_without_last, scheduled, slow_gemm, target, tvm
from own_executor import measuring
from reasoning_compiler.cli.main import main
from reasoning_compiler.core.errors import DeviceError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.measure.executors import device_pool
from reasoning_compiler.measure.executors.rpc import RpcExecutor
from reasoning_compiler.measure.executors.tracker import Address, Devices
from reasoning_compiler.measure.instrument import Instrument

pytestmark = pytest.mark.tvm

GEMM = "gemm[64,64,64]"


@pytest.fixture(scope="module")
def tracker() -> Iterator[Address]:
    from tvm.rpc.tracker import Tracker

    port = free_port()
    running = Tracker(host="127.0.0.1", port=port, port_end=port + 1, silent=True)
    yield Address("127.0.0.1", running.port)
    running.terminate()


@pytest.fixture(scope="module")
def servers(tracker: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("servers")
    running = [Server(folder, tracker) for _ in range(2)]
    yield running
    for server in running:
        server.kill()


@pytest.fixture
def devices(tracker: Address, servers: list[Server]) -> Devices:
    """Two devices, both there whatever a test before has done to them."""
    found = Devices(tracker, KEY)
    for server in servers:
        if server.process.poll() is not None:
            server.start()
    wait_for(found, 2)
    return found


@pytest.fixture
def instrument(devices: Devices) -> Iterator[Instrument]:
    with measuring(
        Gemm(), target(), num_threads=1, timeout_secs=5, repeats=3, num_build_workers=1, devices=devices
    ) as instrument:
        yield instrument


def run_cli(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["reasonc", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def is_said_soon(instrument: Instrument, words: str) -> bool:
    """Returns whether something is said of devices, which are looked for while there is something to measure."""
    deadline = time.monotonic() + 30
    while not any(words in notice for notice in instrument.notices) and time.monotonic() < deadline:
        instrument.measure([scheduled(Gemm())], best_secs=None)
    return any(words in notice for notice in instrument.notices)


class TestMeasuring:
    def test_both_devices_work_and_faults_cost_one_program_each(
        self, instrument: Instrument, servers: list[Server]
    ) -> None:
        assert instrument._executor.num_runners == 2
        modules = [
            scheduled(Gemm()),
            slow_gemm(300),
            gemm_without_last(steps=1),
            calling("abort"),
            calling("pause"),
            slow_gemm(300),
            scheduled(Gemm()),
        ]
        seen: list[int] = []
        results = instrument.measure(modules, best_secs=None, on_result=lambda index, _: seen.append(index))
        kinds = [m.failure.kind if (m := each.measurement).failure else "ok" for each in results]
        assert kinds == ["ok", "ok", "wrong_result", "crash", "timeout", "ok", "ok"]
        assert seen == list(range(7))
        assert [each.measurement.verified for each in results] == [kind == "ok" for kind in kinds]
        fast, slow = results[0].measurement, results[1].measurement
        assert fast.latency_secs < slow.latency_secs and len(fast.latencies_secs) >= 3
        for server in servers:
            assert is_said_soon(instrument, f"measuring on the device {server.address}")
        assert results[3].measurement.failure == Failure("crash", "the process that ran it on the device has died")
        logs = "".join(server.log for server in servers)
        assert "ended by the program that it ran (SIGABRT)" in logs
        assert "its client has gone" in logs
        artifacts = [each.artifact for each in results if each.artifact is not None]
        timed = instrument.confirm([artifacts[0], artifacts[0]], rounds=4)
        assert all(each.verified and len(each.latencies_secs) >= 4 for each in timed)
        stage_secs = instrument._clock.take()
        assert all(stage_secs[stage] > 0 for stage in ("build", "run", "verify", "wait"))

    def test_what_cannot_be_linked_here_is_linked_on_the_device(self, devices: Devices) -> None:
        # The same code in the same format, but nothing here is known to link for that system.
        described = json.loads(str(target())) | {"mtriple": "x86_64-pc-freebsd"}
        foreign = tvm.target.Target(described)
        with measuring(Gemm(), foreign, num_threads=1, num_build_workers=1, devices=devices) as instrument:
            (measured,) = instrument.measure([scheduled(Gemm())], best_secs=None)
            assert measured.measurement.verified, measured.measurement.failure
            assert measured.artifact is not None
            assert measured.artifact.read_bytes()[16] == 3  # a shared object, brought back from the device
            assert measured.artifact.with_suffix(".o").read_bytes()[16] == 1

    def test_without_a_reference_the_kernel_itself_is_it(self, devices: Devices) -> None:
        workload = Gemm(reference=None)
        with measuring(workload, target(), num_threads=1, num_build_workers=1, devices=devices) as instrument:
            right, wrong = instrument.measure([scheduled(Gemm()), gemm_without_last(steps=1)], best_secs=None)
        assert right.measurement.verified
        assert wrong.measurement.failure is not None and wrong.measurement.failure.kind == "wrong_result"


class TestLosingDevices:
    def test_what_a_lost_device_was_at_is_measured_elsewhere_and_it_comes_back(
        self, instrument: Instrument, servers: list[Server]
    ) -> None:
        instrument.measure([scheduled(Gemm())], best_secs=None)
        lost = servers[0]
        assert is_said_soon(instrument, f"measuring on the device {lost.address}")
        killer = threading.Timer(1.0, lost.kill)
        killer.start()
        results = instrument.measure([slow_gemm(1000)] * 4, best_secs=None)
        killer.join()
        assert [each.measurement.verified for each in results] == [True] * 4
        assert is_said_soon(instrument, f"the device {lost.address} is lost")
        lost.start()
        assert is_said_soon(instrument, f"the device {lost.address} is back")

    def test_with_all_of_them_gone_the_run_ends_with_one_line(
        self, instrument: Instrument, servers: list[Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(device_pool, "PATIENCE_SECS", 2.0)
        instrument.measure([scheduled(Gemm())], best_secs=None)
        for server in servers:
            server.kill()
        with pytest.raises(DeviceError, match=r"no device could be had as `board`.*reasonc resume"):
            instrument.measure([scheduled(Gemm())], best_secs=None)

    def test_nothing_is_left_behind(self, devices: Devices, tmp_path: Path) -> None:
        fds_before = len(os.listdir("/proc/self/fd"))
        threads_before = set(threading.enumerate())
        executor = RpcExecutor(devices, num_threads=1, num_build_workers=1, scratch_dir=tmp_path)
        instrument = Instrument(Gemm(), target(), executor)
        instrument.measure([scheduled(Gemm())], best_secs=None)
        pids = executor.pids
        # One thread drives all devices: what it reads of a job, no other changes meanwhile.
        assert all(thread.name.startswith("reference") for thread in {*threading.enumerate()} - threads_before)
        for each in (instrument, executor, instrument, executor):
            each.close()
        assert len(pids) == 3 and not any(psutil.pid_exists(pid) for pid in pids)
        assert not list(tmp_path.iterdir())
        assert {*threading.enumerate()} == threads_before
        assert len(os.listdir("/proc/self/fd")) == fds_before


class TestRuns:
    def test_a_whole_run_and_its_library(
        self, devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        far = ["--rpc", str(devices.tracker), "--key", KEY]
        folder = tmp_path / "run"
        options = ["--samples", "4", "--threads", "1", "--out", str(folder)]
        assert run_cli("tune", GEMM, *options, *far, monkeypatch=monkeypatch) == 0
        shown = capsys.readouterr()
        assert "note: measuring on the device 127.0.0.1:" in shown.err
        run = ["run", str(folder), "--rounds", "2", "--json"]
        assert run_cli(*run, monkeypatch=monkeypatch) == 0
        assert json.loads(capsys.readouterr().out)["tuned"]["verified"]
        assert run_cli("resume", str(folder), "--samples", "5", "--json", *far, monkeypatch=monkeypatch) == 0
        assert rc.read_run(folder).num_samples == 5

    @pytest.mark.parametrize(
        ("key", "words"),
        [("bord", r"no device has registered as `bord` at the tracker .*, which has board \(2\)"), ("", "`key` is ''")],
    )
    def test_a_wrong_key(
        self, key: str, words: str, devices: Devices, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code = run_cli("tune", GEMM, "--rpc", str(devices.tracker), "--key", key, monkeypatch=monkeypatch)
        assert code == (6 if key else 2)
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(words, line)
        assert not list(tmp_path.iterdir())


class TestServer:
    def test_ctrl_c_ends_it_with_its_session(self, tracker: Address, tmp_path: Path) -> None:
        server = Server(tmp_path, tracker, key="other")
        wait_for(Devices(tracker, "other"), 1)
        lease = Devices(tracker, "other").lease()
        assert lease is not None and lease.device == server.address
        from tvm import rpc

        session = rpc.connect(lease.device.host, lease.device.port, lease.match_key)
        assert session.get_function("runtime.NumThreads")() == 1
        (child,) = psutil.Process(server.process.pid).children()
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(10) == 0
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert server.log.splitlines()[-1] == "ended"
        assert "whoever can connect runs any code here" in server.log and "warning" not in server.log

    def test_garbage_on_its_port_is_not_its_end(self, devices: Devices, servers: list[Server]) -> None:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x71\xf2\x0f\x00" + b"\xff" * 4):
            with socket.create_connection(("127.0.0.1", servers[0].address.port)) as sock:
                sock.sendall(garbage)
        leases = []
        deadline = time.monotonic() + 30
        while len(leases) < 2 and time.monotonic() < deadline:
            leases += [lease] if (lease := devices.lease()) is not None else []
        assert {lease.device for lease in leases} == {server.address for server in servers}
        for lease in leases:
            lease.hand_back()

    def test_a_port_that_is_taken_is_one_line(
        self, servers: list[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = str(servers[0].address.port)
        assert run_cli("device", "serve", "--port", port, monkeypatch=monkeypatch) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"`port` is {port} on 127.0.0.1" in line


class TestNoTracker:
    def test_nothing_listens(self) -> None:
        with pytest.raises(DeviceError, match=r"no tracker answers at 127\.0\.0\.1:\d+ \(Connection refused\)"):
            Devices(Address("127.0.0.1", free_port()), KEY).count()

    def test_something_else_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:

            def answer() -> None:
                connection, _ = other.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(DeviceError, match="what listens there is no TVM tracker"):
                Devices(Address("127.0.0.1", other.getsockname()[1]), KEY).count()
            thread.join()

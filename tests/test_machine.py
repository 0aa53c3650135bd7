"""The machine room without TVM: cores, the CPU, remembering the probe, presets, fingerprints."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from reasoning_compiler import machine
from reasoning_compiler.core.errors import ReasoningCompilerError, UsageError
from reasoning_compiler.core.machines import Machine
from reasoning_compiler.core.processes.call import ChildError, call_in_child
from reasoning_compiler.machine import cgroup, cores, cpu, doctor, other_load, peaks, probe, targets, toolchain

MEASURED = {
    "target": {"kind": "llvm", "mcpu": "znver5", "num-cores": 2},
    "features": ["avx2", "avx512f"],
    "fma_per_cycle": 2,
    "peak_flops": 5.4e11,
    "bandwidth_bytes_per_sec": 3.8e10,
    "costs": {},
    "disturbed": False,
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


# -- cores -------------------------------------------------------------------------------------------------


def test_hardware_threads_of_a_core_count_once(tmp_path):
    for number, siblings in enumerate(["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"]):
        write(tmp_path / f"cpu{number}/topology/core_cpus_list", siblings)
    assert cores.one_cpu_per_core(range(8), cpu_dir=tmp_path) == [0, 1, 2, 3]
    assert cores.one_cpu_per_core([5, 6, 7, 1], cpu_dir=tmp_path) == [1, 6, 7]


def test_cpus_without_a_topology_are_cores(tmp_path):
    assert cores.one_cpu_per_core([3, 1], cpu_dir=tmp_path) == [1, 3]


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/host/only", {"cpu.max": "400000 100000"}, 4.0),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1"}, None),
        (
            "3:cpu,cpuacct:/x\n0::/",
            {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("", {}, None),
    ],
)
def test_cpu_quota(tmp_path, own, files, cpus):
    write(tmp_path / "own", own)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert cgroup.cpu_quota(cgroup_dir=tmp_path / "cgroup", own_cgroups=tmp_path / "own") == cpus


def test_memory_limit_is_the_smallest_of_all_ancestors(tmp_path):
    write(tmp_path / "own", "0::/a/b")
    write(tmp_path / "cgroup/a/memory.max", "1000")
    write(tmp_path / "cgroup/a/b/memory.max", "max")
    limit = cgroup.memory_limit_bytes(cgroup_dir=tmp_path / "cgroup", own_cgroups=tmp_path / "own")
    assert limit == 1000


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4)])
def test_quota_bounds_the_cores(monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(cores, "one_cpu_per_core", lambda cpus: list(cpus))
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert machine.num_physical_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs scheduling affinity")
def test_affinity_bounds_the_cores():
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]);"
        "from reasoning_compiler.machine import num_physical_cores; print(num_physical_cores())"
    )
    assert run_python(code).strip() == "1"


# -- threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [0, -1, True, 1.5, "2"])
def test_use_threads_refuses_what_is_no_count(num_threads):
    with pytest.raises(UsageError, match="`num_threads`"):
        machine.use_threads(num_threads)


@pytest.mark.parametrize(
    ("num_threads", "cpus", "bound"),
    [
        (2, [0, 1], True),
        (1, [0, 1], False),  # the main thread, and all its children, would be confined to one core
        (2, [2, 3], False),  # TVM would take cores 0 and 1, which are not ours
        (2, [0, 1, 2, 3], False),  # two may be hardware threads of one core
        (3, [0, 1], False),
    ],
)
def test_tvm_binds_threads_only_to_our_own_cores(monkeypatch, num_threads, cpus, bound):
    for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS"):
        monkeypatch.setenv(name, "1")  # so that what is set below is undone
    monkeypatch.delitem(sys.modules, "tvm_ffi", raising=False)
    monkeypatch.setattr(toolchain, "allowed_cpus", lambda: cpus)
    machine.use_threads(num_threads)
    assert os.environ["TVM_NUM_THREADS"] == str(num_threads)
    assert os.environ["TVM_BIND_THREADS"] == ("1" if bound else "0")


# -- TVM's versions and its import -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tvm", "ffi", "words"),
    [
        ("0.27.0.post1", "0.1.14.post0", None),
        ("0.27.0.post1", "0.1.14.post3", None),
        ("0.27.0.post1", "0.1.14", "crashes"),
        ("0.27.0.post1", "0.1.15", "crashes"),
        ("0.27.0.post1", "0.1.15.post1", "crashes"),
        ("0.27.0.post1", None, "lacks"),
        ("0.28.0", "0.1.14.post0", "0.28.0"),
        (None, "0.1.14.post0", "not installed"),
    ],
)
def test_versions_are_judged_before_tvm_is_loaded(monkeypatch, tvm, ffi, words):
    monkeypatch.setattr(toolchain, "installed_version", {"apache-tvm": tvm, "apache-tvm-ffi": ffi}.get)
    if words is None:
        assert machine.why_not_tvm() is None
        return
    monkeypatch.setattr(toolchain, "_require_known_versions", toolchain._require_known_versions.__wrapped__)
    with pytest.raises(UsageError) as caught:
        machine.import_tvm()
    text = str(caught.value)
    assert words in text and "\n" not in text
    assert 'pip install "apache-tvm==0.27.0.post1" "apache-tvm-ffi>=0.1.14.post0,<0.1.15"' in text


def test_quick_stack_agrees_with_the_real_one_but_for_the_source():
    def ask():
        return inspect.stack()[:3]

    real = ask()
    with toolchain._quick_inspect_stack():
        quick = ask()
    for ours, theirs in zip(quick, real, strict=True):
        assert (ours.filename, ours.function) == (theirs.filename, theirs.function)
        assert ours.code_context is None
    assert quick[0].frame.f_code is ask.__code__


def test_quick_stack_serves_one_thread_and_goes_away_on_an_error():
    original, contexts = inspect.stack, []
    with pytest.raises(KeyError), toolchain._quick_inspect_stack():
        thread = threading.Thread(target=lambda: contexts.append(inspect.stack()[0].code_context))
        thread.start()
        thread.join()
        raise KeyError
    assert contexts[0] is not None
    assert inspect.stack is original


def test_the_room_imports_no_tvm():
    code = (
        "import sys, reasoning_compiler.machine, reasoning_compiler.machine.doctor;"
        "print([m for m in ('tvm', 'tvm_ffi', 'xgboost', 'numpy') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


# -- the CPU -----------------------------------------------------------------------------------------------


def test_caches_as_linux_lists_them(tmp_path):
    # Two chiplets of two cores; the second level is shared by the two cores of a chiplet.
    for number in range(4):
        chiplet = "0-1" if number < 2 else "2-3"
        write(tmp_path / f"cpu{number}/topology/core_cpus_list", str(number))
        caches = [("1", "Data", "48K", str(number)), ("1", "Instruction", "32K", str(number))]
        caches += [("2", "Unified", "2048K", chiplet), ("3", "Unified", "32M", chiplet)]
        for index, values in enumerate(caches):
            for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
                write(tmp_path / f"cpu{number}/cache/index{index}/{name}", value)
            write(tmp_path / f"cpu{number}/cache/index{index}/coherency_line_size", "128")
    kib = 1024
    assert cpu.linux_caches([0, 1, 2, 3], cpu_dir=tmp_path) == cpu.Caches(48 * kib, 1024 * kib, 2 * 32 * kib * kib, 128)
    assert cpu.linux_caches([3], cpu_dir=tmp_path).l3_bytes == 32 * kib * kib


def test_caches_have_common_sizes_where_linux_hides_them(tmp_path):
    assert cpu.linux_caches([0], cpu_dir=tmp_path) == cpu.Caches()


@pytest.mark.parametrize(
    ("flag", "feature"),
    [
        ("avx512_vbmi2", "avx512vbmi2"),
        ("avx512f", "avx512f"),
        ("avx_vnni", "avxvnni"),
        ("amx_int8", "amx-int8"),
        ("sse4_2", "sse4.2"),
        ("abm", "lzcnt"),
        ("asimddp", "dotprod"),
        ("hypervisor", None),
    ],
)
def test_flags_by_the_names_of_llvm(flag, feature):
    assert cpu.llvm_feature(flag) == feature


@pytest.mark.parametrize(
    ("features", "unit"),
    [
        ({"sse2", "avx", "avx2", "avx512f"}, ("avx512", 64, 32)),
        ({"sse2", "avx", "avx2", "fma"}, ("avx2", 32, 16)),
        ({"sse2"}, ("sse", 16, 16)),
        ({"neon", "sve"}, ("neon", 16, 32)),
    ],
)
def test_vector_unit(features, unit):
    assert targets.vector_unit(features) == unit


@pytest.mark.parametrize(
    ("speedup", "fma_per_cycle"),
    [(8, 2), (7.6, 2), (10, 2), (16, 4), (15, 4), (4, 1), (5, 1), (0.9, 1)],  # latency × throughput
)
def test_fma_per_cycle(speedup, fma_per_cycle):
    assert peaks.fma_per_cycle(speedup) == fma_per_cycle


# -- the child process -------------------------------------------------------------------------------------


def test_a_child_answers():
    assert call_in_child("operator:add", [1], [2], timeout_secs=30) == [1, 2]


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        ("operator:truediv", (1, 0), "ZeroDivisionError: division by zero"),
        ("ctypes:string_at", (0,), "SIGSEGV"),
        ("os:_exit", (3,), "exit code 3"),
        ("time:sleep", (60,), "no answer within 0.5 s"),
    ],
)
def test_a_child_may_fail_in_any_way(function, args, words):
    with pytest.raises(ChildError, match=words):
        call_in_child(function, *args, timeout_secs=0.5 if function == "time:sleep" else 30)


# -- detecting and remembering -----------------------------------------------------------------------------


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """Replaces the measurement; holds the arguments of each."""
    calls = []
    monkeypatch.setenv("REASONC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "why_not_tvm", lambda: None)
    monkeypatch.setattr(probe, "call_in_child", lambda *args, **_: calls.append(args) or MEASURED)
    return calls


def test_this_machine_is_measured_once(probed, monkeypatch):
    first = machine.detect()
    assert machine.detect() == first
    assert len(probed) == 1
    assert first.measured and first.isa == "avx512" and first.peak_flops == 5.4e11
    assert first.name and json.loads(first.target)["mcpu"] == "znver5"
    machine.detect(refresh=True)
    assert len(probed) == 2
    monkeypatch.setattr(probe, "num_physical_cores", lambda: 77)
    assert machine.detect().num_cores == 77
    assert len(probed) == 3


def test_a_first_measurement_keeps_to_the_threads_of_a_run(probed, monkeypatch):
    monkeypatch.setattr(probe, "num_physical_cores", lambda: 8)
    part = machine.detect(threads=2)
    assert (probed[-1][1], part.num_cores, part.peak_flops) == (2, 8, 4 * 5.4e11)
    assert json.loads(part.target)["num-cores"] == 8
    assert machine.detect(threads=2) == part
    assert machine.detect().peak_flops == 5.4e11  # all cores are another measurement, and then known to all
    assert machine.detect(threads=2).peak_flops == 5.4e11
    assert [call[1] for call in probed] == [2, 8]


def test_a_damaged_memory_is_measured_again(probed, tmp_path):
    first = machine.detect()
    (file,) = (tmp_path / "cache").iterdir()
    for text in ("{", '{"name": 1}', "[]"):
        file.write_text(text)
        assert machine.detect() == first
    assert len(probed) == 4


def test_nowhere_to_remember_is_no_error(probed, monkeypatch, tmp_path):
    write(tmp_path / "file", "")
    monkeypatch.setenv("REASONC_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert machine.detect().measured


def test_a_disturbed_measurement_is_used_for_an_hour(probed, monkeypatch, tmp_path):
    monkeypatch.setitem(MEASURED, "disturbed", True)
    assert machine.detect().measured
    machine.detect()
    assert len(probed) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    os.utime(kept, (time.time() - 3601,) * 2)
    machine.detect()
    assert len(probed) == 2
    monkeypatch.setitem(MEASURED, "disturbed", False)
    machine.detect(refresh=True)
    machine.detect()
    assert len(probed) == 3, "one that was not disturbed is used from then on"


def test_the_load_of_others_is_what_is_neither_idle_nor_ours(monkeypatch):
    busy = namedtuple("busy", "user system idle steal")
    now = {"monotonic": 10.0, "process_time": 1.0, "cpu_times": busy(50.0, 5.0, 900.0, 0.0)}
    clocks = {name: partial(lambda key: now[key], name) for name in ("monotonic", "process_time")}
    monkeypatch.setattr(other_load, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(other_load.psutil, "cpu_times", lambda: now["cpu_times"])
    monkeypatch.setattr(other_load.psutil, "cpu_count", lambda: 4)
    load = other_load.OtherLoad()
    # In 2 seconds of 4 CPUs: 4.5 busy, 3 of them ours, and 0.5 stolen by the host.
    now |= {"monotonic": 12.0, "process_time": 4.0, "cpu_times": busy(54.0, 5.5, 903.0, 0.5)}
    assert load.share() == pytest.approx(2 / 8)


def test_a_failed_measurement_says_what_to_do(probed, monkeypatch):
    def fail(*args, **kwargs):
        raise ChildError("died of SIGILL")

    monkeypatch.setattr(probe, "call_in_child", fail)
    with pytest.raises(ReasoningCompilerError, match=r"died of SIGILL.*reasonc doctor"):
        machine.detect()


@pytest.mark.parametrize("gives", [True, False])
def test_tiles_are_a_feature_only_where_the_system_gives_them(tmp_path, monkeypatch, gives):
    info = tmp_path / "cpuinfo"
    info.write_text("model name : X\nflags : avx2 amx_bf16 amx_tile amx_int8\n")
    monkeypatch.setattr(cpu, "_CPUINFO", info)
    monkeypatch.setattr(cpu, "_gives_tiles", lambda: gives)
    amx = {"amx-bf16", "amx-int8", "amx-tile"}
    assert cpu.read_cpu().features == {"avx2"} | (amx if gives else set())


@pytest.mark.parametrize(("answer", "mask", "gives"), [(0, 1 << 18 | 7, True), (0, 7, False), (-1, 1 << 18, False)])
def test_what_the_system_says_of_tiles(answer, mask, gives):
    def syscall(number, code, supported):
        assert (number, code) == (158, 0x1021)
        supported._obj.value = mask
        return answer

    assert cpu._gives_tiles(syscall) is gives


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_no_system_gives_tiles_that_the_cpu_has_not():
    assert "amx_tile" in Path("/proc/cpuinfo").read_text() or not cpu._gives_tiles()


def test_cache_dir(monkeypatch):
    monkeypatch.delenv("REASONC_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert machine.cache_dir() == Path("/x/reasonc")
    monkeypatch.setenv("REASONC_CACHE_DIR", "/y")
    assert machine.cache_dir() == Path("/y")


# -- presets and fingerprints ------------------------------------------------------------------------------


def test_presets_hold_the_published_peaks():
    gflops = {name: round(preset.peak_flops / 1e9) for name, preset in machine.PRESETS.items()}
    paper = {"graviton2": 2560, "epyc-7r13": 5530, "m2-pro": 896, "core-i9": 1203, "xeon-e3": 448}
    assert gflops == paper | {"xeon-8480": 10752}
    assert machine.PRESET_NOTES.keys() == machine.PRESETS.keys()
    for name, preset in machine.PRESETS.items():
        assert preset.name == name and not preset.measured
        assert Machine.from_json(json.loads(json.dumps(preset.to_json()))) == preset


def test_an_unknown_preset_names_the_nearest():
    assert machine.preset("m2-pro") is machine.PRESETS["m2-pro"]
    with pytest.raises(UsageError, match=r"'Epyc'.*epyc-7r13"):
        machine.preset("Epyc")
    with pytest.raises(UsageError, match="known are graviton2, "):
        machine.preset("zzz")


def test_a_fingerprint_is_plain_json():
    print_ = machine.fingerprint(machine.preset("m2-pro"), 8)
    assert json.loads(json.dumps(print_)) == print_
    assert print_["threads"] == 8 and print_["versions"]["numpy"]
    assert machine.differences(print_, json.loads(json.dumps(print_))) == []


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"threads": 4}, ["threads: was 8, is 4"]),
        ({"cpu": "other"}, ["CPU: was m2-pro, is other"]),
        ({"kernel": "0.1", "os": "Plan 9"}, []),
    ],
)
def test_differences_that_count(change, lines):
    print_ = machine.fingerprint(machine.preset("m2-pro"), 8)
    assert machine.differences(print_, print_ | change) == lines


def test_versions_that_count():
    print_ = machine.fingerprint(machine.preset("m2-pro"), 8)
    other = print_ | {"versions": print_["versions"] | {"python": "4.0", "numpy": "9", "apache-tvm": "0.1"}}
    (line,) = machine.differences(print_, other)
    assert line.startswith("apache-tvm: was ") and line.endswith(" is 0.1")


def test_features_that_came_and_went():
    before = machine.preset("core-i9")
    features = ["avx", "avx2", "avx512f", "bmi", "bmi2", "f16c"]
    after = Machine.from_json(before.to_json() | {"features": features})
    lines = machine.differences(machine.fingerprint(before, 8), machine.fingerprint(after, 8))
    assert lines == ["CPU features: +avx512f -fma"]


def test_a_fingerprint_that_lacks_fields_differs():
    print_ = machine.fingerprint(machine.preset("m2-pro"), 8)
    assert "threads: was unknown, is 8" in machine.differences({}, print_)


# -- the doctor --------------------------------------------------------------------------------------------


def test_a_crashing_tvm_is_a_failed_check(monkeypatch):
    def crash(function, *args, timeout_secs):
        raise ChildError("died of SIGSEGV")

    monkeypatch.setattr(doctor, "call_in_child", crash)
    found = {check.name: check for check in doctor.checks()}
    assert not found["TVM"].ok and "SIGSEGV" in found["TVM"].detail
    assert "pip install" in found["TVM"].advice
    assert not found["XGBoost"].ok
    assert found["Python"].ok


def test_the_doctor_misses_a_compiler_and_a_cache(monkeypatch, tmp_path):
    write(tmp_path / "file", "")
    monkeypatch.setattr(doctor, "call_in_child", lambda *args, **kwargs: {"llvm": None})
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("REASONC_CACHE_DIR", str(tmp_path / "file" / "below"))
    found = {check.name: check for check in doctor.checks()}
    assert not found["C compiler"].ok and "no-such-compiler" in found["C compiler"].detail
    assert not found["cache"].ok and "REASONC_CACHE_DIR" in found["cache"].advice
    assert not found["TVM"].ok and "LLVM" in found["TVM"].detail


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

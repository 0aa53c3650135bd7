"""The README's two commands, word for word: the first one in a fresh environment, the second one as CI runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Returns the README's blocks of shell commands, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.strip() for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_ci_runs_the_readmes_command_for_the_tests() -> None:
    (command,) = [command for command in commands() if "pytest" in command]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.install
@pytest.mark.nightly
def test_the_main_command_in_a_fresh_environment(tmp_path: Path) -> None:
    clone, environment = tmp_path / "clone", tmp_path / "environment"
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TVM_", "VIRTUAL_ENV"))}
    env = kept | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    command = commands()[0]
    assert command.startswith("python3 -m pip install .") and "reasonc tune" in command
    done = subprocess.run(["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "speed-up over untuned: " in done.stdout

    (folder,) = (clone / "runs").iterdir()
    record = json.loads((folder / "best" / "program.json").read_text())
    assert record["node"] and record["measurement"]["verified"]
    report = subprocess.run(
        ["reasonc", "report", str(folder), "--json"], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(report.stdout)["speedup"] > 1
    assert json.loads(report.stdout)["library"] == str(folder / "best" / "kernel.so")

"""The examples run, as a user would run them, and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tvm

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "own_kernel.py": "gelu_layer: ",
    "use_library.py": "largest difference from NumPy: ",
    "metaschedule_builder.py": "the best schedule has ",
}


def run(*command, folder):
    # Other tests set this variable for their own process; a user starts without it.
    environment = {k: v for k, v in os.environ.items() if k != "TVM_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_is_run():
    assert sorted(SAYS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path):
    assert SAYS[name] in run(str(EXAMPLES / name), folder=tmp_path)


@pytest.mark.parametrize("page", ["README.md", "docs/python-api.md"])
def test_the_python_of_a_page_runs(page, tmp_path):
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    run("-c", "\n".join(blocks), folder=tmp_path)

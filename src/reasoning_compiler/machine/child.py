"""Calling a function in a fresh Python process, which may crash or hang without harm to the caller."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

# The child gets this process' import path before it imports what the working directory could shadow.
_CODE = """
import sys
num_paths = int(sys.argv[1])
sys.path[:] = sys.argv[2 : 2 + num_paths]
import importlib, json
module, function = sys.argv[2 + num_paths].split(":")
try:
    call = getattr(importlib.import_module(module), function)
    answer = {"result": call(*json.loads(sys.argv[3 + num_paths]))}
except Exception as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
print("\\n" + json.dumps(answer), flush=True)
"""


class ChildError(Exception):
    """The child process failed; the text says how: by which signal, after what time, or its last words."""


def call_in_child(function: str, *args: Any, timeout_secs: float) -> Any:
    """Returns what a function returns when a fresh Python process calls it.

    Args:
        function: its module and name, as in "package.module:function".
        args: values that JSON can carry, as must be the result.
        timeout_secs: the child is killed when it takes longer.

    Raises:
        ChildError: it raised, crashed, hung, or could not be started.
    """
    command = [sys.executable, "-c", _CODE, str(len(sys.path)), *sys.path, function, json.dumps(args)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_secs,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"no answer within {timeout_secs:g} seconds") from None
    except OSError as error:
        raise ChildError(f"Python could not be started: {error}") from None
    if done.returncode < 0:
        raise ChildError(f"died of {_signal_name(-done.returncode)}")
    if done.returncode > 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChildError(lines[-1])
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if "error" in answer:
        raise ChildError(answer["error"].strip().splitlines()[0])
    return answer["result"]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""What a program comes to in another process than the one that has made it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from reasoning_compiler.core.programs import Program

_CODE = """
import json, sys, tvm_ffi
from {module} import *
from reasoning_compiler.core.programs import Program
program = Program.from_json(json.loads(sys.argv[1]))
print(tvm_ffi.structural_hash({space}.schedule(program).mod))
"""


def schedule_hash(program: Program, module: str, space: str) -> int:
    """Returns the structural hash of a program's schedule, made from its record in a fresh process.

    Args:
        program: the program.
        module: a module of the tests, of which everything is imported.
        space: an expression for the program's space there.
    """
    folder = os.path.dirname(__file__)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *sys.path]), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _CODE.format(module=module, space=space), json.dumps(program.to_json())]
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

"""Runs code in fresh processes that have imported only torch, without waiting for that import.

A server process imports torch once and forks for each piece of code. So no code sees what other
code has imported, allocated or warned about.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Task:
    """Code for a fresh process, its environment variables, and the file for its output."""

    code: str
    output: str
    environment: dict[str, str] = field(default_factory=dict)


def run_fresh(code: str, **environment: str) -> str:
    """Runs code in a fresh process and returns its output, including warnings.

    Args:
        code: Python code. An exception in it fails the test.
        **environment: environment variables that are set before it runs.
    """
    with tempfile.NamedTemporaryFile("r", prefix="occvae-test-") as output:
        server = _server()
        server.stdin.write(json.dumps(asdict(Task(code, output.name, environment))) + "\n")
        server.stdin.flush()
        status, printed = server.stdout.readline().strip(), output.read()
    assert status == "0", printed
    return printed


@cache
def _server() -> subprocess.Popen:
    """Starts the server of this process. The server ends when its stdin is closed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fresh_process"],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve() -> None:
    import torch  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(Task(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(task: Task) -> None:
    """Runs the task and ends this process."""
    output = os.open(task.output, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(task.environment)
    warnings.simplefilter("always")
    status = 0
    try:
        exec(compile(task.code, "<fresh process>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()

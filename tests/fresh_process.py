"""Runs code in processes that have imported torch and nothing else, without waiting for the import.

A server imports torch once. It forks for each piece of code, so that no code sees what other code
imported, allocated or warned of.
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
    """What a fresh process runs, with which environment, and the file of all that it prints."""

    code: str
    output: str
    environment: dict[str, str] = field(default_factory=dict)


def run_fresh(code: str, **environment: str) -> str:
    """What the code prints, warnings included.

    Args:
        code: Python code. An exception in it fails the test.
        **environment: variables to set before it runs.
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
    """The server of this process. It ends when its input does."""
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

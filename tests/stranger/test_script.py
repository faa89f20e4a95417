"""Types the script of a new user into an environment that has the wheel and nothing else."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.docs.pages import ROOT, read_blocks
from tests.stranger.environment import Environment, create_environment, find_or_build_wheel
from tests.stranger.script import SCRIPT, Line

pytestmark = pytest.mark.slow
_NUMBERS = range(len(SCRIPT))


class Terminal:
    """Runs the lines of the script in their order, each once and only when it is asked for."""

    def __init__(self, environment: Environment):
        self.environment = environment
        self.results: list[tuple[int, str, str]] = []  # status, stdout and stderr of each line

    def result(self, number: int) -> tuple[int, str, str]:
        while len(self.results) <= number:
            line = SCRIPT[len(self.results)]
            is_python = line.typed.startswith(">>> ")
            self.results.append(self._python(line) if is_python else self._shell(line))
        return self.results[number]

    def _shell(self, line: Line) -> tuple[int, str, str]:
        ended = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.typed],
            cwd=self.environment.folder,
            env=self.environment.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout, ended.stderr

    def _python(self, line: Line) -> tuple[int, str, str]:
        self.session.stdin.write(json.dumps(line.typed.removeprefix(">>> ")) + "\n")
        self.session.stdin.flush()
        status, printed = json.loads(self.session.stdout.readline())
        return (status, "", printed) if status else (status, printed, "")

    @cached_property
    def session(self) -> subprocess.Popen:
        return subprocess.Popen(
            [str(self.environment.python), str(Path(__file__).with_name("session.py"))],
            cwd=self.environment.folder,
            env=self.environment.variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings
            text=True,
        )


@pytest.fixture(scope="module")
def terminal(tmp_path_factory) -> Iterator[Terminal]:
    root = tmp_path_factory.mktemp("stranger")
    folder = root / "home"
    folder.mkdir()
    write_files(folder)
    wheel = find_or_build_wheel(root / "wheel")
    terminal = Terminal(create_environment(root / "environment", folder, wheel))
    yield terminal
    terminal.session.stdin.close()
    terminal.session.wait()


def write_files(folder: Path) -> None:
    """Writes what the user has: a photograph, voxel grids, and the first example of the README."""
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).rectangle((30, 20, 66, 80), fill="brown")
    image.save(folder / "chair.jpg")
    voxels = np.zeros((24, 16, 16, 16), bool)
    for number, grid in enumerate(voxels):
        low = 1 + number % 6
        grid[low : 16 - low, 3:13, low : 16 - low] = True
    np.savez(folder / "boxes.npz", voxels=voxels)
    example = next(block for block in read_blocks(ROOT / "README.md") if block.language == "python")
    (folder / "readme.py").write_text(example.code)


@pytest.mark.parametrize("number", _NUMBERS, ids=[f"{i}: {SCRIPT[i].typed}" for i in _NUMBERS])
def test_the_line_does_what_the_user_expects(number, terminal):
    line = SCRIPT[number]
    status, output, errors = terminal.result(number)
    shown = f"{line.typed}\n{output}\n{errors}"
    assert status == line.status, shown
    assert "Traceback" not in errors and re.search(line.says, output + errors), shown
    if line.status:
        assert len(messages(errors)) == 1, shown


def messages(errors: str) -> list[str]:
    """Returns the lines without warnings, for example that other programs use the cores."""
    return [text for text in errors.splitlines() if not text.startswith("warning: ")]

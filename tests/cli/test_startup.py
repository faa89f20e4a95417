"""`occvae --help` answers quickly: commands import what they need when they run."""

import ast
from pathlib import Path

import pytest

from occvae import cli

FOLDER = Path(cli.__file__).parent
# Rooms that are light, or that `import occvae` loads anyway.
LIGHT = {"cli", "errors", "ops", "system"}


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: file.stem)
def test_a_command_imports_only_light_rooms_at_the_top(file):
    top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
    rooms = {node.module.split(".")[1] for node in top if node.module.startswith("occvae.")}
    assert rooms <= LIGHT

"""`occvae --help` is fast, because a command imports what it needs only when it runs."""

import ast
import sys
from pathlib import Path

import pytest

from occvae import cli

FOLDER = Path(cli.__file__).parent
LIGHT_SUBPACKAGES = {"cli", "errors", "system"}


def top_imports(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports outside functions."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize(
    "file", sorted(FOLDER.rglob("*.py")), ids=lambda file: str(file.relative_to(FOLDER))
)
def test_a_command_imports_only_light_modules_at_the_top(file):
    names = top_imports(file)
    subpackages = {name.split(".")[1] for name in names if name.startswith("occvae.")}
    others = {name.split(".")[0] for name in names} - {"occvae"}
    assert subpackages <= LIGHT_SUBPACKAGES
    assert others <= sys.stdlib_module_names

"""`occvae --help` is fast, because a command imports what it needs only when it runs."""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import occvae
from occvae import cli
from occvae.cli.main import create_parser
from occvae.cli.train import ARCHITECTURES, PRESETS
from tests.fresh_process import run_fresh

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


def test_no_help_imports_torch():
    code = (
        "import sys\nfrom occvae.cli.main import create_parser\n"
        "for parser in create_parser().all_parsers(): print(parser.format_help())\n"
        "assert not {'torch', 'scipy', 'deepspeed', 'timm'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: occvae data import meshes" in result.stdout


def test_help_lists_the_architectures_and_presets():
    """The help holds copies of both lists, because the registries import torch."""
    code = "from occvae.models import list_models; from occvae.models.presets import list_presets; "
    registered = run_fresh(code + "print(list_models(), [*list_presets()])")
    assert registered == f"{list(ARCHITECTURES)} {list(PRESETS)}\n"


def test_every_argument_is_explained():
    for parser in create_parser().all_parsers():
        for action in parser._actions:
            assert action.help or action.metavar, f"{parser.prog}: {action.dest}"
            if isinstance(action, argparse._SubParsersAction):
                assert all(entry.help for entry in action._choices_actions)
            else:
                assert action.help, f"{parser.prog}: {action.dest}"


@pytest.mark.parametrize("module", ["occvae", "occvae.cli.main"])
def test_modules_run_the_command(module):
    command = [sys.executable, "-m", module]
    result = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"occvae {occvae.__version__}\n")
    assert subprocess.run(command, capture_output=True).returncode == 2


def test_the_module_train_runs_the_command_train():
    command = [sys.executable, "-m", "occvae.train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "usage: occvae train" in result.stdout

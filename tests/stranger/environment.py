"""A fresh virtual environment that has occvae from a wheel only, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the working directory of its user."""

    root: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    def variables(self) -> dict[str, str]:
        """Environment variables of the user's shell, without paths of the checkout."""
        kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        return kept | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}


def find_or_build_wheel(folder: Path) -> Path:
    """Returns the wheel that OCCVAE_WHEEL names. Otherwise builds one into a folder."""
    if named := os.environ.get("OCCVAE_WHEEL"):
        return Path(named)
    command = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*_PIP, *command], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def create_environment(root: Path, folder: Path, wheel: Path) -> Environment:
    """Installs a wheel into a new environment that shares the dependencies of this one.

    PyMCubes is hidden, as on Python 3.13 and later.
    """
    venv.create(root, with_pip=False)
    environment = Environment(root, folder)
    bases = {"base": str(root), "platbase": str(root)}
    packages = Path(sysconfig.get_path("purelib", vars=bases))
    # Folders in a .pth file are searched, but their own .pth files are not run. So an editable
    # installation of occvae stays invisible.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "mcubes.py").write_text("raise ImportError('hidden by the test')")
    install = ["install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run([*_PIP, "--python", str(environment.python), *install], check=True)
    return environment

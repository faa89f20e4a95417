"""Kernels, meshing and models import on a machine that lacks what training needs."""

import subprocess
import sys

import pytest

_OPTIONAL = ("deepspeed", "timm", "torchvision", "trimesh", "mcubes", "h5py", "pydantic", "embreex")


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_needs_none_of_the_optional_packages():
    code = f"import sys; sys.modules.update(dict.fromkeys({_OPTIONAL!r})); import occvae"
    run_python(code)


@pytest.mark.parametrize("package", [name for name in _OPTIONAL if name != "torchvision"])
def test_import_loads_none_of_the_optional_packages(package):
    loaded = run_python(f"import sys, occvae; print({package!r} in sys.modules)")
    assert loaded.strip() == "False"

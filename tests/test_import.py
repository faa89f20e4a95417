"""Kernels, meshing and models can be imported without the packages that training needs."""

import json

import pytest

from tests.fresh_process import run_fresh

_OPTIONAL = ("deepspeed", "timm", "torchvision", "trimesh", "mcubes", "h5py", "pydantic", "embreex")
# Imports every public name, which is otherwise done at its first use. Public packages are left out,
# because occvae.metrics needs trimesh.
_IMPORT_ALL = "import occvae; [getattr(occvae, name) for name in occvae._HOMES]"


def test_import_needs_none_of_the_optional_packages():
    run_fresh(f"import sys; sys.modules.update(dict.fromkeys({_OPTIONAL!r})); {_IMPORT_ALL}")


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """Names of the modules that are loaded after all public names have been imported."""
    return json.loads(
        run_fresh(f"import json, sys; {_IMPORT_ALL}; print(json.dumps([*sys.modules]))")
    )


@pytest.mark.parametrize("package", [name for name in _OPTIONAL if name != "torchvision"])
def test_import_loads_none_of_the_optional_packages(loaded, package):
    assert "occvae.ops.mise" in loaded and package not in loaded

"""Kernels, meshing and models import on a machine that lacks what training needs."""

import json

import pytest

from tests.fresh_process import run_fresh

_OPTIONAL = ("deepspeed", "timm", "torchvision", "trimesh", "mcubes", "h5py", "pydantic", "embreex")
# Public names are imported when they are first used. The package of metrics needs trimesh.
_IMPORT_ALL = "import occvae; [getattr(occvae, name) for name in occvae._HOMES]"


def test_import_needs_none_of_the_optional_packages():
    run_fresh(f"import sys; sys.modules.update(dict.fromkeys({_OPTIONAL!r})); {_IMPORT_ALL}")


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """The modules of a process that has imported all public names."""
    return json.loads(
        run_fresh(f"import json, sys; {_IMPORT_ALL}; print(json.dumps([*sys.modules]))")
    )


@pytest.mark.parametrize("package", [name for name in _OPTIONAL if name != "torchvision"])
def test_import_loads_none_of_the_optional_packages(loaded, package):
    assert "occvae.ops.mise" in loaded and package not in loaded

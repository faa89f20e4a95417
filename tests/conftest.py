"""Devices and shared data. CUDA variants are skipped by name without a GPU, never silently."""

import os
from pathlib import Path

import pytest
import torch

from occvae import _extension
from tests.tiny import build_tiny_dataset

# For @pytest.mark.parametrize("device", DEVICES).
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda))

needs_kernels = pytest.mark.skipif(
    _extension.status()["_C"] is not None, reason="occvae._C is not built"
)
# For @pytest.mark.parametrize("backend", BACKENDS), or the fixture.
BACKENDS = ("reference", pytest.param("native", marks=needs_kernels))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def _cuda_obstacle() -> str | None:
    if not torch.cuda.is_available():
        return "no GPU"
    if reason := _extension.status()["_C_cuda"]:
        return f"occvae._C_cuda is {reason}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not any(item.iter_markers("needs_cuda")):
        return
    obstacle = _cuda_obstacle()
    if obstacle is None:
        return
    if os.environ.get("OCCVAE_REQUIRE_CUDA") == "1":
        pytest.fail(f"OCCVAE_REQUIRE_CUDA=1, but {obstacle}")
    pytest.skip(f"needs CUDA: {obstacle}")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """Folder of a dataset of 64 + 32 boxes."""
    root = tmp_path_factory.mktemp("tiny")
    build_tiny_dataset(root)
    return root / "data"


@pytest.fixture(scope="session")
def tiny_voxel_dataset(tmp_path_factory) -> Path:
    """The same with grids of 32^3, which the smallest voxel models make."""
    root = tmp_path_factory.mktemp("tiny_voxels")
    build_tiny_dataset(root, voxel_resolution=32)
    return root / "data"

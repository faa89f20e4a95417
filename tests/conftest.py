"""Devices and shared datasets. Without a GPU, CUDA variants are reported as skipped."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if os.environ.get("OCCVAE_TEST_EMULATED_CUDA") == "1":  # before occvae loads its kernels
    from tests.cuda_emulator.build import install

    install()

from occvae.ops import _extension

# Convolutions of PyTorch on CUDA round their inputs to TF32 by default.
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False

# For @pytest.mark.parametrize("device", DEVICES).
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda))

needs_kernels = pytest.mark.skipif(
    _extension.status()["_C"] is not None, reason="occvae._C is not built"
)
EMULATED_CUDA = os.environ.get("OCCVAE_TEST_EMULATED_CUDA") == "1"
# Tests that are meaningless or take minutes if the CUDA sources run on the CPU.
NOT_EMULATED = {
    "test_every_instruction_set_is_exact": "is about CPU kernels",
    "test_any_number_of_threads_gives_the_same_result": "is about CPU kernels",
    "test_many_samples_are_exact": "has 70,000 blocks",
    "test_opcheck_of_packing": "is about the layouts of a device",
    "test_the_kernel_refuses_offsets_that_do_not_fit": "is about offsets on the CPU",
    "test_the_kernel_refuses_weights_of_another_precision": "is about layouts of the CPU",
}

# For @pytest.mark.parametrize("backend", BACKENDS), or the fixture.
BACKENDS = ("reference", pytest.param("native", marks=needs_kernels))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Moves files with slow tests to the front, so that two workers end at about the same time.

    With emulated CUDA, keeps only the tests that run its kernels.
    """
    if EMULATED_CUDA:
        without = [item for item in items if _runs_no_emulated_kernel(item)]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


def pytest_sessionstart() -> None:
    """Limits the kernel of query_occupancy on CUDA to the number OCCVAE_TEST_QUERY_KERNEL."""
    limit = os.environ.get("OCCVAE_TEST_QUERY_KERNEL")
    if limit and _cuda_obstacle() is None:
        torch.ops.occvae._cuda_query_kernel(int(limit))


def pytest_collection_finish() -> None:
    """Freezes the objects that exist now, so that each garbage collection is faster."""
    gc.collect()
    gc.freeze()


def _runs_no_emulated_kernel(item: pytest.Item) -> bool:
    """Whether a test needs a real GPU or uses a reference implementation."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return bool(item.get_closest_marker("needs_cuda")) or parameters.get("backend") == "reference"


def _cuda_obstacle() -> str | None:
    if not torch.cuda.is_available():
        return "no GPU"
    if reason := _extension.status()["_C_cuda"]:
        return f"occvae._C_cuda is {reason}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if EMULATED_CUDA and (reason := NOT_EMULATED.get(item.originalname)):
        pytest.skip(f"not with emulated CUDA: {item.originalname} {reason}")
    if not any(item.iter_markers("needs_cuda")):
        return
    obstacle = _cuda_obstacle()
    if obstacle is None:
        return
    if os.environ.get("OCCVAE_REQUIRE_CUDA") == "1":
        pytest.fail(f"OCCVAE_REQUIRE_CUDA=1, but {obstacle}")
    pytest.skip(f"needs CUDA: {obstacle}")


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """Folder of a dataset of boxes, 64 to train and 32 to validate."""
    from tests.tiny import build_tiny_dataset  # tests of kernels do not need its imports

    root = tmp_path_factory.mktemp("tiny")
    build_tiny_dataset(root)
    return root / "data"


@pytest.fixture(scope="session")
def tiny_voxel_dataset(tmp_path_factory) -> Path:
    """Folder of the same dataset with voxels of 32^3, the resolution of the smallest models."""
    from tests.tiny import build_tiny_dataset

    root = tmp_path_factory.mktemp("tiny_voxels")
    build_tiny_dataset(root, voxel_resolution=32)
    return root / "data"


@pytest.fixture(scope="session")
def tiny_cloud_dataset(tmp_path_factory) -> Path:
    """Folder of the dataset of boxes with surface points in all splits."""
    from tests.tiny import build_tiny_dataset

    root = tmp_path_factory.mktemp("tiny_clouds")
    build_tiny_dataset(root, training_surface=True)
    return root / "data"

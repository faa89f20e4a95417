"""Tests that CUDA and CPU kernels of MISE and marching cubes give the same bits in the same order.

With a GPU both run here. With emulated CUDA kernels, the CPU kernels run in another process.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from tests.fields import gyroid, lattice_hash, sphere, thin_chair, torus

EMULATED = os.environ.get("OCCVAE_TEST_EMULATED_CUDA") == "1"


def rounded(field, dtype, level=0.0):
    return lambda points, shape_index: (field(points, shape_index) + level).to(dtype)


def balls(points, shape_index):
    return torch.tensor([0.2, 0.35, 0.7])[shape_index] - points.norm(dim=1)


# field, resolution, coarse_resolution, other options of mise()
CASES = {
    "sphere": (sphere(), 64, 8, {}),
    "torus from 12": (torus(), 96, 12, {}),
    "chair": (thin_chair, 128, 16, {}),
    "gyroid through the faces": (gyroid, 32, 4, {}),
    "everywhere": (lambda points, _: torch.ones(len(points)), 32, 4, {}),
    "nowhere": (lambda points, _: -torch.ones(len(points)), 32, 4, {}),
    "one level": (sphere(), 24, 24, {}),
    "three shapes": (balls, 48, 6, {"num_shapes": 3}),
    "half precision": (rounded(sphere(), torch.float16, 0.25), 64, 16, {"level": 0.25}),
    "bfloat16": (rounded(torus(), torch.bfloat16), 64, 16, {}),
    "double precision": (rounded(torus(), torch.float64), 32, 8, {"bounds": (-0.6, 0.7)}),
    "noise": (lattice_hash(3, 32, 0.2, tied=0.01), 32, 4, {"num_shapes": 2}),
    "ties": (lattice_hash(5, 40, 0.05, tied=0.05), 40, 5, {}),
}


def run(name: str, device: str) -> dict[str, Tensor]:
    """All results of mise() and marching_cubes(). The field is always computed on the CPU."""
    field, resolution, coarse_resolution, options = CASES[name]

    def on_cpu(points, shape_index):
        return field(points.cpu(), shape_index.cpu()).to(points.device)

    sizes = {"resolution": resolution, "coarse_resolution": coarse_resolution}
    grid = mise(on_cpu, **sizes, **options, device=device, backend="native")
    plain = marching_cubes(grid, backend="native")
    # Marching cubes must not depend on the order of points.
    order = torch.randperm(len(grid.points), generator=torch.Generator().manual_seed(0))
    order = order.to(device)
    parts = {
        part: getattr(grid, part)[order].contiguous()
        for part in ("points", "values", "shape_index")
    }
    shared = {"bounds": grid.bounds, "level": grid.level, "num_shapes": grid.num_shapes}
    shuffled = SparseGrid(**parts, rounds=grid.rounds, **sizes, **shared)
    refined = marching_cubes(shuffled, field=on_cpu, refine_vertices=1, backend="native")
    found = {"points": grid.points, "values": grid.values, "shapes": grid.shape_index}
    for kind, meshes in (("plain", plain), ("refined", refined)):
        for shape, (vertices, faces) in enumerate(meshes):
            found |= {f"{kind} vertices {shape}": vertices, f"{kind} faces {shape}": faces}
    return found


def digests(name: str, device: str) -> dict[str, str]:
    return {
        key: f"{tuple(part.shape)} {hashlib.sha256(_bytes(part)).hexdigest()}"
        for key, part in run(name, device).items()
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def of_the_cpu() -> dict[str, dict[str, str]]:
    if not EMULATED:
        return {name: digests(name, "cpu") for name in CASES}
    # Without the sanitizer, which is for the emulated kernels only and slow.
    environment = os.environ | {"OCCVAE_TEST_EMULATED_CUDA": "0", "LD_PRELOAD": ""}
    command = [sys.executable, "-m", "tests.ops.test_devices_agree"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda", marks=pytest.mark.needs_cuda),
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(not EMULATED, reason="OCCVAE_TEST_EMULATED_CUDA is not 1"),
            id="emulated",
        ),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_devices_give_the_same_bits_in_the_same_order(name, device, of_the_cpu):
    found = digests(name, device)
    assert found == of_the_cpu[name]
    for key in found:
        if key.startswith("plain faces"):
            assert found[key] == found[key.replace("plain", "refined")]


if __name__ == "__main__":
    print(json.dumps({name: digests(name, "cpu") for name in CASES}))

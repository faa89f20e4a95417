"""Tests that lattice points get their world coordinates in few operations, and exactly."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from occvae.ops.lattice import _MOST_TABLE_CELLS, DEFAULT_BOUNDS, Lattice

CUBES = [DEFAULT_BOUNDS, (-0.6, 0.7)]
BOXES = [((-0.5, -0.5, -0.25), (0.5, 0.3, 0.25)), ((1.0, -2.0, 0.0), (1.31, -1.0, 0.77))]


class CountedOps(TorchDispatchMode):
    """Names the operations of PyTorch that are more than a view."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and func.overloadpacket is not torch.ops.aten._unsafe_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def some_points(resolution: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0, resolution + 1, (5000, 3), generator=generator, dtype=torch.int32)
    points[:2] = torch.tensor([[0], [resolution]], dtype=torch.int32)
    return points


@pytest.mark.parametrize("resolution", [4, 96, 256, 1000, _MOST_TABLE_CELLS, 2**17])
@pytest.mark.parametrize("bounds", CUBES + BOXES)
def test_points_get_the_bits_of_the_formula(bounds, resolution):
    lattice, points = Lattice(resolution, bounds), some_points(resolution)
    assert torch.equal(lattice.points_to_world(points), lattice.to_world(points))


@pytest.mark.parametrize(
    ("bounds", "expected"), [(CUBES[0], ["index_select"]), (BOXES[0], ["add", "index_select"])]
)
def test_points_are_converted_in_one_operation_or_two_in_a_box(bounds, expected):
    lattice, points = Lattice(256, bounds), some_points(256)
    lattice.points_to_world(points)  # makes the table
    with CountedOps() as counted:
        lattice.points_to_world(points)
    assert counted.names == expected


def test_no_points_are_converted():
    assert Lattice(8, DEFAULT_BOUNDS).points_to_world(some_points(8)[:0]).shape == (0, 3)

"""Tests that a logit of query_triplane depends on its point, shape and weights only."""

import pytest
import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops.query_points import PRECISIONS
from occvae.ops.query_triplane import PackedTriplane, query_triplane
from tests.conftest import needs_kernels
from tests.ops.test_query_triplane import overflowing
from tests.ops.triplane_oracle import Triplane, random_points


@pytest.fixture(params=[pytest.param(isa, marks=needs_kernels) for isa in _extension.ISA_NAMES])
def isa(request: pytest.FixtureRequest):
    """Limits kernels to each instruction set. One the machine lacks acts as the next lower one."""
    with _extension.limit_cpu_isa(request.param):
        yield request.param


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
class TestBatchInvariance:
    """A point has bit for bit the same value, whatever other points surround it."""

    @pytest.fixture
    def packed(self, isa, precision, layers) -> PackedTriplane:
        return Triplane.random(96, layers).pack(precision, "native")

    @pytest.fixture
    def points(self) -> Tensor:
        return random_points(1, 431)

    def test_values_do_not_depend_on_the_position(self, packed, points):
        expected = query_triplane(points, packed)
        order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(0))
        assert torch.equal(query_triplane(points[:, order], packed), expected[:, order])

    def test_values_do_not_depend_on_the_number_of_points(self, packed, points):
        expected = query_triplane(points, packed)
        for count in range(51):
            assert torch.equal(query_triplane(points[:, :count], packed), expected[:, :count])

    @pytest.mark.parametrize("chunk", [1, 13, 200])
    def test_values_do_not_depend_on_chunks(self, packed, points, chunk):
        parts = [query_triplane(part, packed) for part in points.split(chunk, dim=1)]
        assert torch.equal(torch.cat(parts, dim=1), query_triplane(points, packed))

    def test_values_do_not_depend_on_the_number_of_threads(self, packed, points, restored_threads):
        expected = query_triplane(points, packed)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert torch.equal(query_triplane(points, packed), expected)

    def test_values_do_not_depend_on_other_shapes(self, isa, precision, layers, points):
        triplane = Triplane.random(96, layers, shapes=5)
        together = query_triplane(points.expand(5, -1, -1), triplane.pack(precision, "native"))
        for shape in range(5):
            alone = Triplane(triplane.planes[shape : shape + 1], *triplane.parts[1:])
            packed = alone.pack(precision, "native")
            assert torch.equal(together[shape], query_triplane(points, packed)[0])


def test_the_range_guard_acts_on_points_not_tiles(isa):
    packed, points = overflowing().pack("fp16", "native"), random_points(1, 300)
    together = query_triplane(points, packed)
    alone = [query_triplane(points[:, i : i + 1], packed) for i in range(300)]
    assert torch.equal(together, torch.cat(alone, dim=1))
